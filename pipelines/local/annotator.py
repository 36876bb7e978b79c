"""An annotator who is none: answers batches the next night from hidden labels, some late, some with files that are not whole."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from pipelines.local.arriving import hidden_labels
from pipelines.season import SeasonParameters

NAME = "annotator"


def answer(
    season: Path, batch: Path, parameters: SeasonParameters, *, nights_since: int, day: date, drop: Path
) -> None:
    """Send back, as a label drop, what of a batch is due so many nights after it was handed out; nothing due sends nothing."""
    import pandas as pd

    asked = pd.read_csv(batch / "frames.csv", dtype=str).frame_id
    due = {frame_id: sound for frame_id in asked if (sound := _sound(frame_id, nights_since, parameters)) is not None}
    labels = dict(hidden_labels(season, set(due)))
    send(batch, {frame_id: labels[frame_id][: None if sound else 40] for frame_id, sound in due.items()}, day, drop)


def _sound(frame_id: str, nights_since: int, parameters: SeasonParameters) -> bool | None:
    """Return whether a frame's label that comes so many nights later is whole; None: none comes then."""
    wrong = mixed("wrong", frame_id) < parameters.wrong_share
    first = 2 if mixed("late", frame_id) < parameters.late_share else 1
    if nights_since == first:
        return not wrong
    return True if wrong and nights_since == first + 1 else None


def mixed(salt: str, frame_id: str) -> float:
    """Return a number in 0..1 that is a frame's own, by a salt: whoever asks again gets it again."""
    return int.from_bytes(hashlib.sha256(f"{salt} {frame_id}".encode()).digest()[:8]) / 2**64


def send(batch: Path, labels: Mapping[str, bytes], day: date, drop: Path) -> None:
    """Put a batch with labels, by frame_id, where drops are looked for, whole or not at all; one that is there stays."""
    if drop.exists() or not labels:
        return
    writing = drop.with_name(f".{drop.name}")  # readers pass by what begins with a dot
    shutil.rmtree(writing, ignore_errors=True)
    shutil.copytree(batch, writing)
    (writing / "labels").mkdir()
    for frame_id, label in labels.items():
        (writing / "labels" / f"{frame_id}.png").write_bytes(label)
    (writing / "drop.json").write_text(json.dumps({"annotator": NAME, "date": day.isoformat()}))
    writing.rename(drop)
