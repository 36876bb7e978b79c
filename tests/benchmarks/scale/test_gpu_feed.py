"""The benchmark of feeding a GPU runs through on a processor, and says so where it cannot."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import gpu_feed
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


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_feed", *arguments])
    return gpu_feed.main()


def test_every_number_of_workers_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    options = ["--device", "cpu", "--trained-height", "32", "--network-width", "0.25", "--batch-frames", "2",
               "--seconds", "0.1", "--workers", "1", "3"]  # fmt: skip
    assert call(monkeypatch, *options, *stored(tmp_path, 5)) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["workers"] for row in report["by_workers"]] == [1, 3] and report["frames"] == 5
    for row in report["by_workers"]:
        assert row["alone"] > 0 and 0 <= row["waiting_share"] < 1
        assert row["of_bound"] == pytest.approx(row["trained"] / report["on_device"], abs=0.01)
    assert report["pass"] == (report["by_workers"][-1]["of_bound"] >= report["bar"])
    torch.set_num_threads(threads)


def test_what_cannot_run_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (("--device", "cuda"), "no GPU is visible"),
        (("--device", "cpu", "--store", "x"), "belong together"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit) as caught:
            call(monkeypatch, *arguments)
        assert caught.value.code == 2 and words in capsys.readouterr().err
