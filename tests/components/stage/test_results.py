"""What one night worked out, the next takes from the store, and works it out again where anything that decides it changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.stage import results
from components.stage.results import RESULTS, reuse
from perception.errors import InputError, Unreachable
from tests.conftest import S3Server


class Worked:
    """Work a result out, and count how often."""

    def __init__(self, root: Path, store: str) -> None:
        self.root, self.store, self.count = root, store, 0

    def night(self, stage: str = "adapt", what: str = "networks", **depends_on: Any) -> dict[str, bytes]:
        folder = self.root / f"night-{len(list(self.root.glob('night-*')))}"
        folder.mkdir()

        def make() -> None:
            self.count += 1
            (folder / "network.safetensors").write_bytes(b"weights %d" % self.count)
            (folder / "told.json").write_bytes(b"{}")

        reuse(self.store, stage, what, depends_on, folder, make)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def worked(tmp_path: Path) -> Worked:
    return Worked(tmp_path, str(tmp_path / "store"))


def record(worked: Worked) -> Path:
    (path,) = (Path(worked.store) / RESULTS).iterdir()
    return path


def test_the_second_night_takes_the_first_ones_result(worked: Worked, capsys: pytest.CaptureFixture[str]) -> None:
    first = worked.night(frames="ab", parameters={"epochs": 2, "width": 0.5})
    assert worked.night(parameters={"width": 0.5, "epochs": 2}, frames="ab") == first
    assert worked.count == 1 and first["network.safetensors"] == b"weights 1"
    assert capsys.readouterr().out.startswith("networks: as an earlier night worked it out (results/")


def test_whatever_decides_the_result_changes_it(worked: Worked, monkeypatch: pytest.MonkeyPatch) -> None:
    worked.night(frames="ab")
    worked.night(frames="cd")
    worked.night(frames="ab", what="figures")
    worked.night(frames="ab", stage="evaluate")
    monkeypatch.setattr(results, "source_hashes", lambda modules: dict.fromkeys(modules, "edited"))
    worked.night(frames="ab")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "another")
    worked.night(frames="ab")
    assert worked.count == 6


def test_a_damaged_or_lost_blob_is_worked_out_again_and_mended(worked: Worked) -> None:
    worked.night(frames="ab")
    blob = Path(worked.store) / json.loads(record(worked).read_text())["files"]["network.safetensors"]
    blob.write_bytes(b"weights x")
    assert worked.night(frames="ab")["network.safetensors"] == b"weights 2"
    assert worked.night(frames="ab")["network.safetensors"] == b"weights 2"
    (Path(worked.store) / json.loads(record(worked).read_text())["files"]["network.safetensors"]).unlink()
    assert worked.night(frames="ab")["network.safetensors"] == b"weights 3"


def test_a_store_that_does_not_answer_is_no_reason_to_work_it_out_again(
    worked: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked.night(frames="ab")

    def away(_store: Any, _uri: str) -> bytes:
        raise Unreachable("store: the endpoint cannot be reached")

    monkeypatch.setattr("perception.data.store.FolderStore.get", away)
    with pytest.raises(Unreachable):
        worked.night(frames="ab")
    assert worked.count == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "no record of a result"),
        ('{"depends_on": {}, "files": {"a": 1}}', "no record of a result"),
        ('{"depends_on": {}, "files": {"../a": "u"}}', "names file '../a'"),
        ('{"depends_on": {}, "files": {"/etc/a": "u"}}', "names file '/etc/a'"),
    ],
)
def test_a_record_that_is_none_or_leads_elsewhere_is_refused(worked: Worked, text: str, said: str) -> None:
    worked.night(frames="ab")
    record(worked).write_text(text)
    with pytest.raises(InputError, match=said):
        worked.night(frames="ab")


def test_of_several_processes_the_first_one_looks_and_keeps(worked: Worked, monkeypatch: pytest.MonkeyPatch) -> None:
    first = worked.night(frames="ab")
    monkeypatch.setattr("perception.training.distributed.rank", lambda: 1)
    monkeypatch.setattr("perception.training.distributed.gather", lambda _: [first, None])
    elsewhere = Worked(worked.root, str(worked.root / "none"))
    assert elsewhere.night(frames="cd") == first and elsewhere.count == 0
    monkeypatch.setattr("perception.training.distributed.gather", lambda _: [None, None])
    elsewhere.night(frames="cd")
    assert elsewhere.count == 1 and not Path(elsewhere.store).exists()


@pytest.mark.s3
def test_nights_on_a_cluster_share_results_through_their_bucket(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    worked = Worked(tmp_path, f"s3://{s3_server.bucket}/nights")
    first = worked.night(frames="ab")
    assert worked.night(frames="ab") == first and worked.count == 1
