"""The bad-input campaign, reduced; `make faults CAMPAIGN=inputs` runs all of it."""

from pathlib import Path

import pytest

from perception.versioning.registry import create_registry
from tests.faults import inputs
from tests.faults.counting import Count, table
from tests.faults.lines import call_main, odd_command_lines

EXAMPLES = 20


def nothing_lost(row: Count) -> None:
    assert row.losses == (), table([row])
    assert row.errors > 0, "no case was bad, so nothing was tried"


def test_readers_of_frames(tmp_path: Path) -> None:
    nothing_lost(inputs.segmentation_readers(tmp_path, EXAMPLES))


def test_readers_of_other_sets(tmp_path: Path) -> None:
    nothing_lost(inputs.readers_of_other_sets(tmp_path, EXAMPLES))


@pytest.mark.parametrize("name", sorted(inputs.other_readers()))
def test_every_set_is_read_while_it_is_whole(tmp_path: Path, name: str) -> None:
    """Otherwise each case would end in an error, and prove nothing."""
    write, read = inputs.other_readers()[name]
    write(tmp_path / "set")
    read(tmp_path / "set")


def test_forged_image_headers(tmp_path: Path) -> None:
    nothing_lost(inputs.forged_images(tmp_path, EXAMPLES))


def test_parameters(tmp_path: Path) -> None:
    nothing_lost(inputs.odd_parameters(tmp_path, EXAMPLES))


def test_command_lines(tmp_path: Path) -> None:
    create_registry(tmp_path / "registry.git", str(tmp_path / "remote"))
    (tmp_path / "lines").mkdir()
    nothing_lost(odd_command_lines(tmp_path / "lines", EXAMPLES, tmp_path / "registry.git"))


def test_what_is_no_clear_error_counts_as_a_loss() -> None:
    def hang() -> None:
        while True:
            pass

    def vague() -> None:
        raise inputs.InputError("bad")

    def crash(_: list[str]) -> int:
        raise ZeroDivisionError("a bug")

    assert inputs.attempt(vague, "x") == "x: says 'bad'"
    assert inputs.attempt(lambda: 1 // 0, "x").startswith("x: ZeroDivisionError")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "LIMIT_SECONDS", 1)
        assert inputs.attempt(hang, "x").startswith("x: Hang")
    assert call_main(crash, [], "x").startswith("x: ZeroDivisionError")
    assert call_main(lambda _: 2, [], "x") == "x: code 2 without a word"
