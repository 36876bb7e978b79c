"""Mapillary Vistas, versions 1.2 and 2.0 of its labels."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from perception.data.json_files import read_json
from perception.data.readers import layout
from perception.data.taxonomies import published_names
from perception.errors import InputError

_SPLITS = ("training", "validation", "testing")
_FIRST = "v1.2"


def mapillary_frames(version: str, taxonomy: str) -> layout.Frames:
    """Build the lister of one version's labels, "v1.2" or "v2.0", whose ids are those of `taxonomy`."""
    return partial(_frames, version, taxonomy)


def _frames(
    version: str, taxonomy: str, root: Path, split: str | None, labels_required: bool
) -> Iterator[layout.RawFrame]:
    """List SPLIT/images/KEY.jpg with SPLIT/VERSION/labels/KEY.png, whose values are checked against config_VERSION.json.

    As first published, version 1.2 has no folder of its own: SPLIT/labels and config.json. Its images were taken all
    over the world, so every frame is its own drive.
    """
    layout.check_folder(root)
    flat = version == _FIRST and not any((root / name / version).exists() for name in _SPLITS)
    _check_config(root / ("config.json" if flat else f"config_{version}.json"), taxonomy)
    for name in layout.chosen_splits(root, split, _SPLITS):
        truth = root / name / ("labels" if flat else f"{version}/labels")
        files = layout.frame_files(root / name / "images", truth, labels_required, (".jpg",))
        for key, paths in files.items():
            frame_id = layout.frame_id_of(f"mapillary_{key}")
            yield layout.RawFrame(frame_id=frame_id, drive_id=frame_id, **paths)


def _check_config(path: Path, taxonomy: str) -> None:
    """Refuse a configuration that numbers its classes otherwise than the table; without one the table counts."""
    if not path.exists():
        return
    content = read_json(path)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise InputError(f"{path}: must hold a list called labels; copy it again")
    found, known = [label.get("name") for label in labels], list(published_names(taxonomy))
    if found != known:
        place = next((i for i, pair in enumerate(zip(found, known, strict=False)) if pair[0] != pair[1]), len(known))
        names = [repr(names[place]) if place < len(names) else "missing" for names in (found, known)]
        raise InputError(
            f"{path}: class {place} is {names[0]}, in {taxonomy} {names[1]}; name the format of that version"
        )
