"""Tables that every rule of their suite holds for."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perception.quality.metrics_table import metric_rows

WIDTH_PX, HEIGHT_PX = 64, 32
CLASSES = ("road", "person", "sky")
SHARES = {"road": 0.5, "person": 0.1, "sky": 0.4}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _frame(drive: str, number: int, split: str, domain: str, source: str, rng: np.random.Generator) -> dict[str, Any]:
    frame_id = f"{drive}_{number:04d}"
    labelled = split != "pool"
    void_px = int(rng.integers(20, 200))
    counted = WIDTH_PX * HEIGHT_PX - void_px
    road, person = int(counted * SHARES["road"]), int(counted * SHARES["person"])
    return {
        "frame_id": frame_id,
        "drive_id": drive,
        "timestamp_utc": pd.Timestamp("2026-11-22T08:00:00Z") + pd.Timedelta(seconds=number),
        "camera": "front",
        "domain": domain,
        "split": split,
        "time_of_day": ["day", "night"][number % 2],
        "weather": ["clear", "rain"][number % 2],
        "scene": "urban",
        "width_px": WIDTH_PX,
        "height_px": HEIGHT_PX,
        "image_uri": f"sha256/{_sha256(frame_id)}.jpg",
        "image_sha256": _sha256(frame_id),
        "label_uri": f"sha256/{_sha256(frame_id + 'label')}.png" if labelled else None,
        "label_sha256": _sha256(frame_id + "label") if labelled else None,
        "label_source": ("simulator" if domain == "synthetic" else "human") if labelled else "none",
        "label_taxonomy": "cityscapes19" if labelled else None,
        "instances_uri": None,
        "source": source,
        "image_sha256_actual": _sha256(frame_id),
        "decode_ok": True,
        "brightness_mean": float(rng.uniform(60, 180)),
        "contrast_std": float(rng.uniform(20, 60)),
        "sharpness": float(rng.uniform(100, 500)),
        "dhash": rng.bytes(8).hex(),
        "label_min": 0.0 if labelled else None,
        "label_max": 18.0 if labelled else None,
        "unknown_label_px": 0.0 if labelled else None,
        "void_fraction": void_px / (WIDTH_PX * HEIGHT_PX) if labelled else None,
        "px_road": float(road) if labelled else None,
        "px_person": float(person) if labelled else None,
        "px_sky": float(counted - road - person) if labelled else None,
    }


def frames(drives: list[tuple[str, str, str, str]], frames_a_drive: int = 20) -> pd.DataFrame:
    """Make frames of drives given as (drive, split, domain, source)."""
    rng = np.random.default_rng(7)
    table = pd.DataFrame([_frame(drive[0], k, *drive[1:], rng) for drive in drives for k in range(frames_a_drive)])
    table["timestamp_utc"] = table["timestamp_utc"].astype("datetime64[us, UTC]")
    return table


def _ingest() -> tuple[pd.DataFrame, dict[str, Any]]:
    table = frames(
        [
            ("simA", "train", "synthetic", "simulator"),
            ("carA", "pool", "real", "fleet"),
            ("carB", "pool", "real", "fleet"),
            ("carC", "train", "real", "fleet"),
            ("carD", "val", "real", "camvid"),
            ("carE", "test", "real", "camvid"),
        ]
    )
    table["returned"] = table.drive_id == "carC"
    parameters = {
        "min_frames": 105,
        "min_returned_labels": 10,
        "min_pool_frames": 30,
        "min_test_frames": 15,
        "min_synthetic_frames": 15,
        "usual_min_frames": 100,
        "usual_max_frames": 120,
        "real_widths_px": [WIDTH_PX],
        "real_heights_px": [HEIGHT_PX],
        "newest_after_utc": "2026-11-22T00:00:00Z",
        "test_times_of_day": ["day", "night"],
        "test_weathers": ["clear", "rain"],
        "reference_class_share": SHARES,
    }
    return table, parameters


def _curate() -> tuple[pd.DataFrame, dict[str, Any]]:
    table = frames(
        [
            ("carA", "train", "real", "fleet"),
            ("carB", "train", "real", "fleet"),
            ("carD", "val", "real", "camvid"),
            ("carE", "test", "real", "camvid"),
        ]
    )
    return table, {
        "expected_train_frames": 40,
        "parent_train_frames": 38,
        "expected_classes": list(CLASSES),
        "min_class_px": 1000,
        "reference_class_share": SHARES,
    }


def _select() -> tuple[pd.DataFrame, dict[str, Any]]:
    rng = np.random.default_rng(8)
    count = 24
    table = pd.DataFrame(
        {
            "frame_id": [f"car_{k:04d}" for k in range(count)],
            "score": rng.uniform(0, 2, count),
            "rank": np.arange(1, count + 1, dtype=np.int32),
            "drive_id": [f"car{'ABCD'[k % 4]}" for k in range(count)],
            "split": "pool",
            "in_pool": True,
            "in_labelled": False,
        }
    )
    return table, {"budget_frames": count}


def _adapt() -> tuple[pd.DataFrame, dict[str, Any]]:
    rng = np.random.default_rng(9)
    count = 100
    ignored = rng.uniform(0.1, 0.4, count)
    px = (1 - ignored) * WIDTH_PX * HEIGHT_PX
    table = pd.DataFrame(
        {
            "frame_id": [f"car_{k:04d}" for k in range(count)],
            "confidence": rng.uniform(0.7, 0.95, count),
            "ignore_fraction": ignored,
            **{f"px_{name}": (px * share).astype(np.int64) for name, share in SHARES.items()},
            **{f"fused_px_{name}": (px * share).astype(np.int64) for name, share in SHARES.items()},
            **{f"detected_px_{name}": (0.1 * px * SHARES[name]).astype(np.int64) for name in ("person", "road")},
            **{f"detected_right_px_{name}": 0.06 * px * SHARES[name] for name in ("person", "road")},
        }
    )
    parameters = {
        "reference_class_share": SHARES,
        "min_pseudo_frames": 50,
        "expected_classes": list(CLASSES),
        "min_class_px": 5000,
        "max_class_divergence_nats": 0.08,
        "limit_class_divergence_nats": 0.5,
        "highest_mix_ratio": 4.0,
    }
    return table, parameters


def _metrics(stage: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    table = metric_rows(
        [
            {"stage": stage, "metric": "miou", "value": 0.61, "lower": 0.55},
            {"stage": stage, "metric": "miou", "slice": "night", "value": 0.48, "lower": 0.45},
            {"stage": stage, "metric": "frames", "slice": "night", "value": 101, "lower": 30},
            {"stage": stage, "metric": "latency_ms", "value": 11.5, "upper": 14.0},
            {"stage": stage, "metric": "export_error", "value": 1e-6, "lower": 0.0, "upper": 1e-4},
            {"stage": stage, "metric": "seconds", "value": 40.0},
        ]
    )
    required = [f"{stage}/miou/all", f"{stage}/miou/night", f"{stage}/latency_ms/all"]
    return table, {"required_gates": required}


@pytest.fixture(scope="session")
def good() -> Callable[[str], tuple[pd.DataFrame, dict[str, Any]]]:
    """Give for a suite a table that passes it, and all its parameters."""
    makers = {"ingest": _ingest, "curate": _curate, "select": _select, "adapt": _adapt}
    return lambda suite: makers[suite]() if suite in makers else _metrics(suite)
