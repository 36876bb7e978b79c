"""Cityscapes: leftImg8bit and gtFine."""

import re
from collections.abc import Iterator
from pathlib import Path

from perception.data.files import names_in
from perception.data.readers import layout
from perception.errors import InputError

_SPLITS = ("train", "val", "test")
_ENDINGS = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds")


def cityscapes_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_labelIds.png and instanceIds.

    A drive is CITY_SEQUENCE. All of Cityscapes was filmed by day in cities by the left camera of a pair.
    """
    layout.check_folder(root)
    pictures = root / "leftImg8bit"
    layout.check_folder(pictures, "a Cityscapes folder holds leftImg8bit/ and gtFine/")
    for name in layout.chosen_splits(pictures, split, _SPLITS):
        cities = names_in(pictures / name, folders=True)
        layout.check_no_other_folders(root / "gtFine" / name, cities, "city")
        for city in cities:
            yield from _cityscapes_city(root, name, city, labels_required)


def _cityscapes_city(root: Path, split: str, city: str, labels_required: bool) -> Iterator[layout.RawFrame]:
    pictures, truth = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    files = layout.frame_files(pictures, truth, labels_required, instances=truth, endings=_ENDINGS)
    for stem, paths in files.items():
        yield layout.RawFrame(
            frame_id=layout.frame_id_of(f"cityscapes_{stem}"),
            drive_id=_cityscapes_drive(stem, paths["image_path"]),
            **paths,
            camera="left",
            time_of_day="day",
            scene="urban",
        )


def _cityscapes_drive(stem: str, path: Path) -> str:
    match = re.fullmatch(r"(.+_\d+)_\d+", stem)
    if match is None:
        raise InputError(f"{path}: name must be CITY_SEQUENCE_FRAME{_ENDINGS[0]}.png; rename or remove it")
    return match[1]
