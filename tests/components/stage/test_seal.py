"""The seal: every change of what a stage wrote is named, and what was never sealed is taken as it is."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.stage.declaration import Paths
from components.stage.seal import SEAL_FILE, check_seal, write_seal
from perception.errors import InputError
from tests.components.stage.test_execution import COPY, run_stage


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    (folder / "shards").mkdir(parents=True)
    (folder / "manifest.parquet").write_bytes(b"rows" * 100)
    (folder / "shards" / "a.tar").write_bytes(bytes(range(256)))
    (folder / "empty").write_bytes(b"")
    write_seal(folder)
    return folder


def test_an_untouched_artifact_passes_and_its_seal_is_the_same_every_time(artifact: Path) -> None:
    check_seal(artifact)
    first = (artifact / SEAL_FILE).read_bytes()
    write_seal(artifact)
    assert (artifact / SEAL_FILE).read_bytes() == first
    assert list(json.loads(first)["files"]) == ["empty", "manifest.parquet", "shards/a.tar"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "manifest.parquet").write_bytes(b"rows" * 99), "manifest.parquet: has 396 bytes, its stage wrote 400"),
        (lambda folder: flip(folder / "shards" / "a.tar"), "a.tar: its bytes are not what its stage wrote"),
        (lambda folder: (folder / "empty").unlink(), "empty: is missing"),
        (lambda folder: (folder / SEAL_FILE).write_text("{"), "is no seal"),
        (lambda folder: (folder / SEAL_FILE).write_text('{"files": {"a": 3}}'), "is no seal"),
        (lambda folder: (folder / SEAL_FILE).write_text("[" * 100_000), "is no seal"),
        (lambda folder: (folder / SEAL_FILE).write_text('{"files": {"../x": {"size_bytes": 1, "sha256": ""}}}'), "outside the artifact"),
    ],
)  # fmt: skip
def test_every_change_is_named_with_its_remedy(artifact: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(artifact)
    with pytest.raises(InputError, match=r"remove .*frames and run its stage again") as caught:
        check_seal(artifact)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_added_or_never_sealed_passes(artifact: Path, tmp_path: Path) -> None:
    (artifact / "notes.txt").write_text("added")
    check_seal(artifact)
    (tmp_path / "by_hand").mkdir()
    check_seal(tmp_path / "by_hand")


def test_a_fault_of_the_program_is_never_blamed_on_a_hand_made_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise KeyError("tag")

    (tmp_path / "a").mkdir()
    command = ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "out")]
    assert run_stage(replace(COPY, run=run), command) == 1
    assert "Traceback" in capsys.readouterr().err
