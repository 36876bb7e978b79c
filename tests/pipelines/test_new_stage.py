"""A new stage is one file in components/ and one line in nightly.py (docs/adding_a_stage.md): tried in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from perception.data.manifest import write_manifest
from tests.pipelines.edges import options, settings_of, steps

ROOT = Path(__file__).parents[2]
STAGE = '''"""count_frames: count the night's frames."""

import json

from components.stage.declaration import Needs, Paths, Port, Stage
from perception.parameters import checked


@checked
class CountFramesParameters:
    """Say how few frames are too few."""

    least_frames: int = 1  # frames that there must be


def run(inputs: Paths, outputs: Paths, parameters: CountFramesParameters) -> None:
    """Write count.json and the figure that the gate judges."""
    from perception.data.manifest import read_manifest
    from perception.quality.metrics_table import metric_rows

    count, folder = len(read_manifest(inputs.one("frames") / "manifest.parquet")), outputs.one("count")
    (folder / "count.json").write_text(json.dumps({"frames": count}))
    figure = {"stage": "count_frames", "metric": "frames", "value": count, "lower": parameters.least_frames}
    metric_rows([figure]).to_parquet(folder / "gate.parquet", index=False)
    (folder / "gate_parameters.json").write_text(json.dumps({"required_gates": ["count_frames/frames/all"]}))


STAGE = Stage(
    name="count_frames",
    summary="Count the night's frames.",
    inputs=(Port(name="frames", about="the night's frames"),),
    outputs=(Port(name="count", about="count.json", gate_table=True),),
    parameters=CountFramesParameters,
    needs=Needs(image="torch"),
    run=run,
)
'''
LINE = '    task("count_frames", frames=frames, gate="metrics")\n'
DERIVE = """
from pathlib import Path
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.local.dvc_file import dvc_file
from pipelines.nightly import nightly
Path("dvc.yaml").write_text(dvc_file(nightly()))
compile_pipeline("smoke", Path("night.yaml"), ["count_frames.least_frames=2"])
"""


def run(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with one more file and one more line, and what is derived from them."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("components", "perception", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "components" / "count_frames.py").write_text(STAGE)
    nightly = folder / "pipelines" / "nightly.py"
    before, after = nightly.read_text().split("    night.only_if_news(frames)\n")
    nightly.write_text(f"{before}{LINE}    night.only_if_news(frames)\n{after}")
    derived = run("-c", DERIVE, folder=folder)
    assert derived.returncode == 0, derived.stderr
    return folder


def test_dvc_yaml_and_the_compiled_pipeline_contain_the_stage_and_its_gate(repository: Path) -> None:
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    assert options(stages["count_frames"]["cmd"]) | {"params": []} == {
        "frames": ["frames"],
        "count": ["count"],
        "params": [],
    }
    assert stages["gate_metrics"]["deps"] == ["count"] and stages["gate_metrics"]["outs"] == [
        {"gates/metrics": {"cache": False}}
    ]
    spec = next(yaml.safe_load_all((repository / "night.yaml").read_text()))
    found = {name: settings_of(task) for name, task, _, _ in steps(spec)}
    assert found["count_frames"]["step"] == {"task": "count_frames", "takes": {"frames": ["gather.frames"]}}
    assert found["count_frames"]["least_frames"] == 2
    assert found["gate_metrics"]["suite"] == "metrics"


def frame(name: str) -> dict[str, object]:
    """One frame of which nothing is known but its image."""
    known = (
        "timestamp_utc",
        "camera",
        "time_of_day",
        "weather",
        "scene",
        "label_uri",
        "label_sha256",
        "label_taxonomy",
        "instances_uri",
    )
    image = f"{ord(name):064x}"
    return dict.fromkeys(known) | {
        "frame_id": name, "drive_id": "d", "domain": "real", "split": "pool", "width_px": 8, "height_px": 8, "source": "fleet",
        "image_uri": f"sha256/{image[:2]}/{image}.png", "image_sha256": image, "label_source": "none",
    }  # fmt: skip


@pytest.mark.parametrize(("least", "code"), [(1, 0), (3, 3)])
def test_the_stage_and_its_gate_run_from_the_command_line(
    repository: Path, tmp_path: Path, least: int, code: int
) -> None:
    write_manifest(pd.DataFrame([frame(name) for name in ("a", "b")]), tmp_path / "frames" / "manifest.parquet")
    words = ["--frames", str(tmp_path / "frames"), "--count", str(tmp_path / "count"), "--set", f"least_frames={least}"]
    counted = run("-m", "components.stage", "count_frames", *words, folder=repository)
    assert counted.returncode == 0, counted.stderr
    assert json.loads((tmp_path / "count" / "count.json").read_text()) == {"frames": 2}
    words = ["--subject", str(tmp_path / "count"), "--verdict", str(tmp_path / "verdict"), "--task", "gate_metrics"]
    words += ["--set", "suite=metrics", "--set", "profile=smoke"]
    judged = run("-m", "components.stage", "gate", *words, folder=repository)
    assert judged.returncode == code, judged.stderr
    assert ("count_frames/frames/all" in judged.stderr) == (code == 3)
