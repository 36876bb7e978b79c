"""The frame manifest: one typed Parquet row a frame, validated whenever it is read or written."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perception.data.files import replace_file
from perception.data.taxonomies import taxonomy_names
from perception.errors import InputError

DOMAINS = ("synthetic", "real")
SPLITS = ("pool", "train", "val", "test")
TIMES_OF_DAY = ("day", "twilight", "night", "artificial_light", "backlit")
WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
SCENES = ("urban", "freeway", "unmarked")
TAGGED = "tagged_"  # before the name of a condition: what annotators say of it; what the sender said stays as it is
LABEL_SOURCES = ("human", "simulator", "pseudo", "none")

FRAME_ID_RULE = "^[A-Za-z0-9_-]{1,200}$"
URI_RULE = r"^sha256/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9]+$"
_SHA256_RULE = "^[0-9a-f]{64}$"
_PIXEL_COLUMN_RULE = re.compile("px_[a-z0-9_]+")

COLUMNS = pa.schema(
    [
        pa.field("frame_id", pa.string(), nullable=False),
        pa.field("drive_id", pa.string(), nullable=False),
        pa.field("timestamp_utc", pa.timestamp("us", "UTC")),
        pa.field("camera", pa.string()),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("time_of_day", pa.string()),
        pa.field("weather", pa.string()),
        pa.field("scene", pa.string()),
        pa.field("width_px", pa.int32(), nullable=False),
        pa.field("height_px", pa.int32(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("label_uri", pa.string()),
        pa.field("label_sha256", pa.string()),
        pa.field("label_source", pa.string(), nullable=False),
        pa.field("label_taxonomy", pa.string()),
        pa.field("instances_uri", pa.string()),
        pa.field("source", pa.string(), nullable=False),
    ]
)

# Stages add these where they know them; px_<class> columns (int64 pixel counts) are known by their prefix.
OPTIONAL_COLUMNS = pa.schema(
    [
        pa.field("void_fraction", pa.float32()),
        pa.field("score", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("confidence", pa.float32()),
        pa.field("label_drop", pa.string()),  # batch/annotator/date of a label that came back from annotation
        *(pa.field(TAGGED + name, pa.string()) for name in ("time_of_day", "weather", "scene")),  # by annotators
        pa.field("tag_drop", pa.string()),  # batch/annotator/date of these tags
        pa.field("prelabel_uri", pa.string()),  # of a frame in an annotation batch: what its annotator starts from
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("source_sha256", pa.string()),
        pa.field("privacy", pa.string()),
    ]
)

_VOCABULARIES = {
    "domain": DOMAINS,
    "split": SPLITS,
    "time_of_day": TIMES_OF_DAY,
    "weather": WEATHERS,
    "scene": SCENES,
    "label_source": LABEL_SOURCES,
    TAGGED + "time_of_day": TIMES_OF_DAY,
    TAGGED + "weather": WEATHERS,
    TAGGED + "scene": SCENES,
}
_PATTERNS = {
    "frame_id": FRAME_ID_RULE,
    "image_uri": URI_RULE,
    "label_uri": URI_RULE,
    "instances_uri": URI_RULE,
    "prelabel_uri": URI_RULE,
    "image_sha256": _SHA256_RULE,
    "label_sha256": _SHA256_RULE,
    "source_sha256": _SHA256_RULE,
}
_MINIMA = {
    "width_px": 1,
    "height_px": 1,
    "rank": 0,
    "void_fraction": 0,
    "confidence": 0,
    "latitude": -90,
    "longitude": -180,
}
_MAXIMA = {"void_fraction": 1, "confidence": 1, "latitude": 90, "longitude": 180}
# Small enough that a filter on split or domain skips most of a large pool, large enough to compress well.
_ROW_GROUP_ROWS = 65_536


def empty_manifest(*optional: str) -> pd.DataFrame:
    """Return a manifest without rows whose columns have their types; optional: names of OPTIONAL_COLUMNS that it has too."""
    return pa.schema([*COLUMNS, *map(OPTIONAL_COLUMNS.field, optional)]).empty_table().to_pandas()


def validate_manifest(frames: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a manifest and return it with its columns in order and typed; row order stays, the index is renumbered.

    `where` names the manifest in messages. Missing strings come back as NaN of pandas' str type: test them with isna().
    Whole numbers that may be missing (px_<class>, rank) come back as float64 where one is missing.
    Raises InputError that names the column, the first offending frame_id, the rule and the remedy.
    """
    return _frames(_validated_table(frames, where))


def read_manifest(
    path: Path,
    columns: Sequence[str] | None = None,
    split: str | None = None,
    domain: str | None = None,
    drives: Collection[str] | None = None,
    *,
    repeats: bool = False,
) -> pd.DataFrame:
    """Read and validate a manifest file, optionally only some columns and only the frames of a split, domain or drives.

    Row groups and columns that are not asked for are not read, and of frames that are not asked for none is kept: a
    process that works on a part of a large pool needs memory for that part. Types are checked for every column, values
    for those that are read. repeats: a frame_id may occur more than once, as in what has just arrived.
    Raises InputError for a file that is missing, unreadable or invalid.
    """
    return _frames(_read_table(path, columns, split, domain, drives, repeats=repeats))


def read_drives(path: Path, split: str | None = None) -> list[str]:
    """Return the drives of a manifest file, each once, in the order of their first frames; raises as read_manifest."""
    column = _read_table(path, ["drive_id"], split, None, keep=_first_of_each)["drive_id"]
    drives: list[str] = column.unique().to_pylist()
    return drives


def _first_of_each(column: pa.Table) -> pa.Table:
    """Keep each value of a table's only column once: a drive has thousands of frames."""
    return pa.table([column[0].unique()], schema=column.schema)


def write_manifest(frames: pd.DataFrame, path: Path, *, repeats: bool = False) -> str:
    """Validate a manifest and write it, sorted by frame_id; return the sha256 of the file.

    Equal content gives equal bytes whatever the order of rows and columns. The file appears whole or not at all.
    repeats: as in read_manifest.
    Raises InputError for an invalid manifest or a path that cannot be written.
    """
    table = _validated_table(frames, str(path), repeats).sort_by("frame_id").combine_chunks()
    data = pa.BufferOutputStream()
    pq.write_table(table, data, compression="zstd", row_group_size=_ROW_GROUP_ROWS, write_page_checksum=True)
    contents = data.getvalue().to_pybytes()
    try:
        replace_file(path, contents)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); give a folder with space to write to"
        ) from None
    return hashlib.sha256(contents).hexdigest()


def _frames(table: pa.Table) -> pd.DataFrame:
    frames: pd.DataFrame = table.to_pandas()
    if len(frames):
        return frames
    # pandas cannot join on text columns without a chunk, which is what Arrow gives for a table without a row.
    texts = [name for name in frames if isinstance(frames[name].dtype, pd.StringDtype)]
    return frames.assign(**{name: pd.Series([], dtype="str") for name in texts})


# --- reading


def _read_table(
    path: Path,
    columns: Sequence[str] | None,
    split: str | None,
    domain: str | None,
    drives: Collection[str] | None = None,
    keep: Callable[[pa.Table], pa.Table] | None = None,
    *,
    repeats: bool = False,
) -> pa.Table:
    _check_filter("split", split, SPLITS)
    _check_filter("domain", domain, DOMAINS)
    if not path.is_file():
        raise InputError(f"{path}: no such manifest file; give the path of a manifest.parquet")
    try:
        schema = pq.read_schema(path)
        _check_stored_schema(schema, str(path))
        names = _wanted(schema.names, columns, str(path))
        table = _rows(
            path, names, {"split": split and [split], "domain": domain and [domain], "drive_id": drives}, keep
        )
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a column name that is no UTF-8
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable Parquet file ({reason}); write it again or restore it") from None
    table = pa.table([_plain(column) for column in table.columns], names=table.column_names).select(names)
    _check_values(table, str(path), repeats)
    return table


def _rows(
    path: Path,
    names: Sequence[str],
    wanted: Mapping[str, Collection[str] | None],
    keep: Callable[[pa.Table], pa.Table] | None,
) -> pa.Table:
    """Read columns of the rows that hold wanted values, row group by row group: what is not wanted is soon forgotten.

    keep: given wanted rows, a group's or all, returns those to go on with.
    """
    conditions = {
        name: pc.field(name).isin(pa.array(sorted(values), pa.string()))
        for name, values in wanted.items()
        if values is not None
    }
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if not conditions:
            found = file.read(columns=list(names)).select(names)
            return keep(found) if keep else found
        condition, parts = reduce(and_, conditions.values()), [file.schema_arrow.empty_table().select(names)]
        for number in range(file.num_row_groups):
            # Most columns are not decoded where the few that are asked about match nowhere.
            if file.read_row_group(number, columns=list(conditions)).filter(condition).num_rows:
                group = file.read_row_group(number, columns=list({*names, *conditions}))
                found = group.filter(condition).select(names)
                parts.append(keep(found) if keep else found)
    return pa.concat_tables(parts)


def _check_filter(name: str, value: str | None, vocabulary: Sequence[str]) -> None:
    if value is not None and value not in vocabulary:
        raise InputError(f"{name} {value!r} is unknown; use one of {', '.join(vocabulary)}")


def _check_stored_schema(schema: pa.Schema, where: str) -> None:
    _check_names(schema.names, where)
    for stored in schema:
        wanted = _field(stored.name)
        assert wanted is not None, stored.name
        if _plain_type(stored.type) != wanted.type:
            raise InputError(f"{where}: column {stored.name} has type {stored.type}, must be {wanted.type}; convert it")


def _wanted(names: Sequence[str], columns: Sequence[str] | None, where: str) -> list[str]:
    absent = [name for name in columns or () if name not in names]
    if absent:
        raise InputError(f"{where}: column {absent[0]} is not in this manifest; it has {', '.join(names)}")
    return _ordered(names if columns is None else columns)


# --- columns and types


def _field(name: str) -> pa.Field | None:
    """Give the declared field of a column; None when the name is not one that a manifest may have."""
    for schema in (COLUMNS, OPTIONAL_COLUMNS):
        if name in schema.names:
            return schema.field(name)
    return pa.field(name, pa.int64()) if _PIXEL_COLUMN_RULE.fullmatch(name) else None


def _ordered(names: Iterable[str]) -> list[str]:
    """Order column names: required, optional, then px_<class> by name."""
    declared = [*COLUMNS.names, *OPTIONAL_COLUMNS.names]
    present = set(names)
    return [name for name in declared if name in present] + sorted(present - set(declared))


def _check_names(names: Sequence[Any], where: str) -> None:
    for name in COLUMNS.names:
        if name not in names:
            raise InputError(
                f"{where}: column {name} is missing; a manifest has the columns {', '.join(COLUMNS.names)}"
            )
    for position, name in enumerate(names):
        if not isinstance(name, str) or _field(name) is None:
            known = ", ".join([*OPTIONAL_COLUMNS.names, "px_<class>"])
            raise InputError(
                f"{where}: column {name!r} is unknown; remove it, or use one of the optional columns {known}"
            )
        if name in names[:position]:
            raise InputError(f"{where}: column {name} occurs twice; keep one of them")


def _validated_table(frames: pd.DataFrame, where: str, repeats: bool = False) -> pa.Table:
    _check_names(list(frames.columns), where)
    fields = [_field(name) for name in _ordered(frames.columns)]
    columns = [_column(frames, field, where) for field in fields]
    table = pa.table(columns, schema=pa.schema(fields))
    _check_values(table, where, repeats)
    return table


def _column(frames: pd.DataFrame, field: pa.Field, where: str) -> pa.Array | pa.ChunkedArray:
    """Convert one pandas column to its declared type; only conversions that lose nothing are allowed."""
    try:
        found = _plain(pa.array(frames[field.name], from_pandas=True))
        if not _may_become(found.type, field.type):
            raise pa.ArrowTypeError(f"it holds {found.type}")
        return found.cast(field.type)
    except (pa.ArrowException, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where}: column {field.name} must have type {field.type} ({reason}); convert it before writing"
        ) from None


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """See through the encodings in which Parquet and pandas hold strings."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(value) else value


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return column.cast(_plain_type(column.type)) if _plain_type(column.type) != column.type else column


def _may_become(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_null(found) or found == wanted:
        return True
    if pa.types.is_timestamp(wanted):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    # Whole numbers with gaps are floats in pandas; Arrow's safe cast refuses a fraction for an integer column.
    numeric = pa.types.is_integer(wanted) or pa.types.is_floating(wanted)
    return bool(numeric and (pa.types.is_integer(found) or pa.types.is_floating(found)))


# --- values


def _check_values(table: pa.Table, where: str, repeats: bool) -> None:
    """Check every rule whose columns are present; repeats: but the one that a frame_id occurs once."""
    _check_nulls(table, where)
    _check_texts(table, where)
    _check_numbers(table, where)
    _check_labels(table, where)
    _check_uris(table, where)
    if not repeats:
        _check_unique(table, where)


def _check_nulls(table: pa.Table, where: str) -> None:
    for name in COLUMNS.names:
        if name in table.column_names and not COLUMNS.field(name).nullable:
            _refuse(table, where, name, pc.is_null(table[name]), "must not be null", "fill it in")


def _check_texts(table: pa.Table, where: str) -> None:
    vocabularies = {**_VOCABULARIES, "label_taxonomy": taxonomy_names()}
    for name, vocabulary in vocabularies.items():
        if name in table.column_names:
            known = pc.is_in(table[name], value_set=pa.array([*vocabulary, None], pa.string()))
            _refuse(table, where, name, pc.invert(known), f"must be one of {', '.join(vocabulary)}", "correct it")
    for name, pattern in _PATTERNS.items():
        if name in table.column_names:
            broken = pc.invert(pc.match_substring_regex(table[name], pattern.replace("$", r"\z")))
            _refuse(table, where, name, broken, f"must match {pattern}", "correct it")
    for name in ("drive_id", "source"):
        if name in table.column_names:
            _refuse(table, where, name, pc.equal(table[name], ""), "must not be empty", "fill it in")


def _check_numbers(table: pa.Table, where: str) -> None:
    pixel_columns = dict.fromkeys((name for name in table.column_names if name.startswith("px_")), 0)
    for name, low in {**_MINIMA, **pixel_columns}.items():
        if name in table.column_names:
            _refuse(table, where, name, pc.less(table[name], low), f"must be at least {low}", "correct it")
    for name, high in _MAXIMA.items():
        if name in table.column_names:
            _refuse(table, where, name, pc.greater(table[name], high), f"must be at most {high}", "correct it")
    if "score" in table.column_names:
        _refuse(
            table, where, "score", pc.invert(pc.is_finite(table["score"])), "must be finite", "score the frame again"
        )


def _check_labels(table: pa.Table, where: str) -> None:
    if {"label_source", "label_uri"} <= set(table.column_names):
        unlabelled = pc.equal(table["label_source"], "none")
        absent = pc.is_null(table["label_uri"])
        _refuse(
            table, where, "label_uri", pc.and_not(unlabelled, absent),
            "must be null where label_source is none", "name the label's source or remove the label",
        )  # fmt: skip
        _refuse(
            table, where, "label_uri", pc.and_not(absent, unlabelled),
            "must not be null where label_source is not none", "add the label or set label_source to none",
        )  # fmt: skip
    for name in ("label_sha256", "label_taxonomy"):
        if {name, "label_uri"} <= set(table.column_names):
            differs = pc.xor(pc.is_null(table[name]), pc.is_null(table["label_uri"]))
            _refuse(table, where, name, differs, "must be null exactly where label_uri is null", "give both or neither")


def _check_uris(table: pa.Table, where: str) -> None:
    """Check that a uri is the address of its own sha256: sha256/<first two>/<all 64>.<suffix>."""
    for uri, sha256 in (("image_uri", "image_sha256"), ("label_uri", "label_sha256")):
        if {uri, sha256} <= set(table.column_names):
            named = pc.utf8_slice_codeunits(table[uri], 10, 74)
            folder = pc.utf8_slice_codeunits(table[uri], 7, 9)
            first = pc.utf8_slice_codeunits(table[sha256], 0, 2)
            differs = pc.or_(pc.not_equal(named, table[sha256]), pc.not_equal(folder, first))
            _refuse(table, where, uri, differs, f"must be the address of {sha256}", "put the blob into the store again")


def _check_unique(table: pa.Table, where: str) -> None:
    if "frame_id" not in table.column_names or pc.count_distinct(table["frame_id"]).as_py() == len(table):
        return
    ids = table["frame_id"].to_pandas()
    repeated = ids[ids.duplicated()].iloc[0]
    count = int((ids == repeated).sum())
    raise InputError(f"{where}: frame_id {repeated} occurs {count} times, must be unique; remove or rename the others")


def _refuse(table: pa.Table, where: str, name: str, broken: pa.ChunkedArray, rule: str, remedy: str) -> None:
    """Raise InputError for the first row where `broken` is true; rows where it is null are fine."""
    row = pc.index(broken, True).as_py()
    if row < 0:
        return
    frame = table["frame_id"][row].as_py() if "frame_id" in table.column_names else None
    subject = f"row {row}" if frame is None else f"frame_id {frame if frame.isprintable() else repr(frame)}"
    count = pc.sum(broken).as_py()
    others = f" (and {count - 1} more)" if count > 1 else ""
    raise InputError(f"{where}: column {name} of {subject}{others} is {table[name][row].as_py()!r}, {rule}; {remedy}")
