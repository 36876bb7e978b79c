"""A season without training: what arrives, what its annotator sends back, what is released, and that a stopped one goes on."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.scale.data_nights import data_night
from components.ingest.sources import Source
from components.stage.program import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED
from perception.errors import InputError
from perception.reporting.season_page import SeasonNight, labels_to_reach, reached, render_season
from perception.versioning.decisions import promote
from perception.versioning.growing import open_book
from perception.versioning.ledger import read_events, state
from perception.versioning.registry import resolve
from pipelines.graph import Graph
from pipelines.local import annotator
from pipelines.local.arriving import frames_arriving, hidden_labels, in_nights, write_arriving
from pipelines.local.run import ROOT
from pipelines.local.season import CHOSEN, EVERYTHING, RANDOM, Season, nights_of, open_season, run_season, tell_season
from pipelines.nightly import nightly
from pipelines.season import SeasonParameters
from tests.perception.data.readers import layouts

SMALL = ["common.height_px=32", "common.width_px=64", "sources.fleet.drives=6", "sources.fleet.frames_per_drive=4"]
SMALL += ["sources.fleet.initial_labelled_frames=3", "select.budget_frames=4", "select.fresh_share=0", "batches=1"]
SMALL += ["sources.frozen_test.drives=2", "sources.frozen_test.frames_per_drive=1", "sources.simulator.drives=1"]
SMALL += ["sources.val.drives=1", "sources.val.frames_per_drive=1"]
AT_FIRST = 2 + 1 + 1  # frames of the test set, the simulator and val, which the first night reads


def small_season(runs: Path, *overrides: str, nights: int = 3) -> Season:
    return open_season(runs, nightly(), "season", "", [*SMALL, *overrides], nights)


def released(folder: Path, settings: Mapping[str, Any]) -> None:
    """Do a night's work but for training, and release what the policy would."""
    data_night(folder, settings)
    assert settings["propose"]["release"] == {"data": "when_gates_pass", "network": "when_verdict_promotes"}
    version = json.loads((folder / "version" / "version.json").read_text())
    signed = {
        "manifest_sha256": version["manifest_sha256"],
        "names": ["policy"],
        "reason": "its gates passed",
        "policy": "{}",
    }
    promote(folder.parent / "registry.git", version["tag"], **signed)


def work(_graph: Graph, folder: Path, settings: Mapping[str, Any]) -> int:
    released(folder, settings)
    (folder / "summary.json").write_text('{"status": "done"}')
    return EXIT_DONE


UNTOLD = patch("pipelines.local.season.night_table", lambda *_, **__: "")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with UNTOLD:
        yield


# --- what arrives


def test_footage_arrives_by_drive_and_within_a_long_one_by_stretches() -> None:
    names = [f"a{n:02d}" for n in range(7)] + [f"b{n:02d}" for n in range(2)]
    listing = pd.DataFrame({"object": names, "drive_id": [name[0] for name in names]})
    nights = in_nights(listing, 2, 3)  # a: 3, 3 and 1 frames; b: 2
    assert [night.object.tolist() for night in nights] == [names[:6], names[6:]]
    with pytest.raises(InputError, match="NIGHTS=5: the footage has 4 stretches of 3 frames"):
        in_nights(listing, 5, 3)


def test_what_arrives_has_no_label_and_the_annotator_knows_all(tmp_path: Path) -> None:
    season = small_season(tmp_path)
    run_season(season, ())
    ids = [frame_id for night in (1, 2, 3) for frame_id in frames_arriving(season.folder, night)]
    assert len(ids) == len(set(ids)) == 24
    assert set(dict(hidden_labels(season.folder, set(ids)))) == set(ids)
    assert b".label.png" not in (season.folder / "footage" / "1.tar").read_bytes()


def test_street_footage_arrives_by_stretches_of_a_drive_with_labels_of_the_nights_classes(tmp_path: Path) -> None:
    for number in range(5):
        layouts.put(tmp_path / "camvid" / "train" / f"0001TP_{number:06d}.png", layouts.picture("PNG"))
        layouts.put(tmp_path / "camvid" / "trainannot" / f"0001TP_{number:06d}.png", layouts.grey(np.full((4, 6), 3)))
    about: dict[str, Any] = {"format": "camvid", "path": str(tmp_path / "camvid"), "part": "train", "domain": "real"}
    fleet = Source(**about, split="pool", labels="oracle")
    write_arriving(fleet, 2, 3, "cityscapes19", 0, (0, 0), tmp_path / "season")
    ids = [frames_arriving(tmp_path / "season", night) for night in (1, 2)]
    assert [len(night) for night in ids] == [3, 2] and ids[0][0] == "camvid_0001TP_000000"
    label = dict(hidden_labels(tmp_path / "season", {ids[1][0]}))[ids[1][0]]
    assert (np.asarray(Image.open(io.BytesIO(label))) == 0).all(), (
        "road is 3 in CamVid's files and 0 in Cityscapes' classes"
    )


def test_a_season_does_not_go_on_with_other_parameters(tmp_path: Path) -> None:
    for _ in range(2):
        run_season(small_season(tmp_path, nights=1), ())
    with pytest.raises(InputError, match="season-1-nights: was begun with other parameters"):
        run_season(small_season(tmp_path, "select.budget_frames=5", nights=1), ())


@pytest.mark.parametrize(
    ("late", "wrong", "answers"),
    [(0, 0, [True, None, None]), (1, 0, [None, True, None]), (0, 1, [False, True, None]), (1, 1, [None, False, True])],
)
def test_a_late_label_comes_a_night_later_and_a_wrong_one_is_mended_the_night_after(
    late: int, wrong: int, answers: list[bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator, "mixed", lambda salt, _: 0.1 if {"late": late, "wrong": wrong}[salt] else 0.9)
    asked = SeasonParameters(late_share=0.5, wrong_share=0.5)
    assert [annotator._sound("frame", nights, asked) for nights in (1, 2, 3)] == answers


# --- a whole season


def chosen_on(season: Season, number: int) -> set[str]:
    return set(pd.read_csv(season.night(CHOSEN, number) / "selection" / "annotation" / "frames.csv").frame_id)


def version_on(season: Season, number: int) -> pd.DataFrame:
    manifest = pd.read_parquet(season.night(CHOSEN, number) / "curated" / "version" / "manifest.parquet")
    return manifest[manifest.split == "train"].set_index("frame_id")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Season, list[str]]:
    """A season of three nights that was stopped in the second and went on; and the nights that worked, one after the other."""
    season = small_season(tmp_path_factory.mktemp("played"), "season.late_share=0", "season.wrong_share=0.3")
    calls: list[str] = []

    def stopped(graph: Graph, folder: Path, settings: Mapping[str, Any]) -> int:
        calls.append(folder.name)
        if len(calls) == 2:
            data_night(folder, settings)
            raise KeyboardInterrupt
        return work(graph, folder, settings)

    with pytest.raises(KeyboardInterrupt):
        run_season(season, (CHOSEN,), stopped)
    for _ in range(2):
        assert run_season(season, (CHOSEN,), stopped) == EXIT_DONE
    return season, calls


Played = tuple[Season, list[str]]


def test_a_season_that_was_stopped_goes_on_and_a_finished_one_does_nothing(played: Played) -> None:
    assert played[1] == ["2026-01-01", "2026-01-02", "2026-01-02", "2026-01-03"]


def test_every_night_reads_what_is_new_and_starts_from_what_was_released(played: Played) -> None:
    season, _ = played
    nights = nights_of(season, CHOSEN)
    assert [each.night for each in nights] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    # The first night reads the simulator's frame and the test frames too.
    assert [each.new_frames for each in nights] == [8 + AT_FIRST, 8, 8]
    versions = [
        json.loads((season.night(CHOSEN, n) / "version" / "version.json").read_text())["tag"] for n in (1, 2, 3)
    ]
    assert [each.base for each in nights] == [None, *versions[:2]]
    current = resolve(season.folder / "chosen" / "registry.git")
    assert current is not None and current.tag == versions[2], "the last night is released too"
    assert "2026-01-03" in tell_season(season, (CHOSEN,))
    assert "2026-01-03" in (season.folder / "nights.html").read_text(), "it ends with the trend"


def test_labels_come_back_a_night_later_and_those_that_were_not_whole_after_another(played: Played) -> None:
    season, _ = played
    asked = chosen_on(season, 1)
    wrong = {frame_id for frame_id in asked if annotator.mixed("wrong", frame_id) < 0.3}
    assert wrong and asked - wrong, "the draw has some of each"
    assert set(version_on(season, 2).index) == set(version_on(season, 1).index) | asked - wrong
    assert asked <= set(version_on(season, 3).index)
    taught = version_on(season, 3)
    for frame_id, label in hidden_labels(season.folder, asked):
        assert (season.folder / "chosen" / "store" / taught.label_uri[frame_id]).read_bytes() == label
    known = state(read_events(open_book(season.folder / "chosen" / "registry.git"))).set_index("frame_id")
    assert (known.status[list(asked)] == "accepted").all() and known.rejected_why[list(wrong)].notna().all()


def test_a_refused_night_is_over(tmp_path: Path) -> None:
    season, calls = small_season(tmp_path, nights=1), []

    def refused(_graph: Graph, folder: Path, _settings: Mapping[str, Any]) -> int:
        calls.append(folder.name)
        folder.mkdir()
        (folder / "summary.json").write_text('{"status": "refused"}')
        return EXIT_REFUSED

    for _ in range(2):
        assert run_season(season, (CHOSEN,), refused) == EXIT_DONE
    assert calls == ["2026-01-01"]


def test_a_night_that_failed_ends_the_season_until_it_is_called_again(tmp_path: Path) -> None:
    season, codes = small_season(tmp_path, nights=1), [EXIT_FAILED, EXIT_DONE]
    assert [run_season(season, (CHOSEN,), lambda *_: codes.pop(0)) for _ in range(2)] == [EXIT_FAILED, EXIT_DONE]


# --- beside random choice


def killed_beside(runs: str) -> None:
    """Run a season with random choice beside it, and die there by kill -9 when the night has released and nobody knows that it is done."""

    def killed(graph: Graph, folder: Path, settings: Mapping[str, Any]) -> int:
        if folder.parent.name != RANDOM.name:
            return work(graph, folder, settings)
        released(folder, settings)
        os.kill(os.getpid(), signal.SIGKILL)
        return EXIT_FAILED

    with UNTOLD:
        run_season(small_season(Path(runs), nights=1), (CHOSEN, RANDOM, EVERYTHING), killed)


def test_random_choice_meets_the_same_footage_in_a_registry_of_its_own_and_goes_on_after_kill_9(tmp_path: Path) -> None:
    season, arms = small_season(tmp_path, nights=1), (CHOSEN, RANDOM, EVERYTHING)
    program = f"from {__name__} import killed_beside; killed_beside({str(tmp_path)!r})"
    died = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    was = resolve(season.folder / "random" / "registry.git")
    calls: list[str] = []

    def counted(graph: Graph, folder: Path, settings: Mapping[str, Any]) -> int:
        calls.append(folder.parent.name)
        return work(graph, folder, settings)

    assert run_season(season, arms, counted) == EXIT_DONE
    assert calls == ["random", "everything"]
    assert resolve(season.folder / "random" / "registry.git") == was, "the night that had released came to the same"
    assert not (season.night(RANDOM, 1) / "base" / "run.json").exists(), "it started from what was there before"
    told = tell_season(season, arms)
    chosen, random, everything = (nights_of(season, arm)[0] for arm in arms)
    assert chosen.new_frames == random.new_frames == 24 + AT_FIRST
    assert (chosen.labels, random.labels, everything.labels) == (3, 3, 20), "all but a budget"
    strategies = [
        json.loads((season.night(arm, 1) / "selection" / "selection.json").read_text())["strategy"] for arm in arms
    ]
    assert strategies == ["k_centre", "random", "k_centre"]
    assert told.count("2026-01-01") == 3 and "season.html" in told
    assert "Random" in (season.folder / "season.html").read_text()


def test_the_labels_that_are_needed_are_those_of_the_first_night_that_is_good_enough() -> None:
    def night(labels: int | None, miou: float | None) -> SeasonNight:
        about: dict[str, Any] = dict.fromkeys(("base", "verdict", "new_frames"))
        return SeasonNight(night="n", status="done", labels=labels, miou=miou, **about)

    learned = [night(10, 0.1), night(20, 0.2), night(None, 0.9), night(30, None), night(40, 0.3)]
    assert labels_to_reach([(10, 0.1), (20, 0.2)], 0.15) == 20
    full, needed = reached({"chosen": learned, "random": learned[:2]}, [night(90, 0.25)])
    assert full == 0.25 and needed == {"chosen": 40, "random": None}
    page = render_season("a season", {"chosen": learned}, [night(90, 0.25)])
    assert "40 <i>labels</i>" in page and "25.0 %" in page
    assert np.isnan(reached({"chosen": learned}, [])[0]) and "not measured" in render_season("s", {"chosen": []}, [])
