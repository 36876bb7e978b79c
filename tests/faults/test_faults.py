"""The fault campaign, reduced: a few seeds and the stages that take milliseconds. `make faults` runs all of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import cases
from tests.faults.counting import Count, counted, table
from tests.faults.kills import Undisturbed, kill_campaign, undisturbed_night
from tests.faults.nights import load_libraries

SHORT = ("resolve", "ingest", "gather", "ensemble", "score", "select", "curate", "publish")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """A night up to its publication, without its gates."""
    load_libraries(("torch._dynamo", "pyarrow.dataset", "perception.training.loop", "perception.uncertainty.ensemble"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield undisturbed_night(tmp_path_factory.mktemp("undisturbed"), SHORT)


def nothing_lost(row: Count) -> None:
    assert row.losses == (), table([row])


def test_every_stage_killed_once_ends_in_the_same_night(undisturbed: Undisturbed, tmp_path: Path) -> None:
    row = kill_campaign(tmp_path, undisturbed, seeds=(1,), only=SHORT)
    nothing_lost(row)
    assert row.kills == row.cases == 12


def test_a_full_disk_is_named_and_costs_nothing(undisturbed: Undisturbed, tmp_path: Path) -> None:
    nothing_lost(cases.full_disk(tmp_path, undisturbed, ("gather", "select", "curate")))


def test_a_full_disk_where_nothing_can_be_mounted(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cases.shutil.which
    monkeypatch.setattr(cases.shutil, "which", lambda name: None if name == "mount" else real(name))
    row = cases.full_disk(tmp_path, undisturbed, ("gather", "select", "curate"))
    nothing_lost(row)
    assert "injected" in row.name


def test_a_read_only_store_is_named(undisturbed: Undisturbed, tmp_path: Path) -> None:
    nothing_lost(cases.read_only_store(tmp_path, undisturbed))


def test_an_s3_server_that_is_absent_or_fails_is_named(tmp_path: Path) -> None:
    nothing_lost(cases.s3_gone(tmp_path))


def test_clocks_ten_years_off_change_nothing(undisturbed: Undisturbed, tmp_path: Path) -> None:
    nothing_lost(cases.clock_skew(tmp_path, undisturbed, ("resolve", "ingest", "gather")))


def test_decisions_keep_their_order_though_clocks_go_back(undisturbed: Undisturbed, tmp_path: Path) -> None:
    tag = json.loads((undisturbed.run / "version" / "version.json").read_text())["tag"]
    nothing_lost(cases.decisions_with_a_skewed_clock(tmp_path, undisturbed, tag))


def test_a_second_night_on_one_folder_is_refused(tmp_path: Path) -> None:
    assert cases.second_on_one_folder(tmp_path) == "error"


def test_a_broken_gpu_is_named(undisturbed: Undisturbed, tmp_path: Path) -> None:
    nothing_lost(cases.broken_gpu(tmp_path, undisturbed, ("score@0",)))


def test_truncated_and_changed_artifacts_are_named(undisturbed: Undisturbed, tmp_path: Path) -> None:
    row = cases.spoilt_artifacts(tmp_path, undisturbed)
    nothing_lost(row)
    assert row.cases >= 10


def test_damaged_blobs_are_named_and_mended_by_ingesting_again(undisturbed: Undisturbed, tmp_path: Path) -> None:
    nothing_lost(cases.spoilt_blobs(tmp_path, undisturbed))


def test_a_count_cannot_leave_a_case_out() -> None:
    assert counted("x", ["correct", "error", "gone"], kills=1) == Count("x", 3, 1, 1, 1, ("gone",))
    with pytest.raises(ValueError, match="3 cases"):
        Count("x", 3, 0, 1, 1)
    assert "LOSS: gone" in table([counted("x", ["gone"])])
