"""Suites are loaded strictly: what is not understood is refused with the file, the place and the remedy."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from perception.errors import InputError
from perception.quality.suites import SUITE_NAMES, bind, load_suite, needed_parameters, read_yaml, substitute
from perception.quality.vocabulary import FORMS, KWARG_KINDS, LOOKS_AT

ENTRY = {
    "id": "scores_finite",
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "score", "min_value": 0, "max_value": {"$PARAMETER": "max_score"}},
    "severity": "critical",
    "why": "w",
    "remedy": "r",
}
PARAMETERS = {"max_score": {"kind": "number", "meaning": "m"}}


def written(tmp_path: Path, entry: dict | None = None, parameters: dict | None = None, **suite: object) -> Path:
    content = {
        "name": "mine",
        "meta": {"owner": "o", "table": "t", "file": "f"},
        "parameters": PARAMETERS if parameters is None else parameters,
        "expectations": [ENTRY | (entry or {})],
    } | suite
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not ...}))
    return path


def test_a_good_suite_loads(tmp_path):
    suite = load_suite(written(tmp_path))
    assert [expectation.id for expectation in suite.expectations] == ["scores_finite"]
    assert suite.expectations[0].rule() == "score is at least 0 and at most $max_score"
    assert needed_parameters(suite.expectations[0]) == {"max_score"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "expect_column_value_to_be_between"}, "did you mean 'expect_column_values_to_be_between'"),
        ({"kwargs": {"column": "a", "min_valeu": 0, "max_value": 1}}, "did you mean 'min_value'"),
        ({"kwargs": {"column": "a", "min_value": 0}}, "needs the argument max_value"),
        ({"kwargs": {"column": "a", "min_value": float("nan"), "max_value": 1}}, "a finite number"),
        ({"kwargs": {"column": "a", "min_value": "0", "max_value": 1}}, "a finite number"),
        ({"kwargs": {"column": "a", "min_value": 0, "max_value": 1, "mostly": 0.0}}, "mostly = 0.0: must be a share"),
        ({"kwargs": {"column": "a", "min_value": 0, "max_value": 1, "strict_min": 1}}, "true or false"),
        ({"kwargs": {"column": " ", "min_value": 0, "max_value": 1}}, "not empty"),
        (
            {"kwargs": {"column": "a", "min_value": 0, "max_value": {"$PARAMETER": "max_scroe"}}},
            "did you mean 'max_score'",
        ),
        ({"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "a", "value_set": []}}, "at least one"),
        ({"type": "expect_column_mean_to_be_between", "kwargs": {"column": "a"}}, "always passes"),
        ({"severity": "fatal"}, "severity = 'fatal': must be critical, warning or info"),
        ({"why": ""}, "why = '': must be a text that is not empty"),
        ({"remedy": None}, "remedy = None: must be text"),
        ({"id": "Scores Finite"}, "lower-case"),
        ({"allow_empty": True}, "allow_empty = True: must be text"),
        ({"severty": "info"}, "did you mean 'severity'"),
        ({"rows": {"column": "a"}}, "needs either in: [values] or present: true"),
        ({"rows": {"column": "a", "in": []}}, "at least one"),
        ({"rows": {"column": "a", "present": False}}, "must be True"),
        ({"rows": {"column": "a", "in": [1], "present": True}}, "needs either in: [values] or present: true"),
        ({"rows": "a == 1"}, "must be a mapping"),
    ],
)
def test_a_faulty_entry_is_refused(tmp_path, entry, message):
    with pytest.raises(InputError, match=r"mine\.yaml") as caught:
        load_suite(written(tmp_path, entry))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ({"expectations": []}, "everything would pass"),
        ({"expectations": ...}, "everything would pass"),
        ({"expectations": [ENTRY, ENTRY]}, "given twice"),
        ({"expectations": ["a"]}, "expectations.0 = 'a': must be a mapping"),
        ({"expectations": {"a": 1}}, "must be a list"),
        ({"name": "other"}, "name it 'mine'"),
        ({"meta": {"table": "t", "file": "f"}}, "'owner' is missing"),
        ({"meta": ...}, "'meta' is missing"),
        ({"extend": "frames"}, "did you mean 'extends'"),
        ({"extends": "ingest"}, "extends one that does not|itself extends"),
        ({"extends": "framse"}, "no suite 'framse'"),
        ({"parameters": {}}, "max_score is not declared"),
        ({"parameters": PARAMETERS | {"other": {"kind": "number", "meaning": "m"}}}, "other is declared and not used"),
        (
            {"parameters": {"max_score": {"kind": "nubmer", "meaning": "m"}}},
            "kind = 'nubmer': must be whole_number, number",
        ),
        ({"parameters": {"max_score": {"kind": "list", "meaning": "m"}}}, "max_value is a number"),
        ({"parameters": {"max_score": {"kind": "number"}}}, "'meaning' is missing"),
        ({"parameters": {"max_score": {"kind": "number", "meaning": "m", "default": "x"}}}, "a finite number"),
        ({"parameters": {"max_score": {"kind": "number", "meaning": "m", "optional": True}}}, "is critical and needs"),
        ({"parameters": {"max_score": {"kind": "number", "meaning": "m", "optional": True, "default": 1}}}, "keep one"),
        ({"parameters": {"Max": {"kind": "number", "meaning": "m"}}}, "lower-case"),
    ],
)
def test_a_faulty_suite_is_refused(tmp_path, suite, message):
    with pytest.raises(InputError, match=message) as caught:
        load_suite(written(tmp_path, **suite))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_suites_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_suite(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="did you mean 'ingest'"):
        load_suite("ingets")
    with pytest.raises(InputError, match="no suite"):
        load_suite("../suites/ingest")
    path = tmp_path / "mine.yaml"
    for content, message in (
        ("a: [", "as YAML"),
        ("- 1", "must be a mapping"),
        ("a: 1\na: 2", "twice"),
        ("", "mapping"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            load_suite(path)


def test_a_doubled_key_is_found_at_any_depth(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a:\n  - {b: 1, c: 2, b: 3}\n")
    with pytest.raises(InputError, match="'b' is given twice"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ("three", "finite"),
        (True, "finite"),
        (None, "needs the param"),
    ],
)
def test_unusable_bounds_are_refused(tmp_path, value, message):
    suite = load_suite(written(tmp_path))
    with pytest.raises(InputError, match=message):
        bind(suite, {"max_score": value})
    with pytest.raises(InputError, match="did you mean 'max_score'"):
        bind(suite, {"max_score": 1, "max_scores": 1})


def test_bounds_of_every_kind():
    suite = load_suite("ingest")
    good = {"newest_after_utc": "2026-11-22T08:00:00+01:00", "reference_class_share": {"road": 1.0}}
    bound = bind(suite, good)
    assert bound["newest_after_utc"] == pd.Timestamp("2026-11-22T07:00:00Z")
    assert bound["min_frames"] == 1 and bound["usual_min_frames"] is None
    for name, value in {
        "newest_after_utc": "2026-11-22T08:00:00",  # without its zone
        "test_weathers": [],
        "reference_class_share": {},
        "min_frames": 1.5,
    }.items():
        with pytest.raises(InputError, match=name):
            bind(suite, {name: value})


def test_parameters_are_found_and_filled_at_any_depth():
    value = {"ranges": [[{"$PARAMETER": "low"}, 1]], "other": "x"}
    assert substitute(value, {"low": 0.3}) == {"ranges": [[0.3, 1]], "other": "x"}


@pytest.mark.parametrize("name", [*SUITE_NAMES, "frames", "metrics"])
def test_shipped_suites_load_and_say_their_rules(name):
    suite = load_suite(name)
    for expectation in suite.expectations:
        assert expectation.rule() and expectation.why.endswith(".") and expectation.remedy.endswith(".")


def test_the_sum_of_a_suite_changes_with_its_rules(tmp_path):
    first, again = load_suite(written(tmp_path)), load_suite(written(tmp_path))
    other = load_suite(written(tmp_path, {"severity": "warning"}))
    assert first.sha256 == again.sha256 != other.sha256


def test_the_vocabulary_is_that_of_the_library():
    from great_expectations.expectations.registry import get_expectation_impl

    import perception.quality.expectations  # noqa: F401 - registers our own

    for name, form in FORMS.items():
        known = get_expectation_impl(name).__fields__
        assert set(form.required + form.optional) <= set(known), name
        demanded = {key for key, field in known.items() if field.required}
        assert demanded <= set(form.required), name
        assert set(form.one_of) <= set(form.optional) and set(form.bounds) <= set(form.required + form.optional)
        assert form.looks_at in LOOKS_AT
    assert set(KWARG_KINDS) == {key for form in FORMS.values() for key in form.required + form.optional}
