"""The benchmark of feeding a GPU runs through on a processor, and says so where it cannot."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.scale import gpu_feed
from components.stage.program import run_program
from perception.data.store import FolderStore
from tests.perception.data.readers.layouts import grey, picture


def stored(root: Path, count: int) -> list[str]:
    """Store frames and return the options that name them."""
    store = FolderStore(root / "store")
    label = store.put(grey(np.full((4, 6), 3)), "png").uri
    rows = [{"frame_id": f"f{number}", "image_uri": store.put(picture("JPEG"), "jpg").uri, "label_uri": label,
             "label_taxonomy": "cityscapes19"} for number in range(count)]  # fmt: skip
    pd.DataFrame(rows).to_parquet(root / "manifest.parquet")
    return ["--manifest", str(root / "manifest.parquet"), "--store", str(root / "store")]


def call(*arguments: str) -> int:
    return run_program(gpu_feed.run, arguments, "gpu_feed")


def test_every_number_of_workers_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    options = ["--device", "cpu", "--trained-height", "32", "--network-width", "0.25", "--batch-frames", "2",
               "--seconds", "0.1", "--workers", "1", "--workers", "3"]  # fmt: skip
    assert call(*options, *stored(tmp_path, 5)) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["workers"] for row in report["by_workers"]] == [1, 3] and report["frames"] == 5
    for row in report["by_workers"]:
        assert row["alone"] > 0 and 0 <= row["waiting_share"] < 1
        assert row["of_bound"] == pytest.approx(row["trained"] / report["on_device"], abs=0.01)
    assert report["pass"] == (report["by_workers"][-1]["of_bound"] >= report["bar"])
    torch.set_num_threads(threads)


def test_what_cannot_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--device", "cuda"), "no GPU is visible"),
        (("--device", "cpu", "--store", "x"), "belong together"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        assert call(*arguments) == 2 and words in capsys.readouterr().err
