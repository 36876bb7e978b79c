"""What annotators answer about an image, whatever tool they used: shapes of classes that become one label, and image tags."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.data.conditions import CONDITIONS
from perception.data.decoding import BadFrame
from perception.data.detection.coco import whole_number
from perception.data.taxonomies import IGNORE, Taxonomy, raw_values

Size = tuple[int, int]  # height, width in pixels
UNKNOWN = "unknown"  # what an annotator says who cannot tell
_IGNORED_NAMES = ("unlabeled", "ignore", "void", "background", "out_of_roi", "ego_vehicle", "rectification_border")
_FARTHEST_PX = 1e6
_ROUNDING_PX = 1e-6  # what percents and decimals lose on the way


@dataclass(frozen=True)
class Shape:
    """Hold one shape of an image: its class as the annotator wrote it, and how it is drawn at the image's size."""

    class_name: str
    draw: Callable[[Size], NDArray[np.bool_]]  # raises BadFrame for one that cannot be drawn


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Hold what a file says about one image.

    image: its name, as the tool writes it. label: gives the bytes of a label file of a size and taxonomy, raises BadFrame.
    tags: by condition, as they were written. annotator, moment: as far as the file tells them. files: that it was read from.
    """

    image: str
    kind: str
    label: Callable[[Size, Taxonomy], bytes]
    files: tuple[Path, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    annotator: str | None = None
    moment: datetime | None = None


def broken(image: str, kind: str, path: Path, problem: BadFrame) -> Answer:
    """Return the answer of an image whose entry cannot be read: it costs its own frame only."""

    def refuse(_size: Size, _taxonomy: Taxonomy) -> bytes:
        raise problem

    return Answer(image=image, kind=kind, label=refuse, files=(path,))


def stated_size(height: object, width: object) -> Size | None:
    """Return an image's size as a file states it; None where it does not."""
    rows, columns = whole_number(height), whole_number(width)
    return None if rows is None or columns is None else (rows, columns)


def label_of_shapes(shapes: Sequence[Shape], stated: Size | None, where: str, size: Size, taxonomy: Taxonomy) -> bytes:
    """Draw shapes in their order, later ones over earlier ones; what none covers is ignored. Returns a label file.

    stated: the image's size as the tool has it. Raises BadFrame for another size, an unknown class, a shape that cannot be drawn.
    """
    if stated not in (None, size):
        found = f"size {stated[0]}x{stated[1]} is not its image's {size[0]}x{size[1]}"
        raise BadFrame(where, found, "label the image at its own size")
    label = np.full(size, IGNORE, np.uint8)
    for shape in shapes:
        label[shape.draw(size)] = class_id(shape.class_name, taxonomy, where)
    return label_file(label, taxonomy)


def label_file(label: NDArray[np.uint8], taxonomy: Taxonomy) -> bytes:
    """Return class ids, (height, width) uint8, as the bytes of a label file."""
    done, data = cv2.imencode(".png", raw_values(label, taxonomy))
    assert done, f"cv2 cannot encode a label of {label.shape}"
    return data.tobytes()


def class_id(name: str, taxonomy: Taxonomy, where: str) -> int:
    """Find a class by its name; Cityscapes writes "traffic sign", and "cargroup" for cars that cannot be told apart."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    for candidate in (plain, plain.removesuffix("group")):
        if candidate in taxonomy.classes:
            return taxonomy.classes.index(candidate)
    if plain in _IGNORED_NAMES:
        return IGNORE
    raise BadFrame(where, f"label {name!r} is no class of {taxonomy.name}", f"use one of {', '.join(taxonomy.classes)}")


def polygon(class_name: str, rings: Iterable[Any], where: str) -> Shape:
    """Return a shape of outlines, each a list of [x, y] in pixels."""
    return Shape(class_name, lambda size: _filled([_corners(ring, where) for ring in rings], size))


def no_outline(class_name: str, what: str, where: str) -> Shape:
    """Return a shape that cannot be drawn, because it is no outline of the object."""

    def refuse(_size: Size) -> NDArray[np.bool_]:
        raise BadFrame(where, f"{what} is no outline", "outline the object, or paint it")

    return Shape(class_name, refuse)


def _filled(outlines: Sequence[NDArray[np.int32]], size: Size) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [outline], 1)
    return mask.astype(np.bool_)


def _corners(points: Any, where: str) -> NDArray[np.int32]:
    """Return the pixels in which a polygon's corners lie: (corner, 2) int32, x before y; pixel 0 reaches from 0 to 1."""
    try:
        corners = np.asarray(points, dtype=np.float64)
        well_formed = corners.ndim == 2 and corners.shape[1] == 2 and len(corners) >= 3
    except (ValueError, TypeError, OverflowError):
        well_formed = False
    if not well_formed or not np.isfinite(corners).all() or np.abs(corners).max() > _FARTHEST_PX:
        raise BadFrame(where, "a polygon must be at least three [x, y] corners", "draw the object again")
    return np.floor(corners + _ROUNDING_PX).astype(np.int32)


def known_tags(tags: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the image tags that say something; raises BadFrame for a word that the condition does not know."""
    said = {name: value for name, value in tags.items() if name in CONDITIONS and value not in ("", UNKNOWN)}
    for name, value in said.items():
        if value not in CONDITIONS[name]:
            raise BadFrame(where, f"{name} is tagged {value!r}", f"use one of {', '.join(CONDITIONS[name])}, {UNKNOWN}")
    return said


def moment_of(text: object) -> datetime | None:
    """Return a time as tools write it, in UTC where it tells no zone; None for what is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
