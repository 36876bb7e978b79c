"""WebDataset tar files: KEY.jpg, KEY.label.png or KEY.seg.png, KEY.instances.png and KEY.json, as data versions are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.files import names_in
from perception.data.json_files import parse_json
from perception.data.manifest import SCENES, TIMES_OF_DAY, WEATHERS
from perception.data.readers import layout
from perception.data.shards import MemberPlace, index_shard, member_parts, read_member
from perception.data.taxonomies import taxonomy_names
from perception.errors import InputError

_IMAGES = ("jpg", "jpeg", "png")
_LABELS = ("label.png", "seg.png")
_INSTANCES = "instances.png"
# None: every known one.
_VOCABULARIES = {"time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES, "label_taxonomy": None}


def webdataset_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List the frames of ROOT/*.tar, or of ROOT/SPLIT/*.tar and ROOT/SPLIT-*.tar, in the order of their keys a tar.

    KEY.json may tell drive_id, timestamp_utc, camera, time_of_day, weather, scene and label_taxonomy; without a
    drive_id a tar file is a drive. Keys must be unique over all files.
    """
    seen: dict[str, Path] = {}
    for path in shard_paths(root, split):
        for frame in shard_frames(path, labels_required):
            if frame.frame_id in seen:
                key, _ = member_parts(str(frame.member), path)
                raise InputError(f"{path}: key {key} is in {seen[frame.frame_id].name} too, must be unique; remove one")
            seen[frame.frame_id] = path
            yield frame


def shard_paths(root: Path, split: str | None) -> list[Path]:
    """Return the tar files of a split, or all of a folder, in their order; raises InputError where there is none."""
    layout.check_folder(root)
    paths = _shards(root, split)
    if not paths:
        raise InputError(
            f"{root}: folder is empty: it holds no *.tar{f' of split {split!r}' if split else ''}; add them"
        )
    return paths


def shard_frames(path: Path, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List the frames of one tar file in the order of their keys; raises InputError where it breaks the layout."""
    for key, names in sorted(_opened(path).keys.items()):
        yield _frame(path, key, names, labels_required)


def webdataset_image(frame: layout.RawFrame) -> bytes:
    """Return the bytes of the image; raises BadFrame."""
    return _member(frame, str(frame.member))


def webdataset_label(frame: layout.RawFrame) -> bytes | None:
    """Return the bytes of the label; None where the frame has none. Raises BadFrame."""
    return None if frame.label_path is None else _member(frame, _beside(frame, _LABELS))


def webdataset_instances(frame: layout.RawFrame) -> bytes | None:
    """Return the bytes of the instances; None where the frame has none. Raises BadFrame."""
    return None if frame.instances_path is None else _member(frame, _beside(frame, (_INSTANCES,)))


def _shards(root: Path, split: str | None) -> list[Path]:
    places = {root: ""} if split is None else {root: f"{_plain(split)}-", root / split: ""}
    return sorted(
        folder / name
        for folder, start in places.items()
        for name in (names_in(folder) if folder.is_dir() else ())
        if name.startswith(start) and name.endswith(".tar")
    )


def _plain(split: str) -> str:
    if not split.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"split {split!r} must be letters, digits, - and _; correct it")
    return split


def _frame(path: Path, key: str, names: Mapping[str, str], labels_required: bool) -> layout.RawFrame:
    image = next((names[extension] for extension in _IMAGES if extension in names), None)
    if image is None:
        raise InputError(f"{path}: key {key} has no image ({', '.join(sorted(names))}); add KEY.jpg or remove it")
    label = next((names[extension] for extension in _LABELS if extension in names), None)
    if label is None and labels_required:
        raise InputError(f"{path}: key {key} has no label; add KEY.label.png or remove it")
    facts = _facts(path, key, names.get("json"))
    return layout.RawFrame(
        frame_id=layout.frame_id_of(key.replace("/", "_")),
        drive_id=facts.pop("drive_id", None) or path.stem,
        image_path=path,
        label_path=path if label else None,
        instances_path=path if _INSTANCES in names else None,
        member=image,
        **facts,
    )


def _facts(path: Path, key: str, name: str | None) -> dict[str, Any]:
    """Read and check what KEY.json tells; nothing where there is none or it is another tool's."""
    if name is None:
        return {}
    where = f"{path / name}"
    place = _opened(path).places[name]
    if place.size_bytes > limits.MEMBER_JSON_BYTES:
        raise InputError(f"{where}: has {place.size_bytes} bytes, more than {limits.MEMBER_JSON_BYTES}; shorten it")
    try:
        content = parse_json(read_member(path, place))
    except ValueError as error:
        raise InputError(f"{where}: not a JSON file ({error}); write the shard again") from None
    if not isinstance(content, dict):
        return {}
    wanted = ("drive_id", "camera", *_VOCABULARIES)
    facts: dict[str, Any] = {each: content[each] for each in wanted if content.get(each) is not None}
    for each, value in facts.items():
        vocabulary = taxonomy_names() if each == "label_taxonomy" else _VOCABULARIES.get(each)
        if not isinstance(value, str) or not value or (vocabulary and value not in vocabulary):
            rule = f"one of {', '.join(vocabulary)}" if vocabulary else "text"
            raise InputError(f"{where}: {each} of key {key} is {value!r}, must be {rule}; correct it")
    if content.get("timestamp_utc") is not None:
        facts["timestamp_utc"] = layout.checked_time(content["timestamp_utc"], f"{where}: timestamp_utc")
    return facts


def _beside(frame: layout.RawFrame, extensions: tuple[str, ...]) -> str:
    """Name the member of the frame's key that has one of the extensions."""
    key, _ = member_parts(str(frame.member), frame.image_path)
    names = _opened(frame.image_path).keys.get(key, {})
    found = next((names[extension] for extension in extensions if extension in names), None)
    if found is None:
        raise BadFrame(
            f"{frame.image_path / str(frame.member)}", f"has no {extensions[0]} any more", "write the shard again"
        )
    return found


def _member(frame: layout.RawFrame, name: str) -> bytes:
    where = frame.image_path / name
    places = _opened(frame.image_path).places
    if name not in places:
        raise BadFrame(where, "is not in the shard any more", "write the shard again")
    if places[name].size_bytes > limits.FILE_BYTES:
        raise BadFrame(
            where, f"has {places[name].size_bytes} bytes, more than {limits.FILE_BYTES}", "give frames of a camera"
        )
    try:
        return read_member(frame.image_path, places[name])
    except InputError as error:
        raise BadFrame(where, str(error).partition(": ")[2].partition("; ")[0], "write the shard again") from None


@dataclass(frozen=True)
class _Opened:
    """Hold where the members of a shard lie, by name, and the names of every key's members by extension."""

    places: Mapping[str, MemberPlace]
    keys: Mapping[str, Mapping[str, str]]


def _opened(path: Path) -> _Opened:
    try:
        stat = path.stat()
    except OSError as error:
        raise BadFrame(path, f"cannot be read ({error.strerror})", "copy it again") from None
    return _open(path, stat.st_mtime_ns, stat.st_size)


# Frames are asked for one after another; without this each would scan its whole archive.
@lru_cache(maxsize=16)
def _open(path: Path, _mtime_ns: int, _size_bytes: int) -> _Opened:
    places = index_shard(path)
    keys: dict[str, dict[str, str]] = {}
    for name in places:
        key, extension = member_parts(name, path)
        keys.setdefault(key, {})[extension.lower()] = name
    return _Opened(places, keys)
