"""A large manifest joined with its profile, as the ingest gate judges it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from perception.data.taxonomies import load_taxonomy

FRAMES_A_DRIVE = 200
CLASSES = load_taxonomy("cityscapes19").classes
SPLITS = ("pool", "train", "val", "test")


def write_table(path: Path, rows: int) -> None:
    """Write a manifest of `rows` frames joined with its profile: 90 % pool, 5 % train, 2 % val, 3 % test, all sound."""
    rng = np.random.default_rng(0)
    drive = np.arange(rows) // FRAMES_A_DRIVE
    split = rng.choice(4, int(drive[-1]) + 1, p=[0.9, 0.05, 0.02, 0.03])
    split[:4] = range(4)
    names = np.array(SPLITS)[split[drive]]
    labelled = names != "pool"
    frame_ids = [f"drive{d:06d}_{k % FRAMES_A_DRIVE:06d}" for k, d in enumerate(drive)]
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in frame_ids]
    width, height = 2048, 1024
    counts = rng.multinomial(width * height, rng.dirichlet(np.full(len(CLASSES) + 1, 2.0)), size=rows)
    # frames of a drive look alike: its first hash with a few bits flipped
    scene = rng.integers(0, 2**64, len(split), dtype=np.uint64)[drive]
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (3, rows), dtype=np.uint64), axis=0)

    def where(values: object) -> object:
        return pd.Series(values).where(labelled)

    table = pd.DataFrame(
        {
            "frame_id": frame_ids,
            "drive_id": [f"drive{d:06d}" for d in drive],
            "timestamp_utc": pd.Timestamp("2026-11-22T00:00:00Z") + pd.to_timedelta(np.arange(rows), unit="ms"),
            "camera": "front",
            "domain": "real",
            "split": names,
            "time_of_day": rng.choice(["day", "twilight", "night"], rows),
            "weather": rng.choice(["clear", "cloudy", "rain"], rows),
            "scene": "urban",
            "width_px": np.int32(width),
            "height_px": np.int32(height),
            "image_uri": [f"sha256/{text[:2]}/{text}.jpg" for text in hashes],
            "image_sha256": hashes,
            "label_uri": where([f"sha256/{text[:2]}/{text[::-1]}.png" for text in hashes]),
            "label_sha256": where([text[::-1] for text in hashes]),
            "label_source": np.where(labelled, "human", "none"),
            "label_taxonomy": where(["cityscapes19"] * rows),
            "instances_uri": pd.Series([None] * rows, dtype="str"),
            "source": "fleet",
            "image_sha256_actual": hashes,
            "decode_ok": True,
            "brightness_mean": rng.uniform(40, 200, rows),
            "contrast_std": rng.uniform(10, 80, rows),
            "sharpness": rng.uniform(50, 900, rows),
            "dhash": [f"{value:016x}" for value in scene ^ flips],
            "label_min": where(np.zeros(rows)),
            "label_max": where(np.full(rows, 18.0)),
            "unknown_label_px": where(np.zeros(rows)),
            "void_fraction": where(counts[:, -1] / (width * height)),
            **{f"px_{name}": where(counts[:, k].astype(float)) for k, name in enumerate(CLASSES)},
        }
    )
    share = counts[:, :-1].sum(axis=0) / counts[:, :-1].sum()
    parameters = {
        "reference_class_share": dict(zip(CLASSES, share.tolist(), strict=True)),
        "real_widths_px": [width],
        "real_heights_px": [height],
        "newest_after_utc": "2026-11-22T00:00:00Z",
        "test_times_of_day": ["day", "night"],
        "test_weathers": ["clear", "rain"],
        "min_frames": rows,
        "usual_min_frames": rows // 2,
        "usual_max_frames": rows * 2,
    }
    table.to_parquet(path / "gate.parquet", index=False)
    (path / "gate_parameters.json").write_text(json.dumps(parameters))
