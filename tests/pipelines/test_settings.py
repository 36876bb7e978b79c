"""Settings: every profile is sound, every mistake is named before anything runs."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from components.evaluate import EvaluateParameters
from components.stage.parameters import build_parameters
from perception.errors import InputError
from perception.quality.suites import bind, load_suite
from pipelines.nightly import nightly
from pipelines.settings import PARAMS_FILE, load_settings, step_parameters

NIGHT = nightly()

PROFILES = list(yaml.safe_load(PARAMS_FILE.read_text())["profiles"])


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_gives_sound_parameters_for_every_task(profile: str, data: str) -> None:
    settings = load_settings(NIGHT, profile, data=data)
    for task in NIGHT.tasks.values():
        given = step_parameters(settings, task)
        assert set(given) == set(task.stage.parameters.__dataclass_fields__) - {task.over}
        build_parameters(task.stage.parameters, given | ({task.over: 0} if task.over else {}), where=task.name)
    assert {"demo", "smoke", "camvid", "nightly"} <= set(PROFILES)
    assert set(NIGHT.tasks) <= set(settings)


def test_the_contract_of_the_release_is_what_evaluate_judges_by() -> None:
    signed = "{figure: weather=fog, by: Ada Lovelace, reason: summer, first_night: 2026-12-01, nights: 30}"
    settings = load_settings(
        NIGHT, "smoke", [f"release.contract.exemptions=[{signed}]", "release.data=when_gates_pass"]
    )
    given = step_parameters(settings, NIGHT.tasks["evaluate"])
    assert json.loads(json.dumps(given["contract"]))["exemptions"][0]["first_night"] == "2026-12-01"
    assert build_parameters(EvaluateParameters, given, where="evaluate").contract.exempt(date(2026, 12, 30))
    assert settings["propose"]["release"] == {"data": "when_gates_pass", "network": "by_hand"}
    assert load_settings(NIGHT, "smoke")["evaluate"]["contract"] == {}


def test_a_folder_of_footage_may_name_the_night(tmp_path: Path) -> None:
    sources = load_settings(NIGHT, "footage", data=f"{tmp_path}/{{night}}")["sources"]
    assert sources["fleet"]["path"] == f"{tmp_path}/{{night}}"


def test_a_data_set_may_lie_in_a_bucket() -> None:
    sources = load_settings(NIGHT, "camvid", data="s3://streets/camvid")["sources"]
    assert sources["fleet"]["path"] == sources["frozen_test"]["path"] == "s3://streets/camvid"


@pytest.mark.parametrize(
    ("profile", "overrides", "data", "message"),
    [
        ("smok", [], "", "PROFILE=smok: no such profile, did you mean 'smoke'?"),
        (
            "smoke",
            ["evaluate.contract={}"],
            "",
            "evaluate.contract: is one of the whole night's; set release.contract in its place",
        ),
        (
            "smoke",
            ["release.contract.clauses=[]"],
            "",
            "release.contract.clauses",
        ),
        (
            "smoke",
            ["select.budget_frame=3"],
            "",
            "select: unknown parameter 'budget_frame', did you mean 'budget_frames'?",
        ),
        (
            "smoke",
            ["select.budget_frames=0"],
            "",
            "select.budget_frames = 0: must be at least 1; change it in params.yaml or with SET",
        ),
        ("smoke", ["selekt.budget_frames=3"], "", "no section 'selekt', did you mean 'select'?"),
        ("smoke", ["budget_frames"], "", "must be SECTION.NAME=VALUE"),
        (
            "smoke",
            ["sources.fleet.split=hidden"],
            "",
            "sources.fleet.split = 'hidden': must be pool, train, val or test",
        ),
        ("smoke", ["ensemble.members=3"], "", "ensemble.members = 3: must be at least 4"),
        ("smoke", ["common.height_px=70"], "", "height_px = 70: must be a multiple of 8"),
        ("smoke", ["common.sede=1"], "", "common.sede: no stage has such a parameter, did you mean 'seed'?"),
        ("smoke", ["common.learning_rate=.inf"], "", "must be finite"),
        ("smoke", ["select.budget_frames=["], "", "is not a YAML value"),
        ("smoke", ["select.budget_frames=!!python/object:x"], "", "is not a YAML value"),
        ("smoke", ["sources.fleet=1"], "", "source 'fleet': must be a mapping"),
        ("smoke", ["sources.fleet.world={wheels: 4}"], "", "sources.fleet.world: unknown parameter 'wheels'"),
        (
            "smoke",
            ["sources.fleet.world={boring_share: 9e0}"],
            "",
            "sources.fleet.world.boring_share = 9.0: must be at most 1",
        ),
        ("smoke", ["evaluate.seed_spread={overall: .inf}"], "", "evaluate.seed_spread.overall = inf: must be finite"),
        (
            "smoke",
            ["evaluate.seed_spread={overall: true}"],
            "",
            "evaluate.seed_spread.overall = True: must be a number",
        ),
        (
            "smoke",
            ["select.quotas=[{class: persn, minimum_share: 0.1}]"],
            "",
            "no class of cityscapes19, did you mean 'person'?",
        ),
        ("smoke", ["select.quotas=[{minimum_share: 1e-1}]"], "", "select.quotas.0.column = None: must come with value"),
        (
            "smoke",
            ["gate_adapt.bounds.lowest_mix_ratio=low"],
            "",
            "lowest_mix_ratio is 'low'; it must be a finite number",
        ),
        ("smoke", ["gate_adapt.bounds.lowest_mix_ration=1"], "", "suite adapt has no parameter 'lowest_mix_ration'"),
        (
            "smoke",
            ["gate_select.today=soon"],
            "",
            "gate_select.today = 'soon': must be a day such as 2026-11-23",
        ),
        (
            "smoke",
            ["cluster.gpu_tolerations=[{kez: a}]"],
            "",
            "cluster.gpu_tolerations.0: unknown parameter 'kez', did you mean 'key'?",
        ),
        ("smoke", ["common.taxonomy=cityscapes"], "", "taxonomy 'cityscapes' is unknown"),
        ("smoke", ["sources.fleet.initial_labelled_frames=-1"], "", "initial_labelled_frames = -1: must be at least 0"),
        ("smoke", ["score.shard_count=7"], "", "score.shard_count: is one number of the whole night; set shards"),
        ("smoke", ["shards.x=1"], "", "no section 'shards'"),
        ("camvid", [], "/nowhere", "DATA=/nowhere: no such folder"),
        ("camvid", [], "", "say where the data are, DATA=DIR"),
        ("smoke", ["resolve.night_date=99999-01-01"], "", "night_date = '99999-01-01': must be a day"),
        ("smoke", ["resolve.night_date=0001-01-01"], "", "night_date = '0001-01-01': must be a day"),
    ],
)
def test_mistakes_are_named(profile: str, overrides: list[str], data: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", "\\?")):
        load_settings(NIGHT, profile, overrides, data)


@pytest.mark.parametrize(
    "override",
    [
        "common.registry=https://ada:s3cret@git.example/x.git",
        "common.registry=https://s3cret@git.example/x.git",
        "common.remote=s3://key:s3cret@bucket/x",
        "sources.fleet.path=s3://key:s3cret@bucket/x",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(override: str) -> None:
    """Every setting stands in the compiled pipeline, in the records of its tasks and in the report."""
    with pytest.raises(InputError, match=rf"{override.partition('=')[0]}: holds user information") as caught:
        load_settings(NIGHT, "nightly", [override])
    assert "s3cret" not in str(caught.value)
    load_settings(NIGHT, "nightly", ["common.registry=ssh://git@git.example:22/x.git", "common.remote=http://h:80/a@b"])


def test_an_unknown_section_is_named(tmp_path: Path) -> None:
    content = yaml.safe_load(PARAMS_FILE.read_text()) | {"evaluat": {}}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="no task of the night has this name, did you mean 'evaluate'"):
        load_settings(NIGHT, "demo", file=file)


@pytest.mark.parametrize("missing", ["common", "sources", "images", "cluster"])
def test_a_missing_section_is_named(tmp_path: Path, missing: str) -> None:
    content = yaml.safe_load(PARAMS_FILE.read_text())
    del content[missing]
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=f"section '{missing}' must be a mapping"):
        load_settings(NIGHT, "demo", file=file)


def test_a_profiles_sources_replace_the_demos(data: str) -> None:
    settings = load_settings(NIGHT, "camvid", data=data)
    assert {source["format"] for source in settings["sources"].values()} == {"camvid", "scenes"}
    assert settings["sources"]["fleet"]["path"] == data


def test_a_profiles_network_replaces_the_one_below_whole(tmp_path: Path) -> None:
    written, file = yaml.safe_load(PARAMS_FILE.read_text()), tmp_path / "params.yaml"
    other, narrow = ({"name": "erfnet", "arguments": {"width": width}} for width in (0.5, 0.25))
    written["profiles"]["other"] = {"common": {"network": other}, "compare": {"network": narrow}}
    file.write_text(yaml.safe_dump(written))
    settings = load_settings(NIGHT, "other", file=file)
    assert settings["train_prune"]["network"] == settings["ensemble"]["network"] == other
    assert settings["compare"]["network"] == narrow
    changed = load_settings(NIGHT, "other", ["common.network.arguments.width=0.75"], file=file)
    assert [changed[name]["network"]["arguments"]["width"] for name in ("adapt", "compare")] == [0.75, 0.25]


def test_values_inside_mappings_are_converted_like_plain_ones() -> None:
    """YAML takes 9e-1 and 1e6 for text, and a day for a date."""
    overrides = [
        "evaluate.seed_spread={overall: 9e-1}",
        "gate_adapt.bounds={highest_mix_ratio: 1e6}",
        "gate_adapt.today=2026-11-23",
    ]
    settings = load_settings(NIGHT, "smoke", overrides)
    assert step_parameters(settings, NIGHT.tasks["evaluate"])["seed_spread"] == {"overall": 0.9}
    gate = step_parameters(settings, NIGHT.tasks["gate_adapt"])
    assert gate["today"] == "2026-11-23"
    assert (
        bind(load_suite("adapt"), gate["bounds"] | {"reference_class_share": {"road": 1.0}})["highest_mix_ratio"] == 1e6
    )
