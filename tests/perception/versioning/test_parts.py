"""What a machine keeps of tables that grow: blocks and indexes give what the parts themselves give, and are mended or refused."""

import shutil
from itertools import chain

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import InputError
from perception.versioning import parts as parts_module
from perception.versioning.parts import _ranges, fetched, holding, in_blocks, put_parts, read_kept


def put(remote, *columns):
    """One part for each list of values."""
    tables = {f"t{place}": pa.table({"name": pa.array(values, pa.string())}) for place, values in enumerate(columns)}
    return list(put_parts(str(remote), tables).values())


def names(paths):
    return [name for path in paths for name in read_kept(path)["name"].to_pylist()]


def test_ranges_cover_a_list_and_a_longer_one_begins_with_the_same():
    assert (
        list(_ranges(0)) == [] and list(_ranges(6)) == [(0, 4), (4, 6)] and list(_ranges(7)) == [(0, 4), (4, 6), (6, 7)]
    )
    for count in range(200):
        ranges = list(_ranges(count))
        assert [number for start, end in ranges for number in range(start, end)] == list(range(count))
        assert len(ranges) <= count.bit_length() and all((end - start).bit_count() == 1 for start, end in ranges)


@settings(max_examples=25, deadline=None)
@given(
    columns=st.lists(st.lists(st.sampled_from(["a", "b", "é", "", None]), max_size=4), max_size=9),
    wanted=st.sets(st.sampled_from(["a", "é", "", "z"])),
)
def test_blocks_hold_every_row_and_an_index_finds_every_part(tmp_path_factory, columns, wanted):
    folder = tmp_path_factory.mktemp("kept")
    found = put(folder / "remote", *columns)
    for count in (len(found) // 2, len(found)):  # the longer list goes on from what was kept for the shorter
        assert names(in_blocks(str(folder / "remote"), found[:count], folder / "kept")) == list(chain(*columns[:count]))
        told = holding(str(folder / "remote"), found[:count], "name", sorted(wanted), folder / "kept")
        assert told == [place for place, values in enumerate(columns[:count]) if wanted & set(values)]


def test_what_is_kept_is_not_fetched_again(tmp_path, monkeypatch):
    remote, kept = tmp_path / "remote", tmp_path / "kept"
    found = put(remote, ["a"], ["b"], ["c"])
    assert holding(str(remote), found, "name", ["b"], kept) == [1] and names(in_blocks(str(remote), found, kept)) == [
        *"abc"
    ]
    shutil.rmtree(remote)
    assert holding(str(remote), found, "name", ["b"], kept) == [1] and names(in_blocks(str(remote), found, kept)) == [
        *"abc"
    ]
    written = []
    monkeypatch.setattr(parts_module, "_keep", lambda _, path: written.append(path))
    in_blocks(str(remote), found, kept)
    assert not written


def test_a_damaged_part_is_fetched_again_and_a_damaged_block_is_named(tmp_path):
    remote, kept = str(tmp_path / "remote"), tmp_path / "kept"
    found = put(remote, ["a"], ["b"])
    assert names(in_blocks(remote, found, kept)) == ["a", "b"]
    (kept / found[0].sha256).write_bytes(b"damaged")
    with fetched(remote, found, kept) as paths:
        assert names(paths) == ["a", "b"]
    [block] = kept.glob("rows-*")
    data = bytearray(block.read_bytes())
    data[data.index(b"\x01\0\0\0b") + 4] ^= 1  # a letter of a name, where it is stored after its length
    block.write_bytes(data)
    with pytest.raises(InputError, match=r"rows-\w+: is damaged .*; remove the folder, it is filled again"):
        names(in_blocks(remote, found, kept))


@pytest.mark.parametrize("spoil", [lambda data: data[:-3], lambda data: data[:40] + b"?" + data[41:], lambda _: b""])
def test_a_damaged_index_is_named(tmp_path, spoil):
    remote, kept = str(tmp_path / "remote"), tmp_path / "kept"
    found = put(remote, ["a"], ["b"])
    assert holding(remote, found, "name", ["b"], kept) == [1]
    for index in kept.glob("hashes-*"):
        index.write_bytes(spoil(index.read_bytes()))
    with pytest.raises(InputError, match=r"hashes-\w+: is damaged; remove the folder, it is filled again"):
        holding(remote, found, "name", ["b"], kept)


def test_equal_rows_are_one_part(tmp_path):
    rows = pa.Table.from_pandas(pd.DataFrame({"name": ["a", "b"]}))
    assert put_parts(str(tmp_path), {"x": rows})["x"] == put_parts(str(tmp_path), {"y": rows})["y"]
    assert put_parts(str(tmp_path), {}) == {}
