"""The size of a run: counted as it was measured on a real installation, and small enough however many shares a night has."""

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.errors import InputError
from pipelines.kubeflow import size
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.size import LARGEST_BYTES, RunSize, check_size, run_size

Json = dict[str, Any]
# A smoke night of an earlier pipeline, as it was compiled, and what a good run of it came to on Kubeflow Pipelines 2.17.0 with
# Argo 4.0.5: bytes of its spec, and of its 291 nodes at the end; bytes of the patches of some pods.
MEASURED_NIGHT = Path(__file__).parent / "measured_night.json.gz"
MEASURED_SPEC_BYTES, MEASURED_NODES_BYTES = 458_902, 2_330_713
MEASURED_PATCH_BYTES = {"report-2": 21_700, "propose": 13_900, "train-prune": 7_700, "gate": 4_100, "resolve": 3_700}
TURNS = {"for-loop-3": 3, "for-loop-6": 2}  # of its loops, over sources and shards
NOT_ENTERED = {f"condition-{number}" for number in (13, 14, 16, 18, 20, 22, 24, 26, 28)}  # by a good night
TOLERATED = 0.15  # of what was measured
DIGEST = "registry.example.com/perception/nightdrive@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def measured() -> tuple[Json, Json]:
    """The measured night as it ran: each turn of a loop a DAG of its own, without the branches that it did not enter."""
    pipeline, platform = json.loads(gzip.decompress(MEASURED_NIGHT.read_bytes()))
    for component in (pipeline["root"], *pipeline["components"].values()):
        tasks = component.get("dag", {}).get("tasks", {})
        for key in list(tasks):
            if key in NOT_ENTERED:
                tasks.pop(key)
            else:
                tasks |= {f"{key}-{turn}": copy.deepcopy(tasks[key]) for turn in range(1, TURNS.get(key, 1))}
    return pipeline, platform


def test_the_count_is_what_was_measured(measured: tuple[Json, Json]) -> None:
    counted = run_size(*measured)
    assert counted.spec == pytest.approx(MEASURED_SPEC_BYTES, rel=TOLERATED)
    assert counted.nodes == pytest.approx(MEASURED_NODES_BYTES, rel=TOLERATED)
    assert counted.total == pytest.approx(MEASURED_SPEC_BYTES + MEASURED_NODES_BYTES, rel=0.05), (
        "errors of parts cancel"
    )


def test_the_count_of_a_pods_patch_is_what_was_measured(measured: tuple[Json, Json]) -> None:
    """It lies in six nodes of every step, and is most of a run."""
    pipeline, platform = measured
    counted = size._Count(pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"])
    tasks = {key: (task, component) for key, task, component in size._tasks(pipeline, pipeline["root"])}
    for key, patch_bytes in MEASURED_PATCH_BYTES.items():
        assert len(counted._patch(key, *tasks[key])) == pytest.approx(patch_bytes, rel=TOLERATED), key


def compiled(folder: Path, *overrides: str) -> RunSize:
    target = folder / "night.yaml"
    images = [f"images.{name}={DIGEST}" for name in ("gates", "versioning", "torch", "torch_cuda")]
    compile_pipeline("nightly", target, [*images, *overrides])
    return run_size(*yaml.safe_load_all(target.read_text()))


@pytest.mark.parametrize("shares", [2, 64, 1000])
def test_a_night_stays_within_what_kubeflow_shows_however_many_shares_it_has(tmp_path: Path, shares: int) -> None:
    counted = compiled(tmp_path, f"batches={shares}", f"shards={shares}")
    assert counted.total < 0.95 * 2**20, (
        f"{counted.total:,} bytes at the end of a good night: from 1 MiB on Kubeflow shows nothing more of it, and its retry is "
        f"refused; the largest steps are {sorted(counted.steps.items(), key=lambda item: -item[1])[:4]}"
    )


def test_a_night_has_room_for_the_settings_of_a_cluster(tmp_path: Path) -> None:
    """Nodes, tolerations, a queue, spot nodes: what a real cluster adds to every step."""
    toleration = "{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}"
    counted = compiled(
        tmp_path, "cluster.queue=night", "cluster.cpu_node_selector={pool: cpu}", "cluster.gpu_node_selector={pool: gpu}",
        f"cluster.cpu_tolerations=[{toleration}]", "cluster.spot=[ensemble, adapt]", f"cluster.spot_tolerations=[{toleration}]",
    )  # fmt: skip
    assert counted.total < LARGEST_BYTES


def test_a_night_that_would_outgrow_it_is_refused_with_its_largest_steps(measured: tuple[Json, Json]) -> None:
    with pytest.raises(
        InputError, match=r"would grow to 2,\d{3},\d{3} bytes.*1 MiB \(at most 996,147\); largest are report-2"
    ):
        check_size(*measured)


def test_what_is_compiled_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the night: its run would grow to"):
        compile_pipeline("nightly", tmp_path / "night.yaml", [f"common.registry=https://{'x' * 20_000}"])
    assert not (tmp_path / "night.yaml").exists()
