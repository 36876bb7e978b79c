"""Label files, and the coloured masks that CVAT exports as "Segmentation mask 1.1"."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from perception.data.annotation.answers import Answer, Size, class_id, label_file
from perception.data.decoding import BadFrame, decode_image
from perception.data.taxonomies import Taxonomy

LABELS, MASKS, LABEL_MAP = "labels", "SegmentationClass", "labelmap.txt"


def label_png(name: str, read: Callable[[], bytes], path: Path) -> Answer:
    """Return the answer of a label file, which holds values of the taxonomy."""
    return Answer(image=name, kind="label file", label=lambda _size, _taxonomy: read(), files=(path,))


def colored_mask(name: str, read: Callable[[], bytes], colors: Mapping[int, str], path: Path, where: str) -> Answer:
    """Return the answer of a picture in whose colours classes are drawn."""
    return Answer(
        image=name, kind="segmentation mask", label=partial(_label_of_colors, read, colors, where), files=(path,)
    )


def read_label_map(data: bytes, where: str) -> dict[int, str]:
    """Return the class of each colour, as one number, of a labelmap.txt: lines `name:red,green,blue::`."""
    colors: dict[int, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        try:
            red, green, blue = (int(value) for value in rest.split(":")[0].split(","))
        except ValueError:
            raise BadFrame(where, f"line {line!r} names no colour", "export it again") from None
        colors[_as_number(red, green, blue)] = name
    return colors


def _as_number(red: int, green: int, blue: int) -> int:
    return (red << 16) + (green << 8) + blue


def _label_of_colors(
    read: Callable[[], bytes], colors: Mapping[int, str], where: str, size: Size, taxonomy: Taxonomy
) -> bytes:
    picture = decode_image(read(), where)
    if picture.shape[:2] != size:
        found = f"mask is {picture.shape[0]}x{picture.shape[1]} px, its image {size[0]}x{size[1]} px"
        raise BadFrame(where, found, "label the image at its own size")
    numbers = picture.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    drawn, places = np.unique(numbers, return_inverse=True)
    unknown = [number for number in drawn.tolist() if number not in colors]
    if unknown:
        raise BadFrame(where, f"colour #{unknown[0]:06x} is not in {LABEL_MAP}", "export it again")
    ids = np.array([class_id(colors[number], taxonomy, where) for number in drawn.tolist()], np.uint8)
    return label_file(ids[places].reshape(size), taxonomy)
