"""What a stage reads of another is what it needs, or an InputError that names file, place and remedy."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from perception.data.tables import read_record, read_table
from perception.errors import InputError

COLUMNS = {"frame_id": "text", "rank": "whole number", "score": "number?", "sure": "flag", "*": "vector"}
GOOD = pd.DataFrame({"frame_id": ["a", "b"], "rank": [1, 2], "score": [0.5, None], "sure": [True, False]})
GOOD["embedding"] = [[0.5, 1.0], [1.0, 2.0]]


@dataclass(frozen=True)
class Record:
    tag: str
    parent: str | None
    share: float


def table_file(tmp_path: Path, table: pd.DataFrame) -> Path:
    table.to_parquet(tmp_path / "t.parquet", index=False)
    return tmp_path / "t.parquet"


def test_a_good_table_is_returned_whole(tmp_path: Path) -> None:
    found = read_table(table_file(tmp_path, GOOD), COLUMNS, key="frame_id")
    assert list(found) == list(GOOD)
    assert found["rank"].tolist() == [1, 2]


def test_a_table_without_rows_needs_no_types(tmp_path: Path) -> None:
    assert len(read_table(table_file(tmp_path, pd.DataFrame(columns=list(GOOD))), COLUMNS)) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="sure"), "no column 'sure'"),
        (lambda table: table.assign(rank=[1.0, 2.0]), "column 'rank' holds double, must hold a whole number"),
        (lambda table: table.assign(score="x"), "column 'score'"),
        (lambda table: table.assign(embedding="x"), "column 'embedding'"),
        (lambda table: table.assign(frame_id=["a", None]), "column 'frame_id' is empty in a row"),
        (lambda table: table.assign(frame_id="a"), "two rows with frame_id 'a'"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, change: object, words: str) -> None:
    path = table_file(tmp_path, change(GOOD))  # type: ignore[operator]
    with pytest.raises(InputError, match=f"^{path}: .*{words}.*; run the stage"):
        read_table(path, COLUMNS, key="frame_id")


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet", {})
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "none.parquet", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "invalid json"),
        ("[1]", "object"),
        ('{"parent": null, "share": 1}', "tag: field required"),
        ('{"tag": null, "parent": null, "share": 1}', "tag: "),
        ('{"tag": "x", "parent": null, "share": "x"}', "share: "),
        ("[" * 50_000, "json"),
    ],
)
def test_what_is_wrong_with_a_record_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=f"r.json: .*{words}") as raised:
        read_record(tmp_path / "r.json", Record)
    assert "\n" not in str(raised.value)


def test_a_good_record_is_returned(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"tag": "x", "parent": null, "share": 1, "more": 2}')
    assert read_record(tmp_path / "r.json", Record) == Record("x", None, 1.0)
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "none.json", Record)
