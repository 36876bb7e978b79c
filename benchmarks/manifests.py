"""Manifest rows of frames of a camera, for what is measured of taking them in and publishing them."""

from collections.abc import Sequence
from typing import Any

import pandas as pd


def frame_rows(frame_ids: Sequence[str], **columns: Any) -> pd.DataFrame:
    """Return a row a frame, its drive named before the first underscore; columns: those that are not unknown or as usual."""
    unknown = (
        "timestamp_utc",
        "time_of_day",
        "weather",
        "scene",
        "label_uri",
        "label_sha256",
        "label_taxonomy",
        "instances_uri",
    )
    usual = {"camera": "front", "domain": "real", "split": "pool", "label_source": "none", "source": "camera"}
    named = {"frame_id": frame_ids, "drive_id": [each.split("_")[0] for each in frame_ids]}
    return pd.DataFrame(named | dict.fromkeys(unknown) | usual | columns)
