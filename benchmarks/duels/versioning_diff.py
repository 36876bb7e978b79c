"""Duel: the difference of two manifests of a million rows, ours against the same done with pandas merges and group-bys.

Both manifests have 19 class columns and three conditions; the head lost 1 % of the frames, gained 1 %, relabelled 1 %
and moved 1 % to another split. Counts must be equal. Rounds alternate; the least time counts. The bar is 2 s for a
million rows; the limit is one merge of two sorted arrays of hashes. The last line is JSON.
"""

import click
import numpy as np
import pandas as pd

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.versioning.diff import CONDITIONS, diff_manifests

BAR_SECONDS = 2.0
CLASSES = 19


@click.command()
@click.option("--rows", default=1000000)
@click.option("--rounds", default=3)
def duel(rows: int, rounds: int) -> int:
    """Compare two manifests, against pandas merges and group-bys."""
    base, head = manifests(rows, np.random.default_rng(0))
    hashes = [np.sort(np.random.default_rng(k).integers(0, 2**63, rows).astype(np.uint64)) for k in range(2)]
    found, expected = diff_manifests(base, head).counts(), pandas_diff(base, head)
    assert {name: found[name] for name in expected} == expected, f"{found} is not {expected}"
    runs = {
        "ours": lambda: diff_manifests(base, head),
        "peer": lambda: pandas_diff(base, head),
        "limit": lambda: np.searchsorted(*hashes),
    }
    seconds = least_seconds(runs, rounds)
    return finish(
        result(
            "versioning_diff",
            ours=seconds["ours"],
            peer=seconds["peer"],
            bar=BAR_SECONDS,
            limit_share=seconds["limit"] / seconds["ours"],
            passed=seconds["ours"] <= BAR_SECONDS * rows / 1_000_000,
            bar_of="seconds",
            rows=rows,
        )
    )


def manifests(rows: int, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make two manifests, sorted by frame_id as manifest files are."""
    count = rows + rows // 100
    hexadecimal = [f"{high:016x}{low:016x}" * 2 for high, low in random.integers(0, 2**63, (count, 2))]
    frames = pd.DataFrame(
        {
            "frame_id": [f"frame_{k:08d}" for k in range(count)],
            "drive_id": [f"drive_{k // 500:05d}" for k in range(count)],
            "split": random.choice(["train", "val", "test"], count),
            "image_sha256": hexadecimal,
            "label_sha256": hexadecimal,
            "time_of_day": random.choice(np.array(["day", "twilight", "night", None], object), count),
            "weather": random.choice(["clear", "cloudy", "rain"], count),
            "scene": random.choice(["urban", "freeway", "unmarked"], count),
        }
    )
    for name in range(CLASSES):
        frames[f"px_class{name:02d}"] = random.integers(0, 100_000, count) * (random.random(count) < 0.5)
    part = rows // 100
    head = frames.iloc[part:].reset_index(drop=True)
    head.loc[:part, "label_sha256"] = head.loc[:part, "label_sha256"].str[::-1]
    head.loc[2 * part : 3 * part, "split"] = "pool"
    return frames.iloc[:rows], head


def pandas_diff(base: pd.DataFrame, head: pd.DataFrame) -> dict[str, int]:
    """Do the same work with the idioms of a notebook: an outer merge, comparisons, group-bys."""
    columns = ["frame_id", "split", "image_sha256", "label_sha256", *CONDITIONS]
    both = base[columns].merge(head[columns], on="frame_id", how="outer", suffixes=("_old", "_new"), indicator=True)
    matched = both[both["_merge"] == "both"]
    for side in (base, head):
        pixels = [name for name in side.columns if name.startswith("px_")]
        side[pixels].sum()
        side.groupby("drive_id").size()
        cells = side[list(CONDITIONS)].fillna("unknown")
        (side[pixels] > 0).groupby([cells[name] for name in CONDITIONS]).sum()
    return {
        "added": int((both["_merge"] == "right_only").sum()),
        "removed": int((both["_merge"] == "left_only").sum()),
        "relabelled": int((matched["label_sha256_old"] != matched["label_sha256_new"]).sum()),
        "changed_image": int((matched["image_sha256_old"] != matched["image_sha256_new"]).sum()),
        "moved": int((matched["split_old"] != matched["split_new"]).sum()),
    }
