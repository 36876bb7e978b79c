"""The gate as a stage: what a waiver allows today it refuses once the waiver has expired."""

import json
from datetime import date
from pathlib import Path

import pytest

from components import gate
from components.stage.declaration import Refused
from perception.quality.metrics_table import metric_rows
from perception.quality.waivers import Waiver
from tests.components.intake import run

WAIVER = Waiver(
    suite="metrics", id="at_least_lower", applies_to="smoke", reason="known", who="Ada",
    granted=date(2026, 11, 1), expires=date(2026, 11, 30),
)  # fmt: skip


def test_the_same_table_is_refused_once_its_waiver_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perception.quality.gate.load_waivers", lambda *_: (WAIVER,))
    (tmp_path / "subject").mkdir()
    metric_rows([{"stage": "s", "metric": "m", "value": 1.0, "lower": 2.0}]).to_parquet(
        tmp_path / "subject" / "gate.parquet"
    )
    (tmp_path / "subject" / "gate_parameters.json").write_text(json.dumps({"required_gates": ["s/m/all"]}))
    given = {"suite": "metrics", "profile": "smoke"}
    waived = run(gate, {"subject": [tmp_path / "subject"]}, "verdict", tmp_path / "last", today="2026-11-30", **given)
    assert json.loads((waived / "verdict.json").read_text())["decision"] == "warn"
    with pytest.raises(Refused, match="at_least_lower"):
        run(gate, {"subject": [tmp_path / "subject"]}, "verdict", tmp_path / "next", today="2026-12-01", **given)
    assert json.loads((tmp_path / "next" / "verdict.json").read_text())["decision"] == "refuse", (
        "the verdict explains it"
    )
