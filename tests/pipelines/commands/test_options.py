"""The text of SET: several overrides, whose values are YAML."""

import pytest

from pipelines.commands.options import split_overrides


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("", []),
        ("a.b=1", ["a.b=1"]),
        ("  a.b=1   c.d=x \n\t e.f-g=y ", ["a.b=1", "c.d=x", "e.f-g=y"]),
        ("a.b=two words c.d=[1, 2]", ["a.b=two words", "c.d=[1, 2]"]),
        (
            'select.quotas=[{column: drive_id, value: "0001TP", minimum_share: 0.14}] a.b=1',
            ['select.quotas=[{column: drive_id, value: "0001TP", minimum_share: 0.14}]', "a.b=1"],
        ),
        ("a.b='see c.d=1' e=2", ["a.b='see c.d=1'", "e=2"]),
        ("a.b=[x, y=2, c.d=3] e=2", ["a.b=[x, y=2, c.d=3]", "e=2"]),
        ("a.b=it's c.d=1", ["a.b=it's", "c.d=1"]),
        ("a.b=https://host/?x=1&y=2 c.d=", ["a.b=https://host/?x=1&y=2", "c.d="]),
        ("a.b=[ c.d=1", ["a.b=[ c.d=1"]),
        ("nothing", ["nothing"]),
    ],
)
def test_an_override_ends_where_its_value_is_whole_and_the_next_follows(text: str, overrides: list[str]) -> None:
    assert split_overrides(text) == overrides
