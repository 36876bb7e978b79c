"""What every reader of a detection set gives: the boxes of each frame in one order of columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.data.decoding import BadFrame, decode_image
from perception.data.files import relative_parts
from perception.data.readers.layout import read_file
from perception.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionFrame:
    """Hold the annotated objects of one frame.

    boxes: (object, 4) float64, left, top, right, bottom in pixels. labels: (object,) int64, place in the set's classes.
    ignored: (object,) bool, regions that count neither for nor against a detector (crowds, DontCare).
    scores: (object,) float64 where the boxes are detections. truncated: (object,) float64 in 0..1, share outside the
    image, and occluded: (object,) int64 in 0..3, as KITTI grades them; both -1 where unknown.
    masks: (object,) run lengths or polygons as COCO writes them, None for a box alone. drive_id and the conditions are
    None where the set does not tell.
    """

    frame_id: str
    image_path: Path
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    masks: tuple[object, ...] = ()
    width_px: int | None = None
    height_px: int | None = None
    drive_id: str | None = None
    time_of_day: str | None = None
    weather: str | None = None
    scene: str | None = None


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Hold the frames of a set and its classes, names in the order of their places."""

    classes: tuple[str, ...]
    frames: tuple[DetectionFrame, ...]

    def __len__(self) -> int:
        return len(self.frames)


def checked_boxes(boxes: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """Return (object, 4) boxes that are finite and have left <= right, top <= bottom; raises InputError for others."""
    finite = np.isfinite(boxes).all(axis=1)
    broken = np.flatnonzero(~finite | (boxes[:, 0] > boxes[:, 2]) | (boxes[:, 1] > boxes[:, 3]))
    if len(broken):
        box = ", ".join(f"{value:g}" for value in boxes[broken[0]])
        raise InputError(
            f"{where}: box {broken[0]} is {box}, must be finite with left <= right, top <= bottom; correct it"
        )
    return boxes


def load_image(frame: DetectionFrame) -> NDArray[np.uint8]:
    """Load a frame's image: (height, width, 3) uint8 RGB.

    Raises BadFrame for one that cannot be read or that its labels do not describe: of another size, or beside its boxes.
    """
    image = decode_image(read_file(frame.image_path), frame.image_path)
    height, width = image.shape[:2]
    told = (frame.width_px or width, frame.height_px or height)
    if told != (width, height):
        rule = f"image is {width}x{height} px, its labels say {told[0]}x{told[1]}, must be equal"
        raise BadFrame(frame.image_path, rule, "give the image that was labelled")
    beside = frame.boxes[((frame.boxes[:, :2] > (width, height)) | (frame.boxes[:, 2:] < 0)).any(axis=1)]
    if len(beside):
        rule = f"box {beside[0].tolist()} lies outside its image of {width}x{height} px"
        raise BadFrame(frame.image_path, rule, "give the image that was labelled, or correct the box")
    return image


def image_inside(folder: Path, name: str, where: str) -> Path:
    """Join a file name from a label file to its folder; raises InputError for one that leads out of it."""
    try:
        return folder.joinpath(*relative_parts(name))
    except ValueError:
        raise InputError(f"{where}: file {name!r} leads out of the images' folder; correct it") from None
