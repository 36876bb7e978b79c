"""What is left of an earlier night when this one fails."""

import json
import shutil
from pathlib import Path

import pytest

from pipelines.local.run import ROOT, stale_folders


@pytest.mark.parametrize(
    ("failed", "stale", "fresh"),
    [
        (
            "score@1",
            {"scores", "selection", "version", "evaluation", "gates/evaluate"},
            {"frames", "ensemble", "gates/ingest"},
        ),
        (
            "gate_adapt",
            {"network", "compressed", "evaluation", "gates/evaluate"},
            {"gates/adapt", "version", "comparison"},
        ),
        ("propose", set(), {"version", "evaluation", "gates/evaluate"}),
    ],
)
def test_what_comes_after_a_failure_is_stale(tmp_path: Path, failed: str, stale: set[str], fresh: set[str]) -> None:
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    (tmp_path / "records").mkdir()
    for name, status in (("gather", "done"), (failed, "failed")):
        (tmp_path / "records" / f"{name.replace('@', '-')}.json").write_text(
            json.dumps({"name": name, "status": status})
        )
    found = stale_folders(tmp_path)
    assert found >= stale - {"scores"}
    assert not found & fresh
