"""CamVid in the layout of the SegNet distribution."""

from collections.abc import Iterator
from pathlib import Path

from perception.data.readers.layout import (
    IMAGE_SUFFIXES,
    RawFrame,
    check_folder,
    check_pairs,
    chosen_splits,
    files_in,
    frame_id_of,
    optional_files_in,
)

_SPLITS = ("train", "val", "test")
# Published with the data set: one drive was filmed at dusk, the others by day, all in the streets of Cambridge.
_TIMES = {"0001TP": "twilight", "0006R0": "day", "0016E5": "day", "Seq05V": "day"}


def camvid_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[RawFrame]:
    """List SPLIT/STEM.jpg|png with SPLITannot/STEM.png; the stem's first six characters name the drive."""
    check_folder(root)
    for name in chosen_splits(root, split, _SPLITS):
        images = files_in(root / name, IMAGE_SUFFIXES)
        labels = optional_files_in(root / f"{name}annot", (".png",))
        check_pairs(images, labels, root / name, root / f"{name}annot", labels_required)
        for stem, path in images.items():
            drive = stem[:6]
            yield RawFrame(
                frame_id=frame_id_of(f"camvid_{stem}"),
                drive_id=drive,
                image_path=path,
                label_path=labels.get(stem),
                time_of_day=_TIMES.get(drive),
                scene="urban" if drive in _TIMES else None,
            )
