"""A command of the user measures: what it is given, what it must print, and what is said where it does not."""

import sys
from pathlib import Path

import pytest

from perception.compression.cost import Latency
from perception.compression.target import measure_on_target
from perception.errors import InputError

MODELS = {"dense": Path("/a/dense.onnx"), "model": Path("/a/model.onnx")}


def program(code: str) -> list[str]:
    return [sys.executable, "-c", "import json, sys\npath, batch = sys.argv[-2:]\n" + code, "given first"]


def test_each_network_is_measured_at_each_batch() -> None:
    code = """
ms = int(batch) * (8 if path.endswith("dense.onnx") else 2)
print("warming up")
print(json.dumps({"device": "bench " + sys.argv[1], "milliseconds": [ms, ms + 1, ms + 4]}))
"""
    device, rows = measure_on_target(program(code), MODELS, batch_sizes=(1, 4))
    assert device == "bench given first"
    assert [(row.model, row.batch_frames, row.median_ms, row.minimum_ms) for row in rows] == [
        ("dense", 1, 9, 8), ("model", 1, 3, 2), ("dense", 4, 33, 32), ("model", 4, 9, 8)
    ]  # fmt: skip
    assert all(isinstance(row, Latency) and row.repeats == 3 for row in rows)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("sys.exit('no board answers')", "ended with exit code 1: no board answers"),
        ("print('3.1 ms')", "must end with"),
        ("pass", "must end with"),
        ("print(json.dumps({'device': 'a', 'milliseconds': []}))", "must end with"),
        ("print(json.dumps({'device': 'a', 'milliseconds': [0]}))", "must end with"),
        ("print(json.dumps({'device': path, 'milliseconds': [1]}))", "must measure all on one"),
    ],
)
def test_what_is_no_measurement_is_refused(code: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_on_target(program(code), MODELS)


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no_such_program cannot be run"):
        measure_on_target(["no_such_program"], MODELS)
