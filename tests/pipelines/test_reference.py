"""The reference of parameters: what is committed is what the declarations say, and params.yaml itself fits the schema."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipelines.nightly import nightly
from pipelines.reference import meanings, page, schema, schema_file
from pipelines.settings import PARAMS_FILE

DOCS = Path(__file__).parents[2] / "docs"
NIGHT = nightly()


def test_the_committed_page_and_schema_are_what_the_declarations_say() -> None:
    told = "run `make parameters` and commit what it writes"
    assert (DOCS / "parameters.md").read_text() == page(NIGHT), told
    assert (DOCS / "params.schema.json").read_text() == schema_file(NIGHT), told
    assert PARAMS_FILE.read_text().startswith("# yaml-language-server: $schema=docs/params.schema.json\n")


@pytest.mark.parametrize("task", NIGHT.tasks.values(), ids=lambda task: task.name)
def test_every_parameter_says_what_it_means(task) -> None:
    said = meanings(task.stage.parameters)
    assert set(said) == set(task.stage.parameters.__dataclass_fields__)
    assert all(said.values()), said


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("select", "budget_frames", 0),
        ("select", "budget_frame", 5),
        ("ensemble", "kind", "bagging"),
        ("gate_adapt", "bounds", {"lowest_mix": 1.0}),
        ("sources", "fleet", {"format": "scenes", "world": {"boring_share": 2}}),
        ("cluster", "spot_retries", -1),
        ("profiles", "mine", {"select": {"budget_frames": "many"}}),
    ],
)
def test_the_schema_takes_params_yaml_and_refuses_what_is_out_of_bounds(section: str, name: str, value: object) -> None:
    content, validator = yaml.safe_load(PARAMS_FILE.read_text()), jsonschema.Draft202012Validator(schema(NIGHT))
    validator.validate(content)
    content.setdefault(section, {})[name] = value
    assert not validator.is_valid(content), json.dumps(value)
