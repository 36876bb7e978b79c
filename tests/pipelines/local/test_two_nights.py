"""Two nights at once on one registry, as processes of their own, on a folder and on a real S3 server."""

import multiprocessing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from benchmarks.scale import data_nights
from benchmarks.scale.data_nights import arrive, data_night, night_settings, picture
from perception.errors import InputError
from perception.versioning.growing import open_book, read_table
from perception.versioning.nights import read_nights
from perception.versioning.pool import ARRIVALS
from perception.versioning.upkeep import scrub, versions

DATE, NIGHTS = "2026-11-30", ("one", "two")
FORK = multiprocessing.get_context("fork")


def settings(root: Path, name: str, remote: str, own_footage: bool) -> dict[str, Any]:
    place = root / name if own_footage else root
    (place / "drops").mkdir(parents=True, exist_ok=True)
    more = [f"common.remote={remote}/remote", f"common.store={remote}/store", "select.budget_frames=4"]
    return night_settings(place, name, DATE, more)


def run_beside(folder: Path, given: dict[str, Any], meet: Barrier, endings: "Queue[tuple[str, str]]") -> None:
    """Run a night that publishes when the other does, too; tell how it ended."""
    real = data_nights.run_stage

    def run_stage(name: str, *arguments: Any) -> Any:
        if name == "publish":
            meet.wait(timeout=120)
        return real(name, *arguments)

    with patch.object(data_nights, "run_stage", run_stage):
        try:
            data_night(folder, given)
            endings.put((folder.name, "done"))
        except InputError as error:
            endings.put((folder.name, str(error)))


def both_at_once(root: Path, remote: str, own_footage: bool) -> dict[str, str]:
    meet, endings = FORK.Barrier(len(NIGHTS)), FORK.Queue()
    nights = [
        FORK.Process(
            target=run_beside, args=(root / "runs" / name, settings(root, name, remote, own_footage), meet, endings)
        )
        for name in NIGHTS
    ]
    for night in nights:
        night.start()
    told = dict(endings.get(timeout=240) for _ in nights)
    for night in nights:
        night.join()
    return told


def check_registry(root: Path, frames: set[str], nights: tuple[str, ...] = NIGHTS) -> None:
    """Every frame was taken in once, all nights are told and have a version, and nothing is missing."""
    registry = root / "runs" / "registry" / "smoke.git"
    arrivals = read_table(open_book(registry), ARRIVALS)
    taken = arrivals[(arrivals.source == "fleet") & (arrivals.outcome == "new")].frame_id
    assert sorted(taken) == sorted(frames)
    assert {(night.night, night.status) for night in read_nights(registry)} == {(name, "done") for name in nights}
    assert {version.run for version in versions(str(registry))} == set(nights)
    assert scrub(str(registry), sample=None, seed=0).is_clean


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the nights keep their data."""
    if request.param == "folder":
        return str(tmp_path / "data")
    server = request.getfixturevalue("s3_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket}/{tmp_path.name}"


def test_of_two_nights_on_the_same_footage_one_is_told_to_run_again_and_takes_what_is_left(
    remote: str, tmp_path: Path
) -> None:
    frames = {f"a{number}": picture(number) for number in range(5)}
    arrive(tmp_path / "footage", "one", frames)
    told = both_at_once(tmp_path, remote, own_footage=False)
    first, second = sorted(told, key=lambda name: told[name] != "done")
    assert told[first] == "done"
    assert f"night {first} took in 8 of the frames of night {second} meanwhile" in told[second]
    assert f"run {second} again: it goes on with what is left" in told[second]
    arrive(tmp_path / "footage", "more", {"b0": picture(9)})
    again = data_night(tmp_path / "runs" / second, settings(tmp_path, second, remote, own_footage=False))
    assert again["new"] == 1
    check_registry(tmp_path, {*frames, "b0"})


def test_two_nights_on_footage_of_their_own_both_end_well(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    arrive(tmp_path / "footage", "first", {"a0": picture(99)})
    data_night(tmp_path / "runs" / "first", settings(tmp_path, "first", data, own_footage=False))  # has the test frames
    for number, name in enumerate(NIGHTS):
        frames = {f"{name[0]}{each}": picture(10 * number + each) for each in range(5)}
        arrive(tmp_path / name / "footage", name, frames)
    assert both_at_once(tmp_path, data, own_footage=True) == dict.fromkeys(NIGHTS, "done")
    own = {f"{name[0]}{each}" for name in NIGHTS for each in range(5)}
    check_registry(tmp_path, {"a0", *own}, ("first", *NIGHTS))
