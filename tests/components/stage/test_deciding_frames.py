"""By which frames a night decides."""

import pandas as pd
import pytest

from components.stage.learning import deciding_frames


def test_val_frames_decide_and_test_frames_only_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    frames = pd.DataFrame({"frame_id": ["a", "b", "c", "d"], "split": ["train", "val", "test", "pool"]})
    assert deciding_frames(frames).frame_id.tolist() == ["b"]
    assert "no source has split val" not in "".join(capsys.readouterr())
    assert deciding_frames(frames[frames.split != "val"]).frame_id.tolist() == ["c"]
    assert "no source has split val" in "".join(capsys.readouterr())
