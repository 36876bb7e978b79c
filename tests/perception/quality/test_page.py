"""The page of gates says what the suites say."""

from pathlib import Path

import pytest

from perception.errors import InputError
from perception.quality.page import columns_judged, suite_section, with_suites
from perception.quality.suites import SUITE_NAMES, load_suite

PAGE = Path(__file__).parents[3] / "docs" / "gates.md"


def test_the_page_is_up_to_date():
    text = PAGE.read_text(encoding="utf-8")
    assert with_suites(text) == text, "make its tables anew, as the page itself says"


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_rule_and_parameter_is_on_the_page(name):
    suite, section = load_suite(name), suite_section(load_suite(name))
    for entry in suite.expectations:
        assert f"| {entry.id} |" in section and entry.why in section
    for parameter in suite.parameters:
        assert f"| {parameter.name} |" in section


def test_columns_of_a_suite():
    columns = columns_judged(load_suite("adapt"))
    assert columns == [
        "confidence", "detected_px_<class>", "detected_right_px_<class>", "frame_id", "fused_px_<class>", "ignore_fraction",
        "px_<class>",
    ]  # fmt: skip


def test_a_page_without_marks_is_refused():
    with pytest.raises(InputError, match="put the marks back"):
        with_suites("# Gates\n")
