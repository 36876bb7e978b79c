"""What tasks give each other on a cluster: folders through the store, whole or not at all, of this run only."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components.stage.exchange import Exchange, Given, open_exchange, taken
from perception.data.s3 import open_bucket
from perception.errors import InputError, Unreachable
from tests.conftest import S3Server

pytestmark = pytest.mark.s3

FRAMES = Given("gather", "frames")


def test_what_is_taken_is_a_folder_or_each_of_its_shares() -> None:
    assert list(taken("gather.frames")) == [FRAMES]
    assert [given.path for given in taken("score.scores/3")] == [f"score/scores/{number}" for number in range(3)]
    for text in ("gather", "a.b.c", "../x.y", "a.b/-1", "a.b/c", "A.b", ""):
        with pytest.raises(ValueError, match="as what is taken"):
            list(taken(text))


@pytest.fixture
def pods(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Open the exchange of a run as a pod of its own does, with an empty disk."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    def pod(name: str, run: str = "run-7", store: str = f"s3://{s3_server.bucket}/exchange") -> Exchange:
        disk = tmp_path / name
        disk.mkdir()
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(disk))
        return open_exchange(
            store, Path(f"/s3/mlpipeline/v2/artifacts/nightdrive/{run}/score/uuid/output_metadata.json")
        )

    return pod


def give(exchange: Exchange, given: Given, text: str) -> None:
    folder = exchange.root / given.path
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "file").write_text(text)
    exchange.send(given)


def test_a_folder_goes_from_pod_to_pod(pods: Any) -> None:
    give(pods("one"), FRAMES, "pixels")
    give(pods("again"), FRAMES, "later pixels")
    other = pods("other")
    assert other.holds(FRAMES)
    assert other.fetch(FRAMES) and other.fetch(FRAMES)
    assert (other.root / "gather" / "frames" / "deep" / "file").read_text() == "later pixels"
    assert sorted(path.name for path in other.root.iterdir()) == ["gather"], "nothing is left beside it"


def test_shares_are_given_one_by_one_and_runs_know_nothing_of_each_other(pods: Any) -> None:
    give(pods("index"), Given("score", "scores", "3"), "three")
    other = pods("other")
    assert not other.holds(Given("score", "scores")) and not other.fetch(Given("score", "scores", "2"))
    assert other.fetch(Given("score", "scores", "3"))
    assert not pods("tomorrow", run="run-8").fetch(Given("score", "scores", "3"))


def test_no_member_of_a_packed_folder_leaves_it(pods: Any, s3_server: S3Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())
    bucket = open_bucket(f"s3://{s3_server.bucket}/exchange/given/run-9", s3_server.environment())
    bucket.write("gather/frames/whole.tar", io.BytesIO(packed.getvalue()), len(packed.getvalue()))
    pod = pods("pod", run="run-9")
    with pytest.raises(tarfile.OutsideDestinationError):
        pod.fetch(FRAMES)
    assert not list(tmp_path.rglob("escaped"))
    assert not (pod.root / FRAMES.path).exists()


def test_kubeflow_takes_the_address_of_a_packed_folder_for_no_folder_of_its_own(pods: Any) -> None:
    """What begins with s3:// its launcher would try to upload, and fail where the bucket is another one."""
    uri = pods("pod").uri(FRAMES)
    assert uri.endswith("/exchange/given/run-7/gather/frames/whole.tar")
    assert not uri.startswith(("s3://", "gs://", "minio://", "oci://", "/"))


def test_a_store_that_pods_do_not_share_is_refused_and_a_silent_one_may_answer_later(
    pods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"store /data/store: is no place .* common.store=s3://BUCKET/PREFIX"):
        pods("pod", store="/data/store")
    monkeypatch.setenv("NIGHTDRIVE_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable):
        pods("silent").fetch(FRAMES)
