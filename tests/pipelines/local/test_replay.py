"""A night repeated: what it runs, what it is given, and the page with both side by side; that it is equal stands in end_to_end."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from perception.errors import InputError
from perception.reporting.outside import WEBHOOK
from perception.reporting.replay_page import FigurePair, render_replay
from perception.versioning.nights import Night, Used, record_night
from perception.versioning.registry import create_registry
from pipelines.local import run as engine
from pipelines.local.replay import replay, replay_table
from pipelines.nightly import nightly
from pipelines.settings import COUNTS, changed_settings, load_settings
from tests.perception.versioning.heads import head_of


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A night of the smoke profile as its run left it, and its row in the registry; nothing of it was run."""
    run, registry = tmp_path / "runs" / "monday", tmp_path / "runs" / "registry" / "smoke.git"
    run.mkdir(parents=True)
    create_registry(registry, str(tmp_path / "runs" / "registry" / "smoke"))
    settings = load_settings(nightly(), "smoke", run="monday", date="2026-11-30")
    listed = {name: list(range(settings[name])) for name in COUNTS.values()}
    (run / "params.yaml").write_text(yaml.safe_dump(settings | listed))
    (run / "summary.json").write_text(
        json.dumps({"run": "monday", "seconds": 9.0, "model": {"miou_dense": 0.25, "parameters": 7}})
    )
    used = Used(arrivals=0, labels=0, erasures=0, parameters=settings["report"]["settings_sha256"], code="c")
    row = {"night": "monday", "date": date(2026, 11, 30), "profile": "smoke", "base": None, "used": used}
    record_night(registry, Night(**row, status="done", registry_commit=head_of(registry)))
    return run


def replayed(monkeypatch: pytest.MonkeyPatch, summary: dict[str, object]) -> list[tuple[str, ...]]:
    """Let the engine be asked and write this summary."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setenv(WEBHOOK, "http://127.0.0.1:9/channel")
    monkeypatch.setattr(engine, "_reproduce", lambda _run, _environment, *what: asked.append(what) or 0)

    def tell(_night: object, run: Path, left_out: set[str], environment: dict[str, str]) -> int:
        assert WEBHOOK not in environment, "a replay is nobody's news"
        asked.append(tuple(sorted(left_out)))
        (run / "report").mkdir(exist_ok=True)
        (run / "report" / "summary.json").write_text(json.dumps(summary))
        return 0

    monkeypatch.setattr(engine, "_tell_without_engine", tell)
    return asked


def test_everything_but_what_writes_the_registry_runs_in_a_folder_of_its_own(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = recorded.parent / "registry" / "smoke.git"
    before = head_of(registry)
    summary = {"run": "monday", "seconds": 12.0, "model": {"miou_dense": 0.5, "parameters": 7}}
    asked = replayed(monkeypatch, summary)
    done = replay(nightly(), recorded.parent, "monday", ["select.budget_frames=5", "common.seed=3"])
    assert asked == [("compare", "gate_evaluate"), ("propose", "publish")]
    assert head_of(registry) == before and not (recorded.parent / "latest").exists()
    settings = yaml.safe_load((done.folder / "params.yaml").read_text())
    first = yaml.safe_load((recorded / "params.yaml").read_text())
    assert settings["select"]["budget_frames"] == 5
    assert {settings[name]["seed"] for name in ("resolve", "select", "adapt")} == {3}
    assert settings["report"]["settings"]["select.budget_frames"] == "5"
    assert settings["resolve"]["run"] == "monday", "names are drawn from"
    assert settings["batches"] == first["batches"] and settings["ensemble"]["store"] == first["ensemble"]["store"]
    assert {
        section["registry"] for section in settings.values() if isinstance(section, dict) and "registry" in section
    } == {"registry.git"}
    assert "model.miou_dense  0.25 -> 0.5  +0.25" in replay_table(done)
    assert "2 of 4 figures are equal" in replay_table(done), "the code is another, and the time is not asked about"
    assert done.page.read_text().index("model.miou_dense") < done.page.read_text().index("model.parameters")


def test_a_night_that_cannot_be_repeated_is_named(recorded: Path) -> None:
    runs, registry = recorded.parent, str(recorded.parent / "registry" / "smoke.git")
    with pytest.raises(InputError, match=r"sunday: has no params\.yaml"):
        replay(nightly(), runs, "sunday", [])
    for override in ("sources.fleet.drives=3", "batches=1", "cluster.gpus=2"):
        with pytest.raises(InputError, match="repeated on its own frames"):
            replay(nightly(), runs, "monday", [override])
    with pytest.raises(InputError, match=r"select\.budget_frames = 0"):
        replay(nightly(), runs, "monday", ["select.budget_frames=0"])
    used = Used(arrivals=0, labels=0, erasures=0, parameters="others", code="c")
    row = {"night": "tuesday", "date": date(2026, 12, 1), "profile": "smoke", "base": None, "used": used}
    commit = head_of(Path(registry))
    (recorded.parent / "tuesday").mkdir()
    (recorded.parent / "tuesday" / "params.yaml").write_text((recorded / "params.yaml").read_text())
    with pytest.raises(InputError, match=r"night '\.\./x': its name must be letters"):
        replay(nightly(), runs, "../x", [])
    with pytest.raises(InputError, match="has no such night"):
        replay(nightly(), runs, "tuesday", [])
    record_night(registry, Night(**row, status="nothing_new", registry_commit=commit))
    with pytest.raises(InputError, match="was nothing_new, there is nothing to repeat"):
        replay(nightly(), runs, "tuesday", [])
    record_night(registry, Night(**row, status="done", registry_commit=commit))
    with pytest.raises(InputError, match="has other parameters than those that night tuesday recorded"):
        replay(nightly(), runs, "tuesday", [])


def test_settings_are_changed_where_they_are_and_nowhere_else() -> None:
    night = nightly()
    settings = load_settings(night, "smoke")
    assert changed_settings(settings, night, []) == settings
    changed = changed_settings(settings, night, ["common.least_zoom=0.9"])
    assert changed["adapt"]["least_zoom"] == 0.9 and settings["adapt"]["least_zoom"] == 0.95


def test_the_page_shows_names_as_text_and_says_what_is_equal() -> None:
    pairs = [FigurePair("a", 1, 1, False), FigurePair("<b>", None, "x", False), FigurePair("seconds", 1.0, 2.0, True)]
    page = render_replay("monday", ["select.budget_frames=5"], pairs)
    assert "&lt;b&gt;" in page and "<b>" not in page and "1 differ" in page and "+1" in page
    assert "equal to the digit" in render_replay("monday", [], pairs[:1])
