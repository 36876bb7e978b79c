"""Scenes as files: encoding, naming, and the `scenes_folder` layout.

root/frames.csv             frame_id, drive_id, timestamp_utc, camera, time_of_day, weather, scene
root/images/<frame_id>.jpg  root/labels/<frame_id>.png  root/instances/<frame_id>.png (16 bit)
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from perception.data.files import replacement
from perception.errors import InputError
from perception.simulator.render import Scene, render_drive
from perception.simulator.world import Rendering, World

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)  # drive 0 begins here, whatever the seed
DRIVE_INTERVAL = timedelta(hours=1)
CAMERA = "front"
JPEG_QUALITY = 95


@dataclass(frozen=True)
class SceneFacts:
    """Name one frame and what is known about it; the fields are the columns of frames.csv."""

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


def write_scenes(
    root: Path, world: World, rendering: Rendering, seed: int, drives: int, frames_per_drive: int, height_px: int,
    width_px: int, first_drive: int = 0,
) -> None:  # fmt: skip
    """Write drives as a scenes folder; frames.csv comes last, so a folder that has it is whole.

    Raises InputError when root already holds frames.csv, cannot be written, or a count or size is out of range.
    """
    table = root / "frames.csv"
    if table.exists():
        raise InputError(f"{table} exists; a scenes folder is written once; give another folder or remove this one")
    rows: list[SceneFacts] = []
    try:
        for part in ("images", "labels", "instances"):
            (root / part).mkdir(parents=True, exist_ok=True)
        size = (height_px, width_px)
        for facts, scene in scene_frames(world, rendering, seed, drives, frames_per_drive, *size, first_drive):
            encoded = encode_scene(scene)
            (root / "images" / f"{facts.frame_id}.jpg").write_bytes(encoded.image_jpg)
            (root / "labels" / f"{facts.frame_id}.png").write_bytes(encoded.label_png)
            (root / "instances" / f"{facts.frame_id}.png").write_bytes(encoded.instances_png)
            rows.append(facts)
        _write_table(table, rows)
    except OSError as error:
        raise InputError(
            f"{root} cannot be written ({error.strerror}); give a folder with room and permission"
        ) from error


def _write_table(path: Path, rows: list[SceneFacts]) -> None:
    with replacement(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(SceneFacts)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) | {"timestamp_utc": row.timestamp_utc.isoformat()} for row in rows)
