"""Rendered drives as a folder of footage, in the layout that the reader of scenes folders takes."""

from pathlib import Path

import pandas as pd

from perception.simulator.folder import encode_scene, scene_frames
from perception.simulator.world import World


def write_footage(root: Path, seed: int, drives: int, frames_per_drive: int, height_px: int, width_px: int) -> None:
    """Write street drives of the default world with their labels and instances."""
    rows = []
    for facts, scene in scene_frames(World(), "street", seed, drives, frames_per_drive, height_px, width_px):
        encoded = encode_scene(scene)
        for name, data in (
            (f"images/{facts.frame_id}.jpg", encoded.image_jpg),
            (f"labels/{facts.frame_id}.png", encoded.label_png),
            (f"instances/{facts.frame_id}.png", encoded.instances_png),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        rows.append(vars(facts) | {"timestamp_utc": facts.timestamp_utc.isoformat()})
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
