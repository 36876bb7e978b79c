"""`make test-gpu` where it cannot be tried says why and ends with 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import __main__ as command

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_tried() -> None:
    words = ["make", "test-gpu", f"PYTHON={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if name != "DEVICE"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "torch sees no GPU here, so nothing was tried" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("NEEDED", ("numpy", "no_such_package")), "has no no_such_package"),
        (("PYTHONS", ((3, 1), (3, 2))), "must be 3.11 to 3.13"),
        (("LEAST_TORCH", (99, 0)), "must be 2.11 or later"),
    ],
)
def test_what_an_interpreter_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: tuple[str, object], said: str
) -> None:
    monkeypatch.setattr(command, *change)
    assert command.main() == 2
    assert said in capsys.readouterr().err


def test_another_device_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NIGHTDRIVE_OPTION_DEVICE", "tpu")
    assert command.main() == 2
    assert "DEVICE=tpu: must be cuda or cpu" in capsys.readouterr().err
