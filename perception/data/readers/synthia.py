"""SYNTHIA-RAND-CITYSCAPES: labels are 16-bit PNG whose first channel is the class and whose second is the instance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.data.decoding import BadFrame
from perception.data.readers import layout
from perception.data.readers.label_files import class_codes, decode_codes, instance_codes
from perception.errors import InputError


def synthia_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List RGB/STEM.png with GT/LABELS/STEM.png; it knows no splits.

    Its viewpoints are drawn at random, so every frame is its own drive.
    """
    layout.check_folder(root)
    if split is not None:
        raise InputError(f"split {split!r} is unknown: SYNTHIA-RAND-CITYSCAPES has no splits; leave the split out")
    truth = root / "GT" / "LABELS"
    for stem, paths in layout.frame_files(root / "RGB", truth, labels_required, instances=truth).items():
        frame_id = layout.frame_id_of(f"synthia_{stem}")
        yield layout.RawFrame(frame_id=frame_id, drive_id=frame_id, **paths, scene="urban")


def synthia_label(frame: layout.RawFrame) -> bytes | None:
    """Re-encode the classes as an 8-bit PNG; raises BadFrame."""
    if frame.label_path is None:
        return None
    return class_codes(_codes(frame.label_path)[..., 0], frame.label_path)


def synthia_instances(frame: layout.RawFrame) -> bytes | None:
    """Re-encode the instances as a 16-bit PNG of class id * 1000 + k; raises BadFrame."""
    if frame.instances_path is None:
        return None
    codes = _codes(frame.instances_path)
    return instance_codes(codes[..., 0], codes[..., 1], frame.instances_path)


def _codes(path: Path) -> NDArray[Any]:
    codes = decode_codes(layout.read_file(path), path)
    if codes.dtype != np.uint16 or codes.shape[2] < 2:
        found = f"{8 * codes.itemsize}-bit PNG with {codes.shape[2]} channels"
        raise BadFrame(path, f"label is a {found}, must be 16-bit with class and instance channels", "copy it again")
    return codes
