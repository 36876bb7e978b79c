"""What the store has lost since it was handed out costs its frame only."""

from pathlib import Path

import numpy as np
import pytest

from components.ingest.returned import list_returned, returned
from components.ingest.sources import Source
from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import HEIGHT, ROAD, WIDTH, change_manifest, hand_out, held, png, say


@pytest.mark.parametrize(("place", "suggestion"), [("elsewhere", None), ("store", f"sha256/ab/{'cd' * 32}.png")])
def test_a_drop_that_names_what_the_store_lacks_stops_nothing(
    tmp_path: Path, place: str, suggestion: str | None
) -> None:
    drop = tmp_path / "drops" / "first"
    hand_out(FolderStore(tmp_path / place), drop)
    if suggestion:
        change_manifest(drop, prelabel_uri=suggestion)
    say(drop)
    (drop / "labels").mkdir()
    (drop / "labels" / "frame0.png").write_bytes(png(np.full((HEIGHT, WIDTH), ROAD, np.uint8)))
    source = Source(format="label_drop", path=str(tmp_path / "drops"), split="train", domain="real", labels="drop")
    listed = list_returned("drops", source, lambda _names: held(drop))
    (arrival,) = returned(source, listed, FolderStore(tmp_path / "store"), held(drop), "cityscapes19")
    assert arrival.problem and "the store has no" in arrival.problem.rule
    assert (arrival.image == b"") == (place == "elsewhere")
