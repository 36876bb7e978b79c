"""Classification sets of image files: folders by class as ImageNet's, and ICDAR's character crops."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.data.classification import labelled
from perception.data.decoding import BadFrame, decode_image
from perception.data.files import names_in, relative_parts
from perception.errors import InputError

_SUFFIXES = (".jpg", ".jpeg", ".png")
_XML_BYTES_LIMIT = 2**27
ICDAR_CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """List image files with their classes.

    labels: (file,) int64, ids that count from 0. classes: names in the order of their ids.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)


def list_class_folders(folder: Path, part: str) -> LabelledFiles:
    """List FOLDER/PART/CLASS/*.JPEG as ImageNet is unpacked (train/n01440764/...); classes are sorted by name.

    The classes are those of PART alone. Raises InputError for a folder without classes or a class without images.
    """
    root = folder / part
    if part in ("", ".", "..") or Path(part).name != part or not root.is_dir():
        raise InputError(f"{root}: folder is missing; give the folder that holds the part, such as train")
    classes = names_in(root, folders=True)
    if not classes:
        raise InputError(f"{root}: folder is empty: it holds no folder a class; add them")
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        files = [file for file in names_in(root / name) if file.lower().endswith(_SUFFIXES)]
        if not files:
            raise InputError(f"{root / name}: class has no images; add them or remove the folder")
        paths += [root / name / file for file in files]
        labels += [number] * len(files)
    return LabelledFiles(tuple(paths), np.array(labels, np.int64), tuple(classes))


def list_icdar_characters(folder: Path) -> LabelledFiles:
    """List the crops of ICDAR 2003's character recognition: char.xml names file and character of each.

    The 36 classes are digits and letters without regard to case; crops of other characters are left out.
    Raises InputError for a file that is no such list or names a crop outside its folder.
    """
    listing = labelled.checked_file(folder / "char.xml", "give the folder of the data set", _XML_BYTES_LIMIT)
    paths: list[Path] = []
    labels: list[int] = []
    for entry in _parsed(listing).iter("image"):
        name, tag = entry.get("file"), entry.get("tag")
        if not name or tag is None:
            raise labelled.damaged(listing, "an image has no file or no tag")
        if tag.upper() not in ICDAR_CLASSES:
            continue
        paths.append(_inside(folder, name, listing))
        labels.append(ICDAR_CLASSES.index(tag.upper()))
    if not paths:
        raise labelled.damaged(listing, "names no digits or letters")
    return LabelledFiles(tuple(paths), np.array(labels, np.int64), ICDAR_CLASSES)


def load_files(files: LabelledFiles, size_px: int) -> labelled.LabelledImages:
    """Decode listed files as squares of size_px: the shorter side is scaled to it, the middle is cut out.

    Raises InputError for a size out of range and BadFrame for a file that cannot be decoded.
    """
    if not 1 <= size_px <= 4096:
        raise InputError(f"size_px is {size_px}, must lie in 1..4096; change it")
    images = np.empty((len(files), size_px, size_px, 3), np.uint8)
    for number, path in enumerate(files.paths):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadFrame(path, f"cannot be read ({error.strerror})", "copy it again") from None
        images[number] = _square(decode_image(data, path, upright=False), size_px)
    return labelled.labelled_images(images, files.labels, files.classes, files.paths[0].parent)


def read_class_folders(folder: Path, part: str, size_px: int = 64) -> labelled.LabelledImages:
    """Read a part of folders by class, such as ImageNet's, as squares; raises as list_class_folders and load_files."""
    return load_files(list_class_folders(folder, part), size_px)


def read_icdar_characters(folder: Path, part: str, size_px: int = 24) -> labelled.LabelledImages:
    """Read the crops in FOLDER/PART (`train` or `test`) as squares; raises as list_icdar_characters and load_files."""
    return load_files(list_icdar_characters(folder / labelled.chosen_part(part, ("train", "test"))), size_px)


def _square(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(cut.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _parsed(path: Path) -> ElementTree.Element:
    data = path.read_bytes()
    # Entities can multiply into any size; no such list declares one.
    if re.search(rb"<!(DOCTYPE|ENTITY)", data, re.IGNORECASE) or b"\0" in data[:64]:
        raise labelled.damaged(path, "declares a document type, which no list of characters does")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise labelled.damaged(path, f"not readable as XML ({error})") from None


def _inside(folder: Path, name: str, listing: Path) -> Path:
    try:
        return folder.joinpath(*relative_parts(name))
    except ValueError:
        raise labelled.damaged(listing, f"file {name!r} leads out of the folder") from None
