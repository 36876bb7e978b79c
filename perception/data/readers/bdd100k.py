"""BDD100k: the 10k frames with semantic masks, and the scene attributes of its JSON files."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perception.data.files import named_stem
from perception.data.json_files import read_json
from perception.data.readers.layout import RawFrame, check_folder, chosen_splits, frame_files, frame_id_of
from perception.errors import InputError

_SPLITS = ("train", "val", "test")
BOXES_2018 = "labels/bdd100k_labels_images_{}.json"
# Files that hold attributes, the smallest first; the frames of one that is absent stay without conditions.
_ATTRIBUTE_FILES = ("labels/sem_seg/polygons/sem_seg_{}.json", "labels/det_20/det_{}.json", BOXES_2018)
# Images, masks and the ending of a mask's name, as released in 2020 and at first, in 2018.
_RELEASES = (("images/10k", "labels/sem_seg/masks", ""), ("seg/images", "seg/labels", "_train_id"))
# The values that doc.bdd100k.com lists; None where the manifest has no such word.
TIMES_OF_DAY = {"daytime": "day", "night": "night", "dawn/dusk": "twilight", "undefined": None}
WEATHERS = {
    "clear": "clear",
    "partly cloudy": "cloudy",
    "overcast": "cloudy",
    "rainy": "rain",
    "snowy": "snow",
    "foggy": "fog",
    "undefined": None,
}
SCENES = {
    "city street": "urban",
    "residential": "urban",
    "highway": "freeway",
    "parking lot": None,
    "gas stations": None,
    "tunnel": None,
    "undefined": None,
}
_VOCABULARIES = {"timeofday": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES}
_VIDEO = re.compile(r"([0-9a-f]{8}-[0-9a-f]{8})(-\d{7})?")


def bdd100k_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[RawFrame]:
    """List images/10k/SPLIT/NAME.jpg with labels/sem_seg/masks/SPLIT/NAME.png and the attributes of its JSON files.

    The first release has seg/images/SPLIT/NAME.jpg and seg/labels/SPLIT/NAME_train_id.png in their place.
    A drive is the video that a frame was taken from, by its name.
    """
    check_folder(root)
    place, masks, ending = next((each for each in _RELEASES if (root / each[0]).is_dir()), _RELEASES[0])
    pictures = root / place
    check_folder(pictures, "a BDD100k folder holds images/10k/ and labels/sem_seg/masks/")
    for name in chosen_splits(pictures, split, _SPLITS):
        truth, endings = root / masks / name, ("", ending, "")
        files = frame_files(pictures / name, truth, labels_required, (".jpg",), endings=endings)
        attributes = read_attributes([root / file.format(name) for file in _ATTRIBUTE_FILES])
        for stem, paths in files.items():
            about = paths | attributes.get(stem, {})
            yield RawFrame(frame_id=frame_id_of(f"bdd100k_{stem}"), drive_id=video_of(stem), **about)


def video_of(stem: str) -> str:
    """Name the video that an image or a frame of a sequence belongs to."""
    match = _VIDEO.fullmatch(stem)
    return match[1] if match else stem


def read_attributes(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Read the conditions of frames by stem: time_of_day, weather and scene in the manifest's words.

    A file that is absent is left out; the first that names a frame counts. Raises InputError for one that cannot be
    read or holds a word that BDD100k does not have.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if path.exists():
            for frame in frame_list(path):
                found.setdefault(named_stem(frame["name"]), _conditions(frame, path))
    return found


def frame_list(path: Path) -> list[dict[str, Any]]:
    """Read the frames of a label file in Scalabel's format, each with its name; raises InputError."""
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not all(
        isinstance(frame, dict) and isinstance(frame.get("name"), str) for frame in frames
    ):
        raise InputError(f"{path}: must be a list of frames with a name each; give BDD100k's label file")
    return frames


def _conditions(frame: Mapping[str, Any], path: Path) -> dict[str, Any]:
    attributes = frame.get("attributes") or {}
    values = [_translated(attributes, name, frame["name"], path) for name in _VOCABULARIES]
    return dict(zip(("time_of_day", "weather", "scene"), values, strict=True))


def _translated(attributes: Any, name: str, frame: str, path: Path) -> str | None:
    value = attributes.get(name, "undefined") if isinstance(attributes, dict) else attributes
    vocabulary = _VOCABULARIES[name]
    if not isinstance(value, str) or value not in vocabulary:
        known = ", ".join(vocabulary)
        raise InputError(f"{path}: {name} of frame {frame} is {value!r}, must be one of {known}; correct it")
    return vocabulary[value]
