"""Parameters: every mistake is named, with its value and what is allowed."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from components.stage.parameters import build_parameters, overlay, plain_values, read_section, read_yaml
from perception.errors import InputError
from perception.parameters import BrokenRule, Count, NotNegative, Positive, Share, checked


@checked
class Part:
    share: Share = 0.5


@checked
class Example:
    """Hold one field of every kind."""

    count: Count
    limit: Positive = 0.5
    name: str = "x"
    on: bool = True
    many: tuple[int, ...] = ()
    mapping: dict[str, object] = Field(default_factory=dict)
    weights: dict[str, NotNegative] = Field(default_factory=dict)
    maybe: float | None = None
    part: Part = Field(default_factory=Part)
    parts: tuple[Part, ...] = ()
    kind: Literal["plain", "joint"] = "plain"

    def __post_init__(self) -> None:
        if self.kind == "joint" and self.count < 4:
            raise BrokenRule("count", self.count, "must be at least 4 where kind is joint")


def test_values_take_the_types_of_their_fields() -> None:
    given = {"count": 3.0, "limit": 1, "many": [1.0, 2], "mapping": {"a": 1}, "maybe": None, "part": {"share": "9e-1"}}
    built = build_parameters(Example, given | {"weights": {"a": "1e-6"}, "name": date(2026, 11, 23)}, "here")
    wanted = Example(count=3, limit=1.0, many=(1, 2), mapping={"a": 1}, part=Part(share=0.9))
    assert built == replace(wanted, weights={"a": 1e-6}, name="2026-11-23")
    assert isinstance(built.count, int) and isinstance(built.limit, float)
    assert build_parameters(Example, plain_values(built), "here") == built


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 1, "shar": 0.1, "limit": -1}, "here: unknown parameter 'shar'; see docs"),
        ({"count": 1, "limt": 0.1}, "here: unknown parameter 'limt', did you mean 'limit'?"),
        ({"count": 1, "part": {"shar": 0.1}}, "here.part: unknown parameter 'shar', did you mean 'share'?"),
        ({}, "here: parameter 'count' is missing"),
        ({"count": "two"}, "here.count = 'two': must be a whole number"),
        ({"count": 1.5}, "here.count = 1.5: must be a whole number"),
        ({"count": True}, "here.count = True: must be a whole number"),
        ({"count": 1, "limit": "much"}, "here.limit = 'much': must be a number"),
        ({"count": 1, "limit": False}, "here.limit = False: must be a number"),
        ({"count": 1, "limit": "inf"}, "here.limit = inf: must be finite"),
        ({"count": 1, "name": 5}, "here.name = 5: must be text"),
        ({"count": 1, "on": "yes"}, "here.on = 'yes': must be true or false"),
        ({"count": 1, "many": 3}, "here.many = 3: must be a list"),
        ({"count": 1, "many": [1, "x"]}, "here.many.1 = 'x': must be a whole number"),
        ({"count": 1, "mapping": [1]}, "here.mapping = [1]: must be a mapping"),
        ({"count": 1, "weights": {"a": -1}}, "here.weights.a = -1: must be at least 0"),
        ({"count": 1, "weights": {"a": float("nan")}}, "here.weights.a = nan: must be finite"),
        ({"count": 1, "weights": {5: 1.0}}, "here.weights.5 = 5: must be text"),
        ({"count": 1, "part": None}, "here.part = None: must be a mapping"),
        ({"count": 1, "parts": [{"share": 2}]}, "here.parts.0.share = 2: must be below 1"),
        ({"count": 1, "kind": "dual"}, "here.kind = 'dual': must be plain or joint"),
        ({"count": 0}, "here.count = 0: must be at least 1; change it in params.yaml or with SET"),
        ({"count": 1, "kind": "joint"}, "here.count = 1: must be at least 4 where kind is joint; change it"),
    ],
)
def test_mistakes_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
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
