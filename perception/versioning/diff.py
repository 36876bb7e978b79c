"""Say what changed between two manifests: frames, labels, splits, classes, conditions and drives; no pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perception.data.conditions import as_judged
from perception.data.manifest import TAGGED, read_manifest
from perception.errors import InputError

CONDITIONS = ("time_of_day", "weather", "scene")
UNKNOWN = "unknown"  # stands for null in tables of conditions
_COMPARED = ("frame_id", "drive_id", "split", "image_sha256", "label_sha256", *CONDITIONS)
_SIDES = ("base", "head")

_Rows = NDArray[np.int64]  # row numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class VersionDiff:
    """What changed from a base manifest to a head manifest; ids are sorted."""

    base_frames: int  # rows of the base manifest
    head_frames: int  # rows of the head manifest
    added: tuple[str, ...]  # frame ids that only the head holds
    removed: tuple[str, ...]  # frame ids that only the base holds
    relabelled: tuple[str, ...]  # in both, with other label bytes, or with a label in only one of them
    changed_image: tuple[str, ...]  # in both, with other image bytes
    changed_conditions: tuple[str, ...]  # in both, with another time of day, weather or scene
    same: int  # frames in both whose image, label, split and conditions are equal
    # Columns frame_id, base_split, head_split: frames in both that are in another split now.
    moved: pd.DataFrame = field(repr=False)
    # Index split; columns base, head, delta (frames).
    splits: pd.DataFrame = field(repr=False)
    # Index class; columns base_share, head_share, delta_share (of pixels), base_frames, head_frames (that show it).
    classes: pd.DataFrame = field(repr=False)
    # Index time_of_day, weather, scene; columns base, head, delta (frames).
    conditions: pd.DataFrame = field(repr=False)
    # Index class, time_of_day, weather, scene; columns base, head, delta (frames that show the class).
    class_conditions: pd.DataFrame = field(repr=False)
    # Index drive_id; columns base, head, delta (frames); only drives whose count changed.
    drives: pd.DataFrame = field(repr=False)
    base_drives: int  # drives of the base manifest
    head_drives: int  # drives of the head manifest

    def counts(self) -> dict[str, int]:
        """Give the size of every kind of change, for a summary."""
        kinds = ("added", "removed", "relabelled", "changed_image", "changed_conditions", "moved")
        sizes = {kind: len(getattr(self, kind)) for kind in kinds}
        return {"base": self.base_frames, "head": self.head_frames, **sizes, "same": self.same}


def diff_manifests(base: pd.DataFrame, head: pd.DataFrame) -> VersionDiff:
    """Compare two manifests by one hash join on frame_id; conditions are those that frames are judged by.

    base, head: one row a frame, ids unique; px_<class> columns (pixel counts) are compared where a manifest has them.
    Raises InputError when a manifest lacks a column or repeats a frame_id.
    """
    tables = [_table(as_judged(frames), which) for frames, which in zip((base, head), _SIDES, strict=True)]
    only_base, rows_base, rows_head, only_head = _match(tables[0]["frame_id"], tables[1]["frame_id"])
    names = ("split", "label_sha256", "image_sha256", *CONDITIONS)
    differ = {name: _differs(tables[0][name].take(rows_base), tables[1][name].take(rows_head)) for name in names}
    moved, relabelled, changed_image = (differ[name] for name in names[:3])
    conditions = np.logical_or.reduce([differ[name] for name in CONDITIONS])
    by_condition, by_class_and_condition = _condition_tables(tables)
    ids = tables[0]["frame_id"]
    drives = _counts(*(_tally(table, "drive_id") for table in tables))
    return VersionDiff(
        base_frames=len(base),
        head_frames=len(head),
        added=_ids(tables[1]["frame_id"], only_head),
        removed=_ids(ids, only_base),
        relabelled=_ids(ids, rows_base[relabelled]),
        changed_image=_ids(ids, rows_base[changed_image]),
        changed_conditions=_ids(ids, rows_base[conditions]),
        same=int(np.count_nonzero(~(moved | conditions | relabelled | changed_image))),
        moved=_moves(tables, rows_base[moved], rows_head[moved]),
        splits=_counts(*(_tally(table, "split") for table in tables)),
        classes=_class_deltas(*tables),
        conditions=by_condition,
        class_conditions=by_class_and_condition,
        drives=drives[drives["delta"] != 0],
        base_drives=int((drives["base"] > 0).sum()),
        head_drives=int((drives["head"] > 0).sum()),
    )


def diff_files(base: Path, head: Path) -> VersionDiff:
    """Compare two manifest files, reading only the columns that are compared."""

    def read(path: Path) -> pd.DataFrame:
        stored = pq.read_schema(path).names if path.is_file() else []
        return read_manifest(path, columns=[*_COMPARED, *(name for name in stored if name.startswith(("px_", TAGGED)))])

    return diff_manifests(read(base), read(head))


def _table(frames: pd.DataFrame, which: str) -> pa.Table:
    absent = [name for name in _COMPARED if name not in frames.columns]
    if absent:
        raise InputError(f"{which} manifest lacks column {absent[0]}; a difference needs {', '.join(_COMPARED)}")
    columns = {name: pa.array(frames[name], pa.large_string(), from_pandas=True) for name in _COMPARED}
    for name in sorted(c for c in frames.columns if c.startswith("px_")):
        columns[name] = pa.array(frames[name].fillna(0).astype(np.int64))
    for name in ("image_sha256", "label_sha256"):
        columns[name] = _fixed_width(columns[name])
    for name in CONDITIONS:
        columns[name] = pc.fill_null(columns[name], UNKNOWN)
    if not _is_unique(columns["frame_id"]):
        repeated = frames.loc[frames["frame_id"].duplicated(), "frame_id"].iloc[0]
        raise InputError(f"{which} manifest holds frame_id {repeated} more than once; ids must be unique")
    return pa.table(columns)


def _fixed_width(hashes: pa.Array) -> pa.Array:
    """Hold hexadecimal hashes without offsets, where all have full length: rows in any order are gathered faster."""
    try:
        return hashes.cast(pa.large_binary()).cast(pa.binary(64))
    except pa.ArrowInvalid:
        return hashes


def _is_unique(ids: pa.Array) -> bool:
    # Manifest files are sorted by id; then one comparison with the neighbour is enough.
    ascending = pc.all(pc.less(ids.slice(0, max(0, len(ids) - 1)), ids.slice(1))).as_py()
    return bool(ascending) or pc.count_distinct(ids).as_py() == len(ids)


def _match(base: pa.Array, head: pa.Array) -> tuple[_Rows, _Rows, _Rows, _Rows]:
    """Match unique ids, as row numbers: only in base; of ids in both, in base and in head; only in head."""
    position = pc.fill_null(pc.index_in(head, value_set=base), -1).to_numpy()
    in_both = position >= 0
    rows_base = position[in_both].astype(np.int64)
    unmatched = np.ones(len(base), bool)
    unmatched[rows_base] = False
    return np.flatnonzero(unmatched), rows_base, np.flatnonzero(in_both), np.flatnonzero(~in_both)


def _differs(old: pa.ChunkedArray, new: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Compare elementwise; null equals null and nothing else."""
    differs = pc.fill_null(pc.not_equal(old, new), pc.xor(pc.is_null(old), pc.is_null(new)))
    found: NDArray[np.bool_] = differs.to_numpy()
    return found


def _ids(values: pa.ChunkedArray, rows: _Rows) -> tuple[str, ...]:
    return tuple(sorted(values.take(rows).to_pylist()))


def _moves(tables: Sequence[pa.Table], rows_base: _Rows, rows_head: _Rows) -> pd.DataFrame:
    base, head = tables
    splits = (base["split"].take(rows_base), head["split"].take(rows_head))
    table = pa.table({"frame_id": base["frame_id"].take(rows_base), "base_split": splits[0], "head_split": splits[1]})
    return table.sort_by("frame_id").to_pandas()


def _tally(table: pa.Table, column: str) -> pd.Series:
    """Count rows by the values of a column."""
    counted = table[column].value_counts()
    values, sizes = counted.field("values"), counted.field("counts")
    return pd.Series(sizes.to_pylist(), index=pd.Index(values.to_pylist(), name=column), dtype=np.int64)


def _counts(base: pd.Series, head: pd.Series) -> pd.DataFrame:
    """Put two counts side by side, with their difference; sorted by index."""
    both = pd.concat([base, head], axis=1, keys=list(_SIDES)).fillna(0).astype(np.int64).sort_index()
    return both.assign(delta=both["head"] - both["base"])


def _pixel_columns(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name.startswith("px_")]


def _class_deltas(base: pa.Table, head: pa.Table) -> pd.DataFrame:
    """Compare each class's share of pixels and the frames that show it; NaN where a manifest has no such column."""
    classes = sorted({name.removeprefix("px_") for table in (base, head) for name in _pixel_columns(table)})
    found = pd.DataFrame(index=pd.Index(classes, name="class"))
    for side, table in zip(_SIDES, (base, head), strict=True):
        columns = _pixel_columns(table)
        pixels = {name.removeprefix("px_"): float(pc.sum(table[name]).as_py() or 0) for name in columns}
        shown = {name.removeprefix("px_"): pc.sum(pc.greater(table[name], 0)).as_py() or 0 for name in columns}
        total = sum(pixels.values())
        found[f"{side}_share"] = pd.Series(pixels, dtype=np.float64) / total if total else np.nan
        found[f"{side}_frames"] = pd.Series(shown, dtype=np.float64)
    found["delta_share"] = found["head_share"] - found["base_share"]
    return found[["base_share", "head_share", "delta_share", "base_frames", "head_frames"]]


def _condition_tables(tables: Sequence[pa.Table]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count frames by condition, and by class and condition, in both tables; only conditions that either has."""
    sides = [_cells(table) for table in tables]
    by_condition = _counts(*(side["frames"] for side in sides))
    classes = sorted({name for side in sides for name in side if name != "frames"})
    shown = [side.reindex(index=by_condition.index, columns=classes).T.stack([0, 1, 2]) for side in sides]
    counted = _counts(*shown).rename(lambda name: name.removeprefix("px_"), level=0)
    return by_condition, counted.rename_axis(index=["class", *CONDITIONS])


def _cells(table: pa.Table) -> pd.DataFrame:
    """Count the frames of each condition, and those that show each class: columns frames and px_<class>."""
    names = _pixel_columns(table)
    counted = {name: pc.greater(table[name], 0).cast(pa.int64()) for name in names}
    counted["frames"] = pa.array(np.ones(len(table), np.int64))
    cells = pa.table({name: table[name] for name in CONDITIONS} | counted).group_by(list(CONDITIONS))
    found = cells.aggregate([(name, "sum") for name in counted]).to_pandas().set_index(list(CONDITIONS))
    return found.rename(columns=lambda name: name.removesuffix("_sum"))
