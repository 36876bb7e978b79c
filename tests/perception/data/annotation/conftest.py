"""A store, and a batch whose labels a test sends back."""

from pathlib import Path

import pytest

from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import hand_out, say


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def drop(tmp_path: Path, store: FolderStore) -> Path:
    """A batch with its drop.json and no labels yet."""
    folder = tmp_path / "drops" / "first"
    hand_out(store, folder, {})
    say(folder)
    return folder
