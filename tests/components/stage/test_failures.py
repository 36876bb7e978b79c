"""Failures of the machine: each is named in one line with what to do; everything else keeps its traceback."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from components.stage.declaration import Paths
from components.stage.failures import machine_failure
from tests.components.stage.test_execution import COPY, run_stage


def caused(text: str, by: BaseException) -> BaseException:
    error = ValueError(text)
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "/data/x: the disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/data/x"), "/data/x: the file system is read-only"),
        (OSError(errno.EIO, "Input/output error"), "read or write error"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (caused("wrapped", OSError(errno.EDQUOT, "Disk quota exceeded")), "the disk quota is used up"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ..."), "the GPU failed (CUDA error: an illegal"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "smaller batches"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "the GPU failed (cuDNN error"),
    ],
)  # fmt: skip
def test_each_is_named_in_one_line(error: BaseException, words: str) -> None:
    said = machine_failure(error)
    assert said is not None
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), OSError(errno.ENOENT, "No such file"), KeyError("CUDA error")]
)
def test_what_may_be_a_bug_is_none_of_them(error: BaseException) -> None:
    assert machine_failure(error) is None


def test_a_stage_on_a_failing_machine_ends_with_code_1_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_inputs: Paths, _outputs: Paths, _parameters: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/x")

    (tmp_path / "a").mkdir()
    stage = replace(COPY, run=run)
    command = ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "out")]
    assert run_stage(stage, command) == 1
    said = capsys.readouterr().err
    assert said.startswith("nightdrive copy: /data/x: the disk is full")
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_records_that_cannot_be_written_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "records").write_text("a file where the folder should be")
    monkeypatch.setenv("NIGHTDRIVE_RECORDS", str(tmp_path / "records"))
    assert run_stage(COPY, ["--sources", str(tmp_path / "a"), "--copied", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "records/copy.json: cannot be written" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
