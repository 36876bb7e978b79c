"""Settings: every profile is sound, every mistake is named before anything runs."""

from pathlib import Path

import pytest
import yaml

from components.stage.registry import all_stages
from perception.errors import InputError
from pipelines.settings import PARAMS_FILE, load_settings, stage_of, step_parameters

PROFILES = list(yaml.safe_load(PARAMS_FILE.read_text())["profiles"])


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_gives_sound_parameters_for_every_task(profile: str, data: str) -> None:
    settings = load_settings(profile, data=data)
    for task in (name for name in settings if name not in ("profile", "sources", "shards", "images", "cluster")):
        given = step_parameters(settings, task)
        assert set(given) == set(stage_of(task).parameters.__dataclass_fields__)
    assert {"demo", "smoke", "camvid", "nightly"} <= set(PROFILES)
    assert set(all_stages()) - {"gate"} <= set(settings)


@pytest.mark.parametrize(
    ("profile", "overrides", "data", "message"),
    [
        ("smok", [], "", "PROFILE=smok: no such profile, did you mean 'smoke'?"),
        (
            "smoke",
            ["select.budget_frame=3"],
            "",
            "select: unknown parameter 'budget_frame', did you mean 'budget_frames'?",
        ),
        ("smoke", ["select.budget_frames=0"], "", "select: budget_frames = 0: must be at least 1"),
        ("smoke", ["selekt.budget_frames=3"], "", "no section 'selekt', did you mean 'select'?"),
        ("smoke", ["budget_frames"], "", "must be SECTION.NAME=VALUE"),
        (
            "smoke",
            ["sources.fleet.split=hidden"],
            "",
            "sources.fleet: split = 'hidden': must be pool, train, val or test",
        ),
        ("smoke", ["ensemble.members=3"], "", "ensemble: members = 3: must be at least 4"),
        ("smoke", ["common.height_px=70"], "", "height_px = 70: must be a positive multiple of 8"),
        ("smoke", ["common.sede=1"], "", "common.sede: no stage has such a parameter, did you mean 'seed'?"),
        ("smoke", ["common.learning_rate=.inf"], "", "must be finite"),
        ("smoke", ["select.budget_frames=["], "", "is not a YAML value"),
        ("smoke", ["select.budget_frames=!!python/object:x"], "", "is not a YAML value"),
        ("smoke", ["sources.fleet=1"], "", "source 'fleet': must be a mapping"),
        ("smoke", ["sources.fleet.initial_labelled_frames=-1"], "", "must not be negative"),
        ("smoke", ["shards.x=1"], "", "no section 'shards'"),
        ("camvid", [], "/nowhere", "DATA=/nowhere: no such folder"),
        ("camvid", [], "", "say where the data are, DATA=DIR"),
    ],
)
def test_mistakes_are_named(profile: str, overrides: list[str], data: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", "\\?")):
        load_settings(profile, overrides, data)


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    content = yaml.safe_load(PARAMS_FILE.read_text()) | {"evaluat": {}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="no such stage, did you mean 'evaluate'"):
        load_settings("demo", file=file)


@pytest.mark.parametrize("missing", ["select", "gate_select", "report", "common"])
def test_a_missing_section_is_named(tmp_path: Path, missing: str) -> None:
    content = yaml.safe_load(PARAMS_FILE.read_text())
    del content[missing]
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=f"section '{missing}' must be a mapping"):
        load_settings("demo", file=file)


def test_a_profiles_sources_replace_the_demos(data: str) -> None:
    settings = load_settings("camvid", data=data)
    assert {source["format"] for source in settings["sources"].values()} == {"camvid", "scenes"}
    assert settings["sources"]["fleet"]["path"] == data
