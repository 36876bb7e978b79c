"""Edits of a signed registry by an intruder, a sample; `make faults CAMPAIGN=trust` makes 500."""

from pathlib import Path

import pytest

from tests.faults.counting import table
from tests.faults.trust import edits_of_a_signed_registry


def test_no_edit_without_a_key_changes_what_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    row = edits_of_a_signed_registry(tmp_path, 8)
    assert row.losses == (), table([row])
    assert row.errors > 0 < row.correct, "nothing was refused, or nothing was harmless"
