"""A season: nights one after the other, each with new footage, with the labels of the night before and from what that released.

    runs/SEASON/footage, labels     what arrives, night by night, and its labels, which only the annotator looks at
    runs/SEASON/ARM/                a folder of runs: its nights by date, their store and registry
    runs/SEASON/ARM/arrived, drops  what has arrived so far, and what came back from annotation; labelled: what came with labels

Nights are dated from FIRST on, whatever today is, so that a season is the same whenever it runs. Whatever is there already is
not done again: a season that was stopped goes on.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from components.ingest.sources import Source
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_DONE, EXIT_REFUSED
from perception.data.files import replace_file
from perception.errors import InputError
from perception.reporting.season_page import SHARE, SeasonNight, reached, render_season
from pipelines.graph import Graph
from pipelines.local.annotator import answer, mixed
from pipelines.local.arriving import frames_arriving, let_arrive, write_arriving
from pipelines.local.nights import ENDED
from pipelines.local.run import run_folder, run_night
from pipelines.local.summary_table import night_table
from pipelines.season import SeasonParameters
from pipelines.settings import load_settings

FIRST = date(2026, 1, 1)
# With the strategy goes what narrows its choice: it would narrow a random one too.
_AT_RANDOM = (
    "select.strategy=random",
    "select.quotas=[]",
    "select.duplicate_distance=0",
    "select.duplicate_gap_s=0",
    "select.duplicate_gap_frames=0",
)
# An arm never meets another's registry.
_APART = ("common.store=../store", "common.registry=../registry.git", "common.remote=../remote")
_UNATTENDED = ("release.data=when_gates_pass", "release.network=when_verdict_promotes")
Work = Callable[[Graph, Path, Mapping[str, Any]], int]


@dataclass(frozen=True)
class Arm:
    """One way through the season's nights."""

    name: str
    overrides: tuple[str, ...] = ()
    labelled: bool = False  # whatever arrives has its label, but for as many frames as a night may choose


CHOSEN, RANDOM, EVERYTHING = Arm("chosen"), Arm("random", _AT_RANDOM), Arm("everything", labelled=True)


@dataclass(frozen=True, kw_only=True)
class Season:
    """Hold what is asked of a season."""

    folder: Path
    nights: int
    graph: Graph
    profile: str
    data: str
    overrides: Sequence[str]
    fleet: tuple[str, Source]  # the source that arrives, with its name
    parameters: SeasonParameters
    taxonomy: str
    budget_frames: int
    seed: int
    size: tuple[int, int]  # (height, width) of rendered scenes, pixels
    settings_sha256: str  # of all parameters

    def night(self, arm: Arm, number: int) -> Path:
        """Return the folder of a night, which is named by its date; nights count from 1."""
        return self.folder / arm.name / night_date(number).isoformat()


def night_date(number: int) -> date:
    """Return the date of a season's night, counted from 1."""
    return FIRST + timedelta(days=number - 1)


def open_season(runs: Path, graph: Graph, profile: str, data: str, overrides: Sequence[str], nights: int) -> Season:
    """Return the season of a profile; raises InputError for a profile in which not just one source has hidden labels."""
    overrides = [*overrides, *_APART, *_UNATTENDED]
    settings = load_settings(graph, profile, overrides, data)
    sources = {name: build_parameters(Source, each, where=name) for name, each in settings["sources"].items()}
    hidden = [(name, source) for name, source in sources.items() if source.labels == "oracle"]
    if len(hidden) != 1:
        raise InputError(
            f"PROFILE={profile}: has {len(hidden)} sources with `labels: oracle`, and in a season one arrives; choose another profile"
        )
    ingest = settings["ingest"]
    return Season(
        folder=run_folder(f"{profile}-{nights}-nights", runs),
        nights=nights,
        graph=graph,
        profile=profile,
        data=data,
        overrides=overrides,
        fleet=hidden[0],
        parameters=build_parameters(SeasonParameters, settings["season"], where="season"),
        taxonomy=ingest["taxonomy"],
        budget_frames=settings["select"]["budget_frames"],
        seed=ingest["seed"],
        size=(ingest["height_px"], ingest["width_px"]),
        settings_sha256=settings["gather"]["settings_sha256"],
    )


def run_season(season: Season, arms: Sequence[Arm], work: Work = run_night) -> int:
    """Run the nights of each arm that have not ended; return the exit code of the first that failed, else 0.

    A night that a gate refused is over: what it took in is new for the next one. Raises InputError for a season that was begun with other
    parameters.
    """
    _check_same(season)
    stretch = season.parameters.stretch_frames
    write_arriving(season.fleet[1], season.nights, stretch, season.taxonomy, season.seed, season.size, season.folder)
    for arm in arms:
        for number in range(1, season.nights + 1):
            if status_of(season.night(arm, number)) in (*ENDED, "refused"):
                continue
            code = _run_night(season, arm, number, work)
            if code not in (EXIT_DONE, EXIT_REFUSED):
                return code
    return EXIT_DONE


def _check_same(season: Season) -> None:
    begun = season.folder / "settings.sha256"
    if not begun.exists():
        replace_file(begun, season.settings_sha256.encode())
    if begun.read_text() != season.settings_sha256:
        raise InputError(
            f"{season.folder}: was begun with other parameters, and its nights would no longer be one season; go on with those, or move "
            "the folder away and begin anew"
        )


def status_of(night: Path) -> str | None:
    """Return what became of a night; None: it has not ended."""
    summary = night / "summary.json"
    return str(json.loads(summary.read_text())["status"]) if summary.exists() else None


def _run_night(season: Season, arm: Arm, number: int, work: Work) -> int:
    folder, started = season.night(arm, number), time.monotonic()
    overrides = [*season.overrides, *arm.overrides, *_let_arrive(season, arm, number)]
    settings = load_settings(season.graph, season.profile, overrides, season.data, run=folder.name, date=folder.name)
    code = work(season.graph, folder, settings)
    print(f"\n{arm.name} {number} of {season.nights}")
    if (folder / "summary.json").exists():
        print(night_table(folder, seconds=time.monotonic() - started), flush=True)
    return code


def _let_arrive(season: Season, arm: Arm, number: int) -> list[str]:
    """Put a night's footage, and the labels that are due, where it looks for them; return the overrides that say where."""
    place, (name, fleet) = season.folder / arm.name, season.fleet
    for folder in ("arrived", "labelled", "drops"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    let_arrive(season.folder, number, _labelled_first(season, arm, number), season.taxonomy, place)
    for earlier in range(1, number):
        batch = season.night(arm, earlier) / "selection" / "annotation"
        if (batch / "batch.json").exists():
            drop, since, day = place / "drops" / f"{number}-asked-{earlier}", number - earlier, night_date(number)
            answer(season.folder, batch, season.parameters, nights_since=since, day=day, drop=drop)
    sources = {
        name: {"format": "webdataset", "path": str(place / "arrived"), "split": "pool", "labels": "none"},
        "annotators": {"format": "label_drop", "path": str(place / "drops"), "split": "train", "labels": "drop"},
    }
    if any((place / "labelled").iterdir()):
        known = {"format": "webdataset", "path": str(place / "labelled"), "split": "train", "labels": "given"}
        sources["labelled_before"] = known
    return [f"sources.{each}={json.dumps(source | {'domain': fleet.domain})}" for each, source in sources.items()]


def _labelled_first(season: Season, arm: Arm, number: int) -> set[str]:
    """Return which frames of a night arrive with their labels: on the first night as many as the profile has from the start; in a
    labelled arm on every night all but a budget.
    """
    if number > 1 and not arm.labelled:
        return set()
    ids = sorted(frames_arriving(season.folder, number), key=lambda frame_id: mixed(f"{season.seed}", frame_id))
    wanted = len(ids) - season.budget_frames if arm.labelled else season.fleet[1].initial_labelled_frames
    return set(ids[: max(0, wanted)])


# --- what came of it


def nights_of(season: Season, arm: Arm) -> list[SeasonNight]:
    """Return what is shown of an arm's nights, those that have ended."""
    from perception.versioning.nights import read_nights

    return [
        SeasonNight(
            night=row.night,
            status=row.status,
            base=row.base,
            new_frames=row.figures.new_frames,
            labels=row.figures.human_labels,
            miou=row.figures.miou,
            verdict=row.figures.verdict,
        )
        for row in read_nights(season.folder / arm.name / "registry.git")
    ]


def tell_season(season: Season, arms: Sequence[Arm]) -> str:
    """Return the table of all nights; write the trend, nights.html, and season.html where random choice was run beside."""
    from perception.reporting.nights_page import render_nights
    from perception.versioning.trend import read_trend

    told = {arm: nights_of(season, arm) for arm in arms}
    registry, trend = season.folder / CHOSEN.name / "registry.git", season.folder / "nights.html"
    replace_file(trend, render_nights(read_trend(registry), str(registry)).encode())
    lines = [_table({arm.name: nights for arm, nights in told.items()}), f"the trend: {trend}"]
    if RANDOM in told:
        page = season.folder / "season.html"
        compared = {arm.name: told[arm] for arm in (CHOSEN, RANDOM)}
        replace_file(page, render_season(season.folder.name, compared, told[EVERYTHING]).encode())
        full, needed = reached(compared, told[EVERYTHING])
        needs = ", ".join(f"{name} {labels or 'not reached'}" for name, labels in needed.items())
        lines.append(f"labels for {SHARE:.0%} of the mIoU that all labels give ({full:.3f}): {needs}; {page}")
    return "\n".join(lines)


def _table(arms: Mapping[str, Sequence[SeasonNight]]) -> str:
    form = "{:<11} {:<11} {:<11} {:<26} {:>6} {:>7} {:>6}  {}"
    lines = [form.format("arm", "night", "status", "base", "new", "labels", "mIoU", "verdict")]
    for name, nights in arms.items():
        for each in nights:
            miou = None if each.miou is None else f"{each.miou:.3f}"
            row = (name, each.night, each.status, each.base, each.new_frames, each.labels, miou, each.verdict)
            lines.append(form.format(*("-" if value is None else str(value) for value in row)))
    return "\n".join(lines)
