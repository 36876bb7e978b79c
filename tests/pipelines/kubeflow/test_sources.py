"""Footage reaches the cluster: every source with a folder lies on a claim, which the steps that read footage mount once each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.stage.kfp_step import INDEXED_JOB_VARIABLE
from components.stage.parameters import build_parameters
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.graph import FOOTAGE
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.sources import Place, places_of_sources
from pipelines.nightly import nightly
from pipelines.settings import load_settings

FOLDERS = {
    "fleet": {"path": "/data/fleet/2026"},
    "boxes": {"path": "/data/fleet/boxes/new"},
    "streets": {"format": "scenes"},
    "drops": {"path": "s3://fleet/drops"},
    "nights": {"path": "s3://fleet/by-night/{night}/cars"},
}


def test_steps_that_read_footage_mount_its_claims_and_no_others_do(package: Path) -> None:
    pipeline, platform = yaml.safe_load_all(package.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {
        name.removeprefix("exec-").replace("-", "_"): [
            (each["constant"], each["mountPath"]) for each in settings["pvcMount"]
        ]
        for name, settings in executors.items()
        if "pvcMount" in settings
    }
    mounted |= _mounted_by_indices(pipeline)
    readers = {task.name for task in nightly().tasks.values() if FOOTAGE in task.reads_outside}
    assert readers == {"resolve", "ingest"}
    for name in readers:
        assert mounted.get(name) == [("nightdrive-footage", "/data/fleet")], (
            f"{name}: nothing is mounted where footage lies"
        )
    assert {name for name, claims in mounted.items() if ("nightdrive-footage", "/data/fleet") in claims} == readers
    for (
        name,
        claims,
    ) in mounted.items():  # Kubeflow names a pod's volume by its claim: a second one of that name is refused
        assert len({claim for claim, _ in claims}) == len(claims), f"{name}: mounts a claim twice"


def _mounted_by_indices(pipeline: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return (claim, folder) of what the indices of a fan-out mount, by its task."""
    found = {}
    for name, executor in pipeline["deploymentSpec"]["executors"].items():
        for item in executor["container"].get("env", []):
            if item["name"] == INDEXED_JOB_VARIABLE:
                claims = json.loads(item["value"]).get("claims", {})
                found[name.removeprefix("exec-").replace("-", "_")] = list(claims.items())
    return found


def test_each_source_lies_in_its_bucket_or_on_the_claim_that_is_mounted_nearest_to_it() -> None:
    cluster = build_parameters(
        Cluster, {"source_claims": {"footage": "/data/fleet", "drawn": "/data/fleet/boxes"}}, where="cluster"
    )
    assert places_of_sources(FOLDERS, cluster) == {
        "fleet": Place(path="2026", claim="footage"),
        "boxes": Place(path="new", claim="drawn"),
        "drops": Place(path="s3://fleet/drops"),
        "nights": Place(path="s3://fleet/by-night"),
    }


@pytest.mark.parametrize("path", ["/data/fleet2", "/data/fleet/../other", "footage", "/mnt/fleet"])
def test_a_folder_that_no_claim_holds_is_refused_before_anything_starts(path: str) -> None:
    cluster = build_parameters(Cluster, {"source_claims": {"footage": "/data/fleet"}}, where="cluster")
    with pytest.raises(InputError, match=re.escape(f"sources.fleet.path = {path!r}: no volume claim is mounted there")):
        places_of_sources({"fleet": {"path": path}}, cluster)


def test_a_night_whose_footage_nobody_mounts_is_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SET='cluster\.source_claims=\{CLAIM: /data/fleet\}'"):
        compile_pipeline("nightly", tmp_path / "night.yaml", ["cluster.source_claims={}"])
    assert not (tmp_path / "night.yaml").exists()


@pytest.mark.parametrize("folder", ["/data", "/etc", "/data/../etc", "/data/.hidden", "data/fleet", "/data/a//b"])
def test_footage_is_mounted_below_data_and_nowhere_else(folder: str) -> None:
    with pytest.raises(InputError, match="must be a folder below /data"):
        build_parameters(Cluster, {"source_claims": {"footage": folder}}, where="cluster")


def test_every_profile_that_nights_are_scheduled_from_names_claims_that_hold_its_sources() -> None:
    settings = load_settings(nightly(), "nightly")
    cluster = build_parameters(Cluster, settings["cluster"], where="cluster")
    assert places_of_sources(settings["sources"], cluster) == {
        "fleet": Place(path=".", claim="nightdrive-footage"),
        "frozen_test": Place(path=".", claim="nightdrive-footage"),
    }
