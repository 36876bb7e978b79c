"""The command for trtexec, and a stand-in for trtexec that builds or refuses."""

from pathlib import Path

import pytest
import torch
from torch import nn

from perception.compression.export import export_onnx
from perception.compression.tensorrt import build_engine, tensorrt_command
from perception.errors import InputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return export_onnx(nn.Conv2d(3, 2, 3).eval(), tmp_path / "net.onnx", 16, 24).path


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(f"#!/bin/bash\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_command_names_the_shapes(model: Path, tmp_path: Path) -> None:
    command = tensorrt_command(model, tmp_path / "net.engine", largest_batch_frames=8)
    assert command == [
        "trtexec", f"--onnx={model}", f"--saveEngine={tmp_path}/net.engine", "--minShapes=image:1x3x16x24",
        "--optShapes=image:8x3x16x24", "--maxShapes=image:8x3x16x24", "--fp16",
    ]  # fmt: skip


def test_engine_is_built_whole(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        tmp_path,
        monkeypatch,
        'for a in "$@"; do case $a in --saveEngine=*) echo plan > "${a#*=}";; esac; done; echo ok',
    )
    assert build_engine(model, tmp_path / "net.engine") == "ok\n"
    assert (tmp_path / "net.engine").read_text() == "plan\n"


def test_refusal_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo unsupported; exit 3")
    with pytest.raises(InputError, match=r"exit code 3\): unsupported"):
        build_engine(model, tmp_path / "net.engine")
    assert not list(tmp_path.glob("*.engine*"))


def test_without_trtexec_the_command_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"trtexec is not on the PATH.*--onnx="):
        build_engine(model, tmp_path / "net.engine")
    with pytest.raises(InputError, match="no ONNX file"):
        build_engine(tmp_path / "absent.onnx", tmp_path / "net.engine")
