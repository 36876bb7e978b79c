"""Manifest: what is written comes back, equal content gives equal bytes, and every broken rule is named."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception.data.manifest import (
    COLUMNS,
    empty_manifest,
    read_drives,
    read_manifest,
    validate_manifest,
    write_manifest,
)
from perception.errors import InputError


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def uri(text: str, suffix: str = "png") -> str:
    return f"sha256/{sha(text)[:2]}/{sha(text)}.{suffix}"


def make(count: int = 4, prefix: str = "frame") -> pd.DataFrame:
    """Build a manifest whose even rows are labelled train frames and whose odd rows are unlabelled pool frames."""
    rows = range(count)
    labelled = [row % 2 == 0 for row in rows]
    ids = [f"{prefix}_{row:06d}" for row in rows]
    return pd.DataFrame(
        {
            "frame_id": ids,
            "drive_id": [f"drive_{row // 10}" for row in rows],
            "timestamp_utc": pd.date_range("2026-11-01", periods=count, freq="s", tz="UTC"),
            "camera": ["front" if each else None for each in labelled],
            "domain": ["synthetic" if each else "real" for each in labelled],
            "split": ["train" if each else "pool" for each in labelled],
            "time_of_day": ["night" if each else None for each in labelled],
            "weather": "rain",
            "scene": None,
            "width_px": 480,
            "height_px": 360,
            "image_uri": [uri(f"image {each}", "jpg") for each in ids],
            "image_sha256": [sha(f"image {each}") for each in ids],
            "label_uri": [uri(f"label {row}") if each else None for row, each in zip(rows, labelled, strict=True)],
            "label_sha256": [sha(f"label {row}") if each else None for row, each in zip(rows, labelled, strict=True)],
            "label_source": ["human" if each else "none" for each in labelled],
            "label_taxonomy": ["camvid11" if each else None for each in labelled],
            "instances_uri": None,
            "source": "test",
        }
    )


def test_write_then_read_gives_the_same_frames(tmp_path: Path) -> None:
    frames = make(6).assign(
        px_road=[1, None, 2, None, 3, None],
        void_fraction=0.25,
        score=[0.1, None, 0.2, 0.3, 0.4, 0.5],
        rank=[1, 2, 3, 4, 5, 6],
    )
    digest = write_manifest(frames, tmp_path / "a" / "manifest.parquet")
    again = read_manifest(tmp_path / "a" / "manifest.parquet")
    pd.testing.assert_frame_equal(again, validate_manifest(frames, "memory"))
    assert digest == hashlib.sha256((tmp_path / "a" / "manifest.parquet").read_bytes()).hexdigest()
    assert again["px_road"].dropna().tolist() == [1, 2, 3]
    assert str(again["timestamp_utc"].dtype) == "datetime64[us, UTC]"
    assert again["width_px"].dtype == np.int32 and again["rank"].dtype == np.int32


def test_file_has_the_declared_types(tmp_path: Path) -> None:
    write_manifest(make().assign(px_car=7, confidence=0.5), tmp_path / "manifest.parquet")
    schema = pq.read_schema(tmp_path / "manifest.parquet")
    assert schema.names == [*COLUMNS.names, "confidence", "px_car"]
    for field in COLUMNS:
        assert schema.field(field.name).equals(field), field.name
    assert schema.field("px_car").type == pa.int64() and schema.field("confidence").type == pa.float32()


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    frames = make(50).assign(score=1.0)
    other = frames.sample(frac=1, random_state=3)[frames.columns[::-1]].astype({"camera": object, "split": "category"})
    assert write_manifest(frames, tmp_path / "a.parquet") == write_manifest(other, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_empty_manifest_round_trip(tmp_path: Path) -> None:
    write_manifest(empty_manifest(), tmp_path / "manifest.parquet")
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "manifest.parquet"), empty_manifest())


def test_read_filters_and_columns(tmp_path: Path) -> None:
    frames = make(20)
    write_manifest(frames, tmp_path / "manifest.parquet")
    pool = read_manifest(tmp_path / "manifest.parquet", split="pool", domain="real")
    assert pool["frame_id"].tolist() == frames["frame_id"][frames["split"] == "pool"].tolist()
    some = read_manifest(tmp_path / "manifest.parquet", columns=["split", "frame_id"], domain="synthetic")
    assert list(some.columns) == ["frame_id", "split"] and len(some) == 10
    only = read_manifest(tmp_path / "manifest.parquet", columns=["camera"], split="train")
    assert list(only.columns) == ["camera"] and len(only) == 10
    with pytest.raises(InputError, match="split 'trian' is unknown; use one of pool, train, val, test"):
        read_manifest(tmp_path / "manifest.parquet", split="trian")
    with pytest.raises(InputError, match="column score is not in this manifest"):
        read_manifest(tmp_path / "manifest.parquet", columns=["score"])


def test_read_some_drives(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    frames = make(20).assign(drive_id=[f"drive-{number % 4}" for number in range(20)])
    write_manifest(frames, path)
    frames = read_manifest(path)
    assert sorted(read_drives(path)) == ["drive-0", "drive-1", "drive-2", "drive-3"]
    assert sorted(read_drives(path, split="pool")) == sorted(set(frames.drive_id[frames.split == "pool"]))
    some = read_manifest(path, split="pool", drives={"drive-1", "drive-2", "drive-9"})
    slow = frames[(frames.split == "pool") & frames.drive_id.isin(["drive-1", "drive-2"])]
    assert some.frame_id.tolist() == slow.frame_id.tolist()
    assert len(read_manifest(path, drives=set())) == 0


def test_drives_of_a_manifest_in_several_parts_come_once_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.data.manifest._ROW_GROUP_ROWS", 3)
    path = tmp_path / "manifest.parquet"
    write_manifest(make(20).assign(drive_id=[f"drive-{(7 - number) % 5}" for number in range(20)]), path)
    frames = read_manifest(path)
    for split in (None, "pool"):
        slow = frames.drive_id if split is None else frames.drive_id[frames.split == split]
        assert read_drives(path, split) == list(dict.fromkeys(slow))


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "split=val" / "manifest.parquet"
    write_manifest(make(), path)
    assert set(read_manifest(path)["split"]) == {"train", "pool"}


def put(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frames: pd.DataFrame) -> pd.DataFrame:
        frames[column] = frames[column].astype(object)
        frames.loc[row, column] = value  # type: ignore[index]
        return frames

    return change


BROKEN: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing column": (lambda f: f.drop(columns="split"), "column split is missing; a manifest has the columns frame_id"),
    "unknown column": (lambda f: f.assign(colour=1), "column 'colour' is unknown; remove it"),
    "column twice": (lambda f: pd.concat([f, f[["camera"]]], axis=1), "column camera occurs twice"),
    "text for a number": (lambda f: f.assign(width_px="wide"), "column width_px must have type int32"),
    "fraction for a whole number": (lambda f: f.assign(width_px=1.5), "column width_px must have type int32"),
    "number too large": (lambda f: f.assign(width_px=2**40), "column width_px must have type int32"),
    "flag for a number": (lambda f: f.assign(width_px=True), "column width_px must have type int32"),
    "number for text": (lambda f: f.assign(drive_id=7), "column drive_id must have type string"),
    "mixed column": (put("camera", 1, 5), "column camera must have type string"),
    "time without zone": (
        lambda f: f.assign(timestamp_utc=pd.Timestamp("2026-11-01")),
        "column timestamp_utc must have type timestamp",
    ),
    "text for a time": (lambda f: f.assign(timestamp_utc="yesterday"), "column timestamp_utc must have type timestamp"),
    "duplicate": (put("frame_id", 3, "frame_000001"), "frame_id frame_000001 occurs 2 times, must be unique"),
    "frame_id rule": (put("frame_id", 2, "../x"), r"column frame_id of frame_id ../x is '../x', must match \^"),
    "frame_id with a newline": (put("frame_id", 2, "x\n"), "must match"),
    "null frame_id": (put("frame_id", 2, None), "column frame_id of row 2 is None, must not be null"),
    "null in a required column": (put("source", 3, None), "column source of frame_id frame_000003 is None, must not be null"),
    "empty drive": (put("drive_id", 3, ""), "column drive_id of frame_id frame_000003 is '', must not be empty"),
    "vocabulary": (put("weather", 1, "hail"), "column weather of frame_id frame_000001 is 'hail', must be one of clear, cloudy"),
    "split": (put("split", 0, "dev"), "column split of frame_id frame_000000 is 'dev', must be one of pool, train, val, test"),
    "taxonomy": (
        put("label_taxonomy", 0, "kitti"),
        "label_taxonomy of frame_id frame_000000 is 'kitti', must be one of bdd100k, camvid11, cityscapes19",
    ),
    "none with a label": (put("label_source", 0, "none"), "column label_uri of frame_id frame_000000 is 'sha256.*must be null where"),
    "source without a label": (
        put("label_source", 1, "human"),
        "column label_uri of frame_id frame_000001 is None, must not be null where label_source is not none",
    ),
    "label without its hash": (put("label_sha256", 2, None), "column label_sha256 of frame_id frame_000002 is None"),
    "label without its taxonomy": (put("label_taxonomy", 2, None), "column label_taxonomy of frame_id frame_000002 is None"),
    "machine path": (put("image_uri", 0, "/data/a.jpg"), "column image_uri of frame_id frame_000000 is '/data/a.jpg', must match"),
    "another blob's uri": (put("image_uri", 0, uri("other", "jpg")), "must be the address of image_sha256"),
    "upper-case hash": (put("image_sha256", 0, "A" * 64), "column image_sha256 of frame_id frame_000000"),
    "no width": (put("width_px", 1, 0), "column width_px of frame_id frame_000001 is 0, must be at least 1"),
    "negative count": (lambda f: f.assign(px_road=[0, 1, -2, 3]), "column px_road of frame_id frame_000002 is -2"),
    "void above one": (lambda f: f.assign(void_fraction=[0, 1, 1.5, 0]), "column void_fraction of frame_id frame_000002"),
    "infinite score": (lambda f: f.assign(score=[1, np.inf, 2, 3]), "column score of frame_id frame_000001 is inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_rule_is_named_on_write_and_in_memory(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    with pytest.raises(InputError, match=message) as caught:
        write_manifest(change(make()), tmp_path / "manifest.parquet")
    assert str(caught.value).startswith(str(tmp_path / "manifest.parquet: "))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=message):
        validate_manifest(change(make()), "memory")


@pytest.mark.parametrize(
    "name",
    ["missing column", "unknown column", "duplicate", "frame_id rule", "null in a required column", "vocabulary",
     "none with a label", "source without a label", "text for a number", "number for text", "negative count"],
)  # fmt: skip
def test_every_broken_rule_is_named_on_read(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    path = tmp_path / "manifest.parquet"
    pq.write_table(_arrow(change(validate_manifest(make(), "memory"))), path)
    with pytest.raises(InputError, match=message.replace("must have type", "has type .*, must be")) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


def _arrow(frames: pd.DataFrame) -> pa.Table:
    """Convert as another program would: the declared types where they fit, whatever Arrow infers elsewhere."""
    columns = {}
    for name in frames.columns:
        column = pa.array(frames[name], from_pandas=True)
        try:
            columns[name] = column.cast(COLUMNS.field(name).type)
        except (KeyError, pa.ArrowException):
            columns[name] = column
        if name == "drive_id" and pa.types.is_integer(column.type):
            columns[name] = column
    return pa.table(columns)


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.999])
def test_truncated_file(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(make(1000), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(InputError, match=r"not a readable Parquet file .*; write it again or restore it") as caught:
        read_manifest(path)
    assert "\n" not in str(caught.value)


def test_corrupt_pages(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(make(1000), path)
    data = bytearray(path.read_bytes())
    data[50:4000] = bytes(3950)
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_manifest(path)


def test_one_flipped_bit_in_the_data_is_found(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(make(1000), path)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_manifest(path)


def test_text_that_is_no_utf8(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(validate_manifest(make(), "memory"), preserve_index=False)
    broken = pa.Array.from_buffers(pa.binary(), 4, pa.array([b"a\xff"] * 4, pa.binary()).buffers()).view(pa.string())
    place = table.column_names.index("drive_id")
    pq.write_table(table.set_column(place, "drive_id", broken), tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_manifest(tmp_path / "manifest.parquet")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.parquet", tmp_path):
        with pytest.raises(InputError, match=r"no such manifest file; give the path of a manifest.parquet"):
            read_manifest(path)


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_manifest(make(), tmp_path / "file" / "manifest.parquet")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    digest = write_manifest(make(), path)
    with pytest.raises(InputError):
        write_manifest(make().drop(columns="split"), path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_large_file_in_row_groups(tmp_path: Path) -> None:
    """More rows than a row group holds; filters and uniqueness work across groups."""
    few = make(100)
    frames = pd.concat([few] * 700, ignore_index=True)
    frames["frame_id"] = [f"f{row:07d}" for row in range(len(frames))]
    path = tmp_path / "manifest.parquet"
    write_manifest(frames, path)
    assert pq.ParquetFile(path).num_row_groups == 2
    assert len(read_manifest(path, split="train")) == 35_000
    frames.loc[69_999, "frame_id"] = "f0000000"
    with pytest.raises(InputError, match="frame_id f0000000 occurs 2 times"):
        validate_manifest(frames, "memory")


UNKNOWN = ["timestamp_utc", "camera", "time_of_day", "weather", "scene"]  # of footage that says nothing about itself


@pytest.mark.parametrize("column", UNKNOWN)
def test_a_column_of_nulls_keeps_its_type_through_every_write_read_and_join(tmp_path: Path, column: str) -> None:
    path, again = tmp_path / "bare.parquet", tmp_path / "again.parquet"
    write_manifest(make().assign(**dict.fromkeys(UNKNOWN)), path)
    bare, known = read_manifest(path), make(prefix="known")
    assert bare[column].isna().all() and pq.read_schema(path).field(column).type == COLUMNS.field(column).type
    assert write_manifest(bare, again) == write_manifest(make().assign(**dict.fromkeys(UNKNOWN)), path)
    write_manifest(pd.concat([bare, known], ignore_index=True), again)
    assert pq.read_schema(again).field(column).type == COLUMNS.field(column).type
    joined = read_manifest(again).set_index("frame_id")[column]
    assert joined[list(bare.frame_id)].isna().all()
    assert joined[list(known.frame_id)].notna().sum() == known[column].notna().sum()
