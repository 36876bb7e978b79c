"""Properties over generated input: what is good comes back whole, and nothing bad gets through or fails unexplained."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.manifest import (
    COLUMNS,
    DOMAINS,
    LABEL_SOURCES,
    SCENES,
    SPLITS,
    TIMES_OF_DAY,
    WEATHERS,
    empty_manifest,
    read_manifest,
    validate_manifest,
    write_manifest,
)
from perception.data.shards import read_shard, write_shard
from perception.data.store import FolderStore
from perception.data.taxonomies import label_lookup, load_taxonomy, taxonomy_names
from perception.errors import InputError

# The folder of a test is shared by its examples on purpose: each overwrites the file of the one before.
quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

IDS = st.text("aZ0_-", min_size=1, max_size=8) | st.sampled_from(["x" * 200, "y" * 101, "z" * 100])
HASHES = st.sampled_from([hashlib.sha256(bytes([number])).hexdigest() for number in range(20)])
TEXTS = st.text(min_size=1, max_size=4)


def uri(sha256: str, suffix: str) -> str:
    return f"sha256/{sha256[:2]}/{sha256}.{suffix}"


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    image = draw(HASHES)
    source = draw(st.sampled_from(LABEL_SOURCES))
    label = None if source == "none" else draw(HASHES)
    return {
        "frame_id": draw(IDS),
        "drive_id": draw(TEXTS),
        "timestamp_utc": draw(st.none() | st.datetimes(pd.Timestamp(1990, 1, 1), pd.Timestamp(2100, 1, 1)).map(utc)),
        "camera": draw(st.none() | TEXTS),
        "domain": draw(st.sampled_from(DOMAINS)),
        "split": draw(st.sampled_from(SPLITS)),
        "time_of_day": draw(st.none() | st.sampled_from(TIMES_OF_DAY)),
        "weather": draw(st.none() | st.sampled_from(WEATHERS)),
        "scene": draw(st.none() | st.sampled_from(SCENES)),
        "width_px": draw(st.integers(1, 2**31 - 1)),
        "height_px": draw(st.integers(1, 2**31 - 1)),
        "image_uri": uri(image, "jpg"),
        "image_sha256": image,
        "label_uri": None if label is None else uri(label, "png"),
        "label_sha256": label,
        "label_source": source,
        "label_taxonomy": None if label is None else draw(st.sampled_from(taxonomy_names())),
        "instances_uri": draw(st.none() | HASHES.map(lambda each: uri(each, "png"))),
        "source": draw(TEXTS),
        "score": draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        "px_road": draw(st.none() | st.integers(0, 2**40)),
        "reason": draw(st.none() | st.text(max_size=4)),
    }


def utc(time: Any) -> pd.Timestamp:
    return pd.Timestamp(time, tz="UTC")


ROWS = st.lists(row(), min_size=1, max_size=5, unique_by=lambda each: each["frame_id"])


def frames_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"timestamp_utc": "datetime64[us, UTC]"})


LABEL = hashlib.sha256(b"label").hexdigest()
FIXED: list[dict[str, Any]] = [
    {
        **dict.fromkeys(COLUMNS.names),
        "frame_id": f"frame_{number}", "drive_id": "drive", "timestamp_utc": utc("2026-11-01T04:05:06"), "domain": "real",
        "split": "pool", "width_px": 480, "height_px": 360, "image_uri": uri(LABEL, "jpg"), "image_sha256": LABEL,
        "label_uri": uri(LABEL, "png"), "label_sha256": LABEL, "label_source": "human", "label_taxonomy": "gta5",
        "source": "fleet",
    }
    for number in range(3)
]  # fmt: skip


@quick
@given(rows=ROWS, order=st.randoms(use_true_random=False))
def test_a_manifest_comes_back_whole_and_the_same_to_the_byte(tmp_path: Path, rows: list[Any], order: Any) -> None:
    digest = write_manifest(frames_of(rows), tmp_path / "a.parquet")
    again = read_manifest(tmp_path / "a.parquet")
    expected = sorted(rows, key=lambda each: each["frame_id"].encode())
    for name in [*COLUMNS.names, "score", "px_road", "reason"]:
        found = [None if pd.isna(value) else value for value in again[name]]
        assert found == [each[name] for each in expected], name
    order.shuffle(rows)
    assert write_manifest(frames_of(rows), tmp_path / "b.parquet") == digest
    assert write_manifest(again, tmp_path / "c.parquet") == digest


@quick
@given(name=st.sampled_from(COLUMNS.names), place=st.integers(0, 4), value=st.none() | TEXTS | st.integers())
def test_a_changed_cell_passes_only_if_it_is_allowed(name: str, place: int, value: Any) -> None:
    """Put an arbitrary value into one cell; either the manifest is refused in one line or the rules, checked row by row, hold."""
    rows = [dict(each) for each in FIXED]
    rows[place % len(rows)][name] = value
    try:
        frames = validate_manifest(pd.DataFrame(rows), "memory")
    except InputError as error:
        assert "\n" not in str(error) and str(error).startswith("memory: ")
        assert not slow_check(rows), f"refused without a reason: {error}"
    else:
        assert slow_check(rows)
        assert len(frames) == len(rows)


def slow_check(rows: list[dict[str, Any]]) -> bool:
    """Check the rules one row after another, in plain Python."""
    return len({each["frame_id"] for each in rows}) == len(rows) and all(slow_check_row(each) for each in rows)


def slow_check_row(each: dict[str, Any]) -> bool:
    for field in COLUMNS:
        value = each[field.name]
        kinds = {"string": str, "int32": int}.get(str(field.type), pd.Timestamp)
        if (value is None and not field.nullable) or (value is not None and not isinstance(value, kinds)):
            return False
    vocabularies = {
        "domain": DOMAINS, "split": SPLITS, "time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES,
        "label_source": LABEL_SOURCES, "label_taxonomy": taxonomy_names(),
    }  # fmt: skip
    if any(each[name] is not None and each[name] not in known for name, known in vocabularies.items()):
        return False
    label = [each["label_uri"], each["label_sha256"], each["label_taxonomy"]]
    if any((value is None) != (each["label_source"] == "none") for value in label):
        return False
    return (
        all(1 <= each[name] < 2**31 for name in ("width_px", "height_px"))
        and 1 <= len(each["frame_id"]) <= 200
        and set(each["frame_id"]) <= ALLOWED
        and bool(each["drive_id"])
        and bool(each["source"])
        and is_address(each["image_uri"], each["image_sha256"])
        and (label[0] is None or is_address(label[0], label[1]))
        and (each["instances_uri"] is None or is_address(each["instances_uri"], each["instances_uri"][10:74]))
    )


ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def is_address(text: str, sha256: str) -> bool:
    suffix = text.rpartition(".")[2]
    return (
        len(sha256) == 64
        and set(sha256) <= set("0123456789abcdef")
        and suffix.isalnum()
        and text == uri(sha256, suffix)
    )


@quick
@given(place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=12))
def test_a_damaged_manifest_file_is_refused_or_reads_as_valid(tmp_path: Path, place: float, noise: bytes) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(empty_manifest() if place < 0.1 else frames_of(FIXED), path)
    damaged = bytearray(path.read_bytes())
    start = int(place * len(damaged))
    damaged[start : start + len(noise)] = noise
    path.write_bytes(damaged)
    try:
        validate_manifest(read_manifest(path), "read")
    except InputError as error:
        assert "\n" not in str(error)


@quick
@given(
    members=st.dictionaries(
        IDS,
        st.dictionaries(st.sampled_from(["jpg", "json", "label.png", "cls"]), st.binary(max_size=1500)).filter(bool),
        max_size=6,
    )
)
def test_a_shard_comes_back_whole(tmp_path: Path, members: dict[str, dict[str, bytes]]) -> None:
    digest = write_shard(members.items(), tmp_path / "a.tar")
    assert dict(read_shard(tmp_path / "a.tar")) == members
    assert write_shard(reversed(members.items()), tmp_path / "b.tar") == digest
    assert (tmp_path / "a.tar").stat().st_size % 10240 == 0


@quick
@given(place=st.integers(0, 4000), noise=st.binary(min_size=1, max_size=300), keep=st.integers(0, 10240))
def test_a_damaged_shard_is_refused_or_gives_only_plain_files(
    tmp_path: Path, place: int, noise: bytes, keep: int
) -> None:
    write_shard([("a", {"jpg": b"x" * 700, "png": b"y"}), ("b", {"jpg": b"z"})], tmp_path / "good.tar")
    data = bytearray((tmp_path / "good.tar").read_bytes())
    data[place : place + len(noise)] = noise
    (tmp_path / "bad.tar").write_bytes(data[:keep])
    try:
        for key, files in read_shard(tmp_path / "bad.tar"):
            assert not key.startswith("/") and ".." not in key.split("/")
            assert files
    except InputError as error:
        assert "\n" not in str(error)


@quick
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 255)))
def test_a_label_is_refused_exactly_when_it_holds_an_unknown_value(pixels: np.ndarray) -> None:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    for name in taxonomy_names():
        taxonomy = load_taxonomy(name)
        unknown = [value for value in pixels.ravel().tolist() if taxonomy.raw[value] == 254]
        if unknown:
            with pytest.raises(BadFrame) as caught:
                decode_label(data.getvalue(), "label", taxonomy, pixels.shape)
            assert f"{min(unknown)} ({unknown.count(min(unknown))} px)" in str(caught.value)
        else:
            assert np.array_equal(decode_label(data.getvalue(), "label", taxonomy, pixels.shape), pixels)


@quick
@given(
    data=st.binary(max_size=400),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"IEND\xaeB`\x82"]),
)
def test_arbitrary_bytes_are_never_an_image(data: bytes, start: bytes) -> None:
    for bytes_ in (start + data, start + data + b"IEND\xaeB`\x82"):
        with pytest.raises(BadFrame) as caught:
            decode_image(bytes_, "image")
        assert "\n" not in str(caught.value)


@quick
@given(format=st.sampled_from(["PNG", "JPEG"]), place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=40))
def test_a_damaged_image_is_refused_or_keeps_its_form(format: str, place: float, noise: bytes) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, format)
    data = bytearray(file.getvalue())
    start = int(place * len(data))
    data[start : start + len(noise)] = noise
    try:
        decoded = decode_image(bytes(data), "image")
    except BadFrame as error:
        assert "\n" not in str(error)
    else:
        assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3


@quick
@given(data=st.binary(max_size=2000), suffix=st.text("abcxyz019", min_size=1, max_size=5))
def test_a_blob_comes_back(tmp_path: Path, data: bytes, suffix: str) -> None:
    store = FolderStore(tmp_path)
    assert store.get(store.put(data, suffix).uri) == data


@quick
@given(uri=st.text(max_size=90) | st.text("sha256/.0af\n", max_size=90))
def test_no_text_that_is_not_an_address_reaches_the_disk(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InputError, match="blob uri"):
        FolderStore(tmp_path).get(uri)


@given(source=st.sampled_from(taxonomy_names()), target=st.sampled_from(taxonomy_names()))
def test_every_lookup_gives_only_classes_of_its_target(source: str, target: str) -> None:
    values = set(label_lookup(source, target).tolist())
    assert values <= {*range(len(load_taxonomy(target).classes)), 255}


def test_the_empty_manifest_is_valid() -> None:
    assert slow_check([]) and len(validate_manifest(empty_manifest(), "memory")) == 0
