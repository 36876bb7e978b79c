"""Parameters: every mistake is named, with its value and what is allowed."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.stage.parameters import build_parameters, overlay, read_section, read_yaml, require
from perception.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int
    share: float = 0.5
    name: str = "x"
    on: bool = True
    many: tuple[int, ...] = ()
    mapping: dict[str, object] = field(default_factory=dict)
    maybe: float | None = None

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "must be at least 1")


def test_values_take_the_types_of_their_fields() -> None:
    built = build_parameters(
        Example, {"count": 3.0, "share": 1, "many": [1, 2], "mapping": {"a": 1}, "maybe": None}, "here"
    )
    assert built == Example(count=3, share=1.0, many=(1, 2), mapping={"a": 1})
    assert isinstance(built.count, int)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1, "shar": 0.1}, "here: unknown parameter 'shar', did you mean 'share'?"),
        ({}, "here: parameter 'count' is missing"),
        ({"count": "two"}, "here.count = 'two': must be a whole number"),
        ({"count": 1.5}, "here.count = 1.5: must be a whole number"),
        ({"count": True}, "here.count = True: must be a whole number"),
        ({"count": 1, "share": "much"}, "here.share = 'much': must be a number"),
        ({"count": 1, "name": 5}, "here.name = 5: must be text"),
        ({"count": 1, "on": "yes"}, "here.on = 'yes': must be true or false"),
        ({"count": 1, "many": 3}, "here.many = 3: must be a list"),
        ({"count": 1, "mapping": [1]}, "here.mapping = \\[1\\]: must be a mapping"),
        ({"count": 0}, "here: count = 0: must be at least 1"),
    ],
)
def test_mistakes_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_parameters(Example, given, "here")


def test_overlay_merges_mappings_and_replaces_the_rest() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": 1}
    assert overlay(base, {"a": {"y": 3}, "b": [4], "d": 5}) == {"a": {"x": 1, "y": 3}, "b": [4], "c": 1, "d": 5}
    assert base["a"] == {"x": 1, "y": 2}


def test_sections_and_overrides_are_read(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("select: {budget_frames: 3, name: a}\n")
    assert read_section(file, "select", ["budget_frames=5", "name=b"]) == {"budget_frames": 5, "name": "b"}
    assert read_section(None, "select") == {}
    with pytest.raises(InputError, match="must be NAME=VALUE"):
        read_section(file, "select", ["budget_frames"])


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must hold a mapping"), (None, "no such file")]
)
def test_broken_files_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "params.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_yaml(file)
