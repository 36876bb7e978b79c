"""`make test-cluster` against a stand-in that keeps the backend's rules: eight cases, a table, nothing left behind."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.program import main
from pipelines.kubeflow import schedule, trial, trial_cases
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.trial import Result, table
from tests.pipelines.kubeflow.plays import TOO_LARGE_BYTES, Play
from tests.pipelines.kubeflow.stub_server import Stub
from tests.pipelines.kubeflow.test_preflight import images_file, with_digests

NAME = "nightdrive-trial-0123ab"


@pytest.fixture
def installation(cluster: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A whole installation whose runs go on by themselves, with a namespace for trials."""
    space = "/api/v1/namespaces/nightdrive"
    cluster.kubernetes |= {
        path.replace(space, f"{space}-trial"): each
        for path, each in cluster.kubernetes.items()
        if path.startswith(space)
    }
    cluster.playing = True
    monkeypatch.setenv("NIGHTDRIVE_NAMESPACE", "nightdrive-trial")
    monkeypatch.setattr(trial_cases, "WAIT_SECONDS", 5.0)
    return cluster


@functools.cache
def compiled_once(profile: str, overrides: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        compile_pipeline(profile, target := Path(folder) / "night.yaml", overrides)
        return target.read_text()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture
def quick(installation: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile each night of the cases once for all tests, whichever port its registry has."""

    def compile_quickly(profile: str, target: Path, overrides: tuple[str, ...], images: Path) -> None:
        assert images.exists()
        target.write_text(with_digests(compiled_once(profile, overrides), installation))

    monkeypatch.setattr(trial_cases, "compile_pipeline", compile_quickly)
    monkeypatch.setattr(trial, "new_name", lambda: NAME)


def arguments(stub: Stub, places: Path) -> list[str]:
    told = " ".join(f"common.{name}={places}/{name}" for name in trial.PLACES)
    return ["test-cluster", "--images", str(images_file(stub, places)), "--set", told]


def only(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(trial, "CASES", [each for each in trial_cases.CASES if each[0] == case])


@pytest.mark.usefixtures("quick")
def test_all_cases_are_seen_as_expected_and_nothing_is_left(
    installation: Stub, places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.add("runs", "run_id", {"display_name": "somebody else's", "state": "RUNNING"})
    assert main(arguments(installation, places)) == 0, capsys.readouterr().out
    said = capsys.readouterr().out.splitlines()
    head = next(position for position, line in enumerate(said) if line.startswith("  case "))
    assert [line[0] for line in said[head + 1 :]] == ["+"] * len(trial_cases.CASES)
    assert all(line.endswith(f"| stand-in at {installation.url}") for line in said[head + 1 :])
    left = {kind: [each["display_name"] for each in made.values()] for kind, made in installation.objects.items()}
    assert left == {
        "pipelines": [],
        "versions": [],
        "experiments": [],
        "recurringruns": [],
        "runs": ["somebody else's"],
    }
    assert not list((places / "store").glob("nightdrive-trial-*"))


def no_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Play, "_record", lambda *_, **__: None)


def untranslated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schedule.Schedule, "trigger", lambda self, _: self.cron)


def unnamed(patch: pytest.MonkeyPatch) -> None:
    kept = Stub.start_recurring

    def of_the_latest(self: Stub, recurring_run_id: str) -> dict[str, Any]:
        del self.objects["recurringruns"][recurring_run_id]["pipeline_version_reference"]["pipeline_version_id"]
        return kept(self, recurring_run_id)

    patch.setattr(Stub, "start_recurring", of_the_latest)


def from_the_start(patch: pytest.MonkeyPatch) -> None:
    def retry(play: Play) -> tuple[int, str]:
        for step in play.steps:
            step.state = "PENDING"
        play._become("RUNNING")
        return 200, ""

    patch.setattr(Play, "retry", retry)


def too_large(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Play, "retry", lambda play, kept=Play.retry: setattr(play, "raw_bytes", TOO_LARGE_BYTES + 1) or kept(play)
    )


def forbidden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Play, "_go_on", lambda self: self._become("FAILED"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("case", "fault", "seen"),
    [
        ("refused gate", no_records, "exit 1"),
        ("bad input", no_records, "exit 1"),
        ("schedule in another zone", untranslated, " s after it was due, with the named version"),
        ("schedule in another zone", unnamed, "started when it was due, with another version"),
        ("a pod killed in the middle", from_the_start, "finished steps ran again"),
        ("a pod killed in the middle", too_large, "has outgrown what Kubernetes keeps"),
        ("hello", forbidden, "exit 1"),
    ],
)
def test_a_fault_of_the_installation_or_of_ours_is_seen(
    installation: Stub,
    places: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    fault: Callable[[pytest.MonkeyPatch], None],
    seen: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    only(monkeypatch, case)
    fault(monkeypatch)
    assert main(arguments(installation, places)) == 1
    said = capsys.readouterr().out
    assert any(line.startswith("! ") and seen in line for line in said.splitlines()), said
    assert not installation.objects["pipelines"], "a case that failed leaves something behind"


@pytest.mark.usefixtures("quick")
def test_without_kubernetes_no_pod_is_killed_and_the_table_says_so(
    installation: Stub, places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "a pod killed in the middle")
    monkeypatch.setenv("KUBECONFIG", str(places / "none"))
    assert main(arguments(installation, places)) == 1
    said = capsys.readouterr().out
    assert "! a pod killed in the middle | " in said
    assert "| no pod can be killed from here | " in said
    assert f"Kubeflow Pipelines, version not told at {installation.url}" in said


@pytest.mark.parametrize(
    ("space", "given", "said"),
    [
        ("nightdrive", True, "NIGHTDRIVE_NAMESPACE=nightdrive: nights run there; apply manifests/overlays/trial"),
        ("nightdrive-trial", False, "common.store: must be given, a place for trials that the cluster reaches"),
    ],
)
def test_a_trial_is_kept_away_from_nights(
    installation: Stub, places: Path, monkeypatch: pytest.MonkeyPatch, space: str, given: bool, said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("NIGHTDRIVE_NAMESPACE", space)
    assert main(arguments(installation, places)[: None if given else 3]) == 2
    assert said in capsys.readouterr().err
    assert not installation.objects["pipelines"]


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_lacks_something_is_told_before_anything_runs(
    installation: Stub, places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation.kubernetes.pop("/api/v1/namespaces/nightdrive-trial/secrets/mlpipeline-minio-artifact")
    assert main(arguments(installation, places)) == 2
    assert "the cluster lacks what is listed above" in capsys.readouterr().err
    assert not installation.objects["runs"]


def test_the_table_marks_what_was_not_as_expected() -> None:
    results = [
        Result(case="hello", expected="exit 0", seen="exit 0", seconds=12.4),
        Result(case="cancel", expected="exit 1, cancelled", seen="exit 1", seconds=7.0),
    ]
    assert table(results, "2.17.0 at http://kfp").splitlines() == [
        "  case   | expected          | seen   | seconds | ran against",
        "+ hello  | exit 0            | exit 0 | 12      | 2.17.0 at http://kfp",
        "! cancel | exit 1, cancelled | exit 1 | 7       | 2.17.0 at http://kfp",
    ]
