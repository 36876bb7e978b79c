"""Reduce a pool of any size to the few thousand frames that a strategy looks at, shard by shard.

A frame's priority is its score (for `random` and `core_set`, which ignore scores, a hash of seed and frame_id). The
shortlist of a pool is its `shortlist_frames` frames of highest priority, and as many for each quota among the quota's
frames. The best of a union are among the bests of its parts, so the shortlist of the shards' shortlists is the
shortlist of the pool, and a selection over shards equals the selection over the whole.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perception.errors import InputError
from perception.selection.quotas import quota_members
from perception.selection.settings import SelectionSettings

BATCH_ROWS = 8_192  # rows in memory at once; score tables are written in row groups of as many


def shortlist(
    candidates: pd.DataFrame, settings: SelectionSettings, labelled_ids: Collection[str] = ()
) -> pd.DataFrame:
    """Keep the rows of highest priority, in order of frame_id; frames that are labelled already are left out.

    candidates: frame_id str, score float64, and the columns that quotas name.
    Raises InputError when a column is missing, a score is not finite or a frame_id comes twice.
    """
    check_candidates(candidates, settings)
    fresh = candidates[~candidates["frame_id"].isin(labelled_ids)]
    kept = fresh[_is_shortlisted(fresh, settings)].sort_values("frame_id", ignore_index=True)
    twice = kept["frame_id"].duplicated()
    if twice.any():
        raise InputError(
            f"frame_id {kept['frame_id'][twice].iloc[0]} comes more than once among the candidates; it could be "
            "chosen twice: give each shard its own frames"
        )
    return kept


def shortlist_files(
    paths: Sequence[Path],
    settings: SelectionSettings,
    labelled_ids: Collection[str] = (),
    prepare: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Do as `shortlist` does for score tables in Parquet files, holding one batch of rows and the shortlist.

    prepare: gets a batch's rows without their embeddings and returns those that are candidates, with further columns
    (conditions, drives) or other scores; their index must stay.
    """
    best: pd.DataFrame | None = None
    labelled = pd.Index(sorted(set(labelled_ids)), dtype=object)  # looked up in every batch
    for batch in _batches(paths):
        light = batch.drop_columns([name for name in ("embedding",) if name in batch.column_names]).to_pandas()
        light = light.reset_index(drop=True)
        light = light[labelled.get_indexer(light["frame_id"]) < 0]
        light = light if prepare is None else prepare(light)
        check_candidates(light, settings)
        fresh = light.assign(row=light.index)
        known = fresh if best is None else pd.concat([best.drop(columns="embedding", errors="ignore"), fresh])
        rows = known[_is_shortlisted(known, settings)]["row"].dropna().astype(int)
        fresh = light.loc[rows]
        if "embedding" in batch.column_names:
            taken = batch["embedding"].take(pa.array(rows)).to_pandas()
            # Copies: a view would keep the whole batch's embeddings for the sake of the few that stay.
            fresh = fresh.assign(embedding=[np.array(vector) for vector in taken])
        best = fresh if best is None else pd.concat([best, fresh], ignore_index=True)
        best = best[_is_shortlisted(best, settings)]
    if best is None:
        raise InputError(f"score tables {[str(path) for path in paths]} hold no frames; score the pool first")
    return shortlist(best, settings)


def labelled_rows(paths: Sequence[Path], labelled_ids: Collection[str]) -> pd.DataFrame:
    """Return frame_id and, where there are any, embedding and class_share of the labelled frames in score tables."""
    wanted = pa.array(list(labelled_ids), pa.string())
    found = []
    for batch in _batches(paths):
        light = batch.select([name for name in ("frame_id", "embedding", "class_share") if name in batch.column_names])
        found.append(light.filter(pc.is_in(light["frame_id"].cast(pa.string()), value_set=wanted)).to_pandas())
    if not found:
        raise InputError(f"score tables {[str(path) for path in paths]} hold no frames; score the pool first")
    return pd.concat(found, ignore_index=True)


def _batches(paths: Sequence[Path]) -> Iterator[pa.Table]:
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                # Asked for several row groups, the reader holds more of them than it has given out.
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                        yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"score table {path} cannot be read ({error}); score the shard again") from None


def _is_shortlisted(candidates: pd.DataFrame, settings: SelectionSettings) -> np.ndarray:
    """Return (candidate,) bool."""
    priority = priorities(candidates, settings)
    kept = _best(priority, candidates["frame_id"], settings.shortlist_frames)
    for quota in settings.quotas:
        members = np.flatnonzero(quota_members(candidates, quota))
        inside = _best(priority[members], candidates["frame_id"].iloc[members], settings.shortlist_frames)
        kept[members[inside]] = True
    return kept


def _best(priority: np.ndarray, frame_ids: pd.Series, count: int) -> np.ndarray:
    """Mark the `count` highest priorities; of equal ones at the border, the lowest frame_ids."""
    if len(priority) <= count:
        return np.ones(len(priority), dtype=bool)
    border = np.partition(priority, len(priority) - count)[len(priority) - count]
    kept: np.ndarray = priority > border
    ties = np.flatnonzero(priority == border)
    order = np.argsort(frame_ids.iloc[ties].to_numpy(dtype=object), kind="stable")
    kept[ties[order[: count - int(kept.sum())]]] = True
    return kept


def priorities(candidates: pd.DataFrame, settings: SelectionSettings) -> np.ndarray:
    """Return (candidate,) float64: what the shortlist keeps the highest of."""
    if settings.strategy in ("random", "core_set"):
        return random_priorities(candidates["frame_id"], settings.seed)
    return candidates["score"].to_numpy(np.float64)


def random_priorities(frame_ids: pd.Series, seed: int) -> np.ndarray:
    """Return (frame,) float64 in [0, 1), uniform, from seed and frame_id alone: no shard or order changes it."""
    salt = f"{seed}/".encode()
    digests = [hashlib.blake2b(salt + frame_id.encode(), digest_size=8).digest() for frame_id in frame_ids]
    # 53 bits: as many as float64 holds exactly.
    return (np.frombuffer(b"".join(digests), dtype="<u8") >> np.uint64(11)) * 2.0**-53


def check_candidates(candidates: pd.DataFrame, settings: SelectionSettings) -> None:
    """Raise InputError unless the columns that the rule needs are there and every score is finite and at least 0."""
    needed = ["frame_id", "score", *(quota.column for quota in settings.quotas if quota.column)]
    needed += ["class_share"] * any(quota.class_id is not None for quota in settings.quotas)
    missing = [name for name in needed if name not in candidates.columns]
    if missing:
        raise InputError(
            f"candidates have no column {missing[0]!r}, which the selection needs; they have "
            f"{', '.join(candidates.columns)}: join it from the manifest"
        )
    scores = candidates["score"].to_numpy(np.float64)
    bad = ~(np.isfinite(scores) & (scores >= 0))
    if bad.any():
        row = candidates.iloc[int(np.flatnonzero(bad)[0])]
        raise InputError(
            f"frame {row['frame_id']} has score {row['score']}; scores must be finite and at least 0: score it again"
        )
