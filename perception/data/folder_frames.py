"""The labelled frames of a data set's folder, read as they are asked for: nothing is copied, nothing is stored."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.decoding import BadFrame, decode_image, decode_label, image_size
from perception.data.loading import LoadSettings, resize_image, resize_label
from perception.data.readers import READERS, RawFrame, Reader
from perception.data.taxonomies import apply_lookup, label_lookup, load_taxonomy
from perception.errors import InputError

_TOLD = ("frame_id", "drive_id", "camera", "time_of_day", "weather", "scene")


class FolderFrames:
    """Give random access to a data set's labelled frames, as perception.data.loading.FrameSet does to a manifest's."""

    def __init__(self, reader: Reader, frames: Sequence[RawFrame], settings: LoadSettings) -> None:
        self._reader, self._settings = reader, settings
        self._frames = [frame for frame in frames if frame.label_path is not None]
        if not self._frames:
            raise InputError(
                f"format {reader.name}: no frame has a label; give a part of the data set that is labelled"
            )

    def __len__(self) -> int:
        return len(self._frames)

    def without_broken(self) -> tuple["FolderFrames", list[BadFrame]]:
        """Decode every frame once; return those that can be read, and of each other what is wrong with it.

        Raises BadFrame where none can be read.
        """
        readable, broken = [], []
        for index, frame in enumerate(self._frames):
            try:
                self.full_image(index)
                self.full_label(index)
            except BadFrame as error:
                broken.append(error)
            else:
                readable.append(frame)
        if not readable:
            raise broken[0]
        return FolderFrames(self._reader, readable, self._settings), broken

    def about(self) -> pd.DataFrame:
        """Return what is known of each frame: names, image_uri, conditions (None is unknown), the sha256 of its files.

        Raises BadFrame for a file that cannot be read.
        """
        rows = [self._row(frame) for frame in self._frames]
        return pd.DataFrame(rows, dtype=object)

    def _row(self, frame: RawFrame) -> dict[str, object]:
        told = {name: getattr(frame, name) for name in _TOLD}
        return told | {"image_uri": frame.image_name} | self._hashes(frame)

    def _hashes(self, frame: RawFrame) -> dict[str, str]:
        """Return image_sha256 and label_sha256 as a manifest would have them."""
        files = {"image": self._reader.image(frame), "label": self._reader.label(frame) or b""}
        return {f"{name}_sha256": hashlib.sha256(data).hexdigest() for name, data in files.items()}

    def full_image(self, index: int) -> NDArray[np.uint8]:
        """Load one frame's image at its own size: (height, width, 3) uint8 RGB. Raises BadFrame."""
        frame = self._frames[index]
        return decode_image(self._reader.image(frame), frame.image_name)

    def full_label(self, index: int) -> NDArray[np.uint8]:
        """Load one frame's label at its own size: (height, width) uint8 class ids, 255 = ignore. Raises BadFrame."""
        frame = self._frames[index]
        data = self._reader.label(frame)
        assert data is not None and frame.label_path is not None, "frames without labels were left out"
        size = image_size(self._reader.image(frame), frame.image_name)
        own = frame.label_taxonomy or self._reader.taxonomy
        raw = decode_label(
            data, f"label of {frame.image_name}" if frame.member else frame.label_path, load_taxonomy(own), size
        )
        return apply_lookup(raw, label_lookup(own, self._settings.taxonomy))

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Load one frame at the network's size: image (3, height, width) uint8 RGB, label (height, width) uint8."""
        shown = (self._settings.height_px, self._settings.width_px)
        image = resize_image(self.full_image(index), shown)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), resize_label(self.full_label(index), shown)


def recognise_format(root: Path, part: str | None) -> Reader:
    """Find the one format whose layout the folder has; raises InputError where none or several fit, saying why.

    A folder of a known format that lacks just the part that is asked for is told so.
    """
    fitting, reasons = _fitting(root, part)
    if not fitting and part and len(without := _fitting(root, None)[0]) == 1:
        raise InputError(f"PART={part}: {reasons[without[0].name]}")
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(reader.name for reader in fitting)
        raise InputError(f"{root}: fits several formats ({names}); say which with FORMAT=")
    every = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise InputError(f"{root}: fits no known format ({every})")


def _fitting(root: Path, part: str | None) -> tuple[list[Reader], dict[str, str]]:
    """Return the formats whose layout the folder has, and by name of the others what they miss.

    Where the images fit several, as those of Mapillary's two versions do, labels decide.
    """
    first, reasons = {}, {}
    for name, reader in sorted(READERS.items()):
        try:
            first[name] = next(iter(reader.frames(root, part, False)))
        except StopIteration:
            reasons[name] = "no frame"
        except InputError as error:
            reasons[name] = str(error)
    labelled = [name for name, frame in first.items() if frame.label_path is not None]
    return [READERS[name] for name in labelled or first], reasons
