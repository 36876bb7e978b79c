"""The demo's table, with nights that are played: one a seed, none twice, and claims that are judged in the mean."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables.demo import table
from benchmarks.tables.demo.table import CLAIMS, cells, report
from benchmarks.tables.runner import Request, run_cells
from perception.errors import InputError

NIGHT: dict[str, Any] = {
    "selection": {"miou_selected": 0.3, "miou_random": 0.28},
    "adaptation": {"miou_source_only": 0.2, "miou_fused": 0.24, "miou_pseudo": 0.25},
    "model": {
        "miou_dense": 0.36, "miou_compressed": 0.355, "parameters_dense": 1000, "parameters_compressed": 80,
        "latency_ms_dense": 4.0, "latency_ms_compressed": 1.6,
    },
    "seconds": 500.0,
}  # fmt: skip


class Nights:
    """Stands for the command: writes a night's summary, in which the chosen frames are worth less with every seed."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.status, self.code = "done", 0

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        seed = int(command[-1].removeprefix("common.seed="))
        self.seeds.append(seed)
        folder = Path(command[command.index("--runs") + 1]) / "latest"
        folder.mkdir(parents=True)
        chosen = {"miou_selected": 0.3 - 0.015 * seed, "miou_random": 0.28}
        (folder / "summary.json").write_text(json.dumps(NIGHT | {"selection": chosen, "status": self.status}))
        return subprocess.CompletedProcess(command, self.code)


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch) -> Nights:
    played = Nights()
    monkeypatch.setattr(table.subprocess, "run", played)
    return played


@pytest.fixture
def asked(tmp_path: Path) -> Request:
    return Request(table="demo", data=None, data_kind="scenes", seeds=3, work=tmp_path)


def test_claims_are_judged_in_the_mean_over_seeds(nights: Nights, asked: Request) -> None:
    results, _ = run_cells(cells(asked), asked)
    assert nights.seeds == [0, 1, 2]
    found = report(asked, results)
    assert (
        "| chosen above random frames, points of mIoU | at least 0 | 0.50 ± 1.50 | 2.00, 0.50, -1.00 | yes |"
        in found.body
    )
    assert "| what ships is faster by the factor | at least 2.5 | 2.50 | 2.50, 2.50, 2.50 |" in found.body
    assert found.body.count("| yes |") == len(CLAIMS)
    for night in results.values():
        night["miou_compressed"] = 0.349
        night["parameters_compressed"] = 201
    lines = [line for line in report(asked, results).body.splitlines() if line.endswith("| no |")]
    assert ["dense above what ships" in lines[0], "parameters" in lines[1]] == [True, True] and len(lines) == 2


def test_a_night_that_has_ended_is_not_followed_by_a_second(nights: Nights, asked: Request) -> None:
    run_cells(cells(asked), asked)
    for kept in asked.folder.glob("*.json"):
        kept.unlink()
    run_cells(cells(asked), asked)
    assert nights.seeds == [0, 1, 2]


@pytest.mark.parametrize(("status", "code"), [("refused", 3), ("nothing_new", 0)])
def test_a_night_that_has_not_been_done_is_no_result(nights: Nights, asked: Request, status: str, code: int) -> None:
    nights.status, nights.code = status, code
    for _ in range(2):  # nor the second time, when its summary is there
        with pytest.raises(InputError, match="night of seed 0"):
            run_cells(cells(asked), asked)
