"""The compiled night as containers, on a real S3 server, gives the figures that it gives on this machine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from kfp import components, local

from pipelines.kubeflow.compile import compile_pipeline
from tests.conftest import S3Server
from tests.containers.engine import Engine, engine_in_place, kill_once
from tests.end_to_end.nights import run_night
from tests.pipelines.kfp_local import conditions_on_values

pytestmark = [
    pytest.mark.containers,
    pytest.mark.filterwarnings(
        "ignore:Task .* have no effect in the current local runner"
    ),  # what only a cluster gives
]

KILLED = "train_prune"
SECTIONS = ("selection", "data", "adaptation", "model", "evaluation", "gates")
# What a clock or a name decides, and no figure: they differ from run to run.
DIFFERS = {"latency_ms_dense", "latency_ms_compressed", "version", "parent"}


def run_in_containers(root: Path, images: Path, server: S3Server, engine: Engine) -> dict[str, Any]:
    """Compile the smoke night, run its DAG with kfp.local, and return summary.json."""
    package, artifacts = root / "night.yaml", root / "artifacts"
    artifacts.mkdir(mode=0o777)  # here, since the engine would make it for root alone
    places = {
        "store": f"s3://{server.bucket}/store",
        "registry": artifacts / "registry" / "smoke.git",
        "remote": f"s3://{server.bucket}/registry",
    }
    overrides = [f"common.{name}={place}" for name, place in places.items()]
    overrides.append(f"cluster.stages.{KILLED}.timeout_minutes=60")  # Kubeflow tries nothing longer again
    compile_pipeline("smoke", package, overrides, images=images)
    local.init(runner=local.DockerRunner(), pipeline_root=str(artifacts), raise_on_error=True)
    night = components.load_component_from_file(str(package))
    with engine_in_place(engine), conditions_on_values():
        night()
    summaries = [json.loads(path.read_text()) for path in artifacts.rglob("summary.json")]
    (whole,) = (summary for summary in summaries if summary["gates"])  # the farewell's page is given no stage's outputs
    return dict(whole)


def figures(value: Any) -> Any:
    """Return a summary without what differs from run to run."""
    if isinstance(value, dict):
        return {name: figures(item) for name, item in value.items() if name not in DIFFERS}
    return [figures(item) for item in value] if isinstance(value, list) else value


def test_the_night_in_containers_equals_the_night_on_this_machine_though_a_stage_is_killed(
    images_file: Path, s3_server: S3Server, tmp_path: Path
) -> None:
    kept = os.umask(0)  # the containers' user is another one than ours, and writes into the same folders
    try:
        tmp_path.chmod(0o777)
        engine = Engine(environment=s3_server.environment(), kill=kill_once(KILLED, "train the dense network"))
        contained = run_in_containers(tmp_path, images_file, s3_server, engine)
    except BaseException:
        print("\n".join(engine.log[-80:]))
        raise
    finally:
        os.umask(kept)
    codes = [(stage, code) for stage, code, _ in engine.runs]
    assert codes.count((KILLED, 137)) == 1, "the stage was to be killed once"
    assert codes.count((KILLED, 0)) == 1, "and to be run again"
    assert all(code == 0 for stage, code in codes if stage != KILLED)

    here = run_night(tmp_path / "runs")
    assert here.returncode == 0, here.stderr[-3000:]
    local_summary = json.loads((tmp_path / "runs" / "smoke" / "summary.json").read_text())
    for section in SECTIONS:
        assert figures(contained[section]) == figures(local_summary[section]), section
    print(f"{len(engine.runs)} containers, {sum(seconds for *_, seconds in engine.runs):.0f} s")
