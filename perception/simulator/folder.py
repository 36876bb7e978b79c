"""Scenes as files: encoding, naming, and what is known of each frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from perception.errors import InputError
from perception.simulator.render import Scene, render_drive
from perception.simulator.world import Rendering, World

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # drive 0 begins here, whatever the seed
DRIVE_INTERVAL = timedelta(hours=1)
CAMERA = "front"
JPEG_QUALITY = 95


@dataclass(frozen=True)
class SceneFacts:
    """Name one frame and what is known about it; the fields are the columns of a scenes_folder's frames.csv."""

    frame_id: str
    drive_id: str
    timestamp_utc: datetime
    camera: str
    time_of_day: str
    weather: str
    scene: str


@dataclass(frozen=True)
class EncodedScene:
    """Hold the files of one frame."""

    image_jpg: bytes
    label_png: bytes
    instances_png: bytes


def encode_scene(scene: Scene) -> EncodedScene:
    """Encode a frame: JPEG of quality 95, 8-bit label PNG, 16-bit instances PNG."""
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    bgr = np.ascontiguousarray(scene.image[..., ::-1])
    return EncodedScene(
        _encode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        _encode(".png", scene.label, fast),
        _encode(".png", scene.instances, fast),
    )


def _encode(suffix: str, array: npt.NDArray[Any], options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, array, options)
    assert done, f"cv2 cannot encode {array.dtype} {array.shape} as {suffix}"
    return data.tobytes()


def scene_frames(
    world: World, rendering: Rendering, seed: int, drives: int, frames_per_drive: int, height_px: int, width_px: int,
    first_drive: int = 0,
) -> Iterator[tuple[SceneFacts, Scene]]:  # fmt: skip
    """Render drives first_drive to first_drive + drives - 1, frame by frame, with their names and times.

    Raises InputError for counts or sizes out of range.
    """
    if drives < 1 or first_drive < 0:
        raise InputError(f"drives is {drives} from {first_drive}; at least one drive from 0 on is needed; raise them")
    for drive, drive_id, frame_ids in scene_names(rendering, first_drive, drives, frames_per_drive):
        scenes = render_drive(world, rendering, seed, drive, frames_per_drive, height_px, width_px)
        for frame, scene in enumerate(scenes):
            time = EPOCH + drive * DRIVE_INTERVAL + timedelta(seconds=frame * world.frame_interval_s)
            yield SceneFacts(frame_ids[frame], drive_id, time, CAMERA, **vars(scene.conditions)), scene


def scene_names(
    rendering: str, first_drive: int, drives: int, frames_per_drive: int
) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (drive, drive_id, frame_ids) of every drive that `scene_frames` renders."""
    for drive in range(first_drive, first_drive + drives):
        drive_id = f"{rendering}_d{drive:04d}"
        yield drive, drive_id, [f"{drive_id}_f{frame:03d}" for frame in range(frames_per_drive)]
