"""What is done with every frame once is shared out over the processes, and each has the result of one process alone."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn

from components.compare import doubts
from components.compare.doubts import _doubts
from components.stage.learning import NetworkParameters
from perception.adaptation.detector_quality import judge_detector
from perception.adaptation.foreground_training import rare_class_draw
from perception.adaptation.instance_frames import InstanceFrames, learnable_classes
from perception.adaptation.judging import judge_fusion
from perception.adaptation.label_pool import label_frames, measure_quality
from perception.adaptation.statistics import adapt_statistics
from perception.data.loading import LoadSettings, image_batches
from perception.errors import Unreachable
from perception.models.registry import build_network
from perception.training.distributed import gather, own_frames, own_share, process_group, rank, world_size
from perception.training.loop import evaluate_segmentation
from perception.training.losses import pixel_counts
from perception.uncertainty.dpe import member_cross_entropy
from perception.uncertainty.ensemble import Ensemble, save_ensemble
from tests.perception.adaptation.test_label_pool import (
    CLASSES,
    HEIGHT,
    KNOWN,
    TAXONOMY,
    WIDTH,
    labeller,
    made_pool,
    png,
)

ROOT = Path(__file__).parents[3]


def found(folder: Path) -> dict[str, Any]:
    """Do all that is shared out, on networks and frames that are the same in every process."""
    pool = made_pool(folder)
    network, detector, rows, frames, store = pool
    ours = labeller(pool)
    labelled = label_frames(ours, frames, rows, store, batch_frames=2)
    instances = _instances(rows, store)
    average = judge_detector(detector, instances)
    judged = judge_fusion(network, detector, frames, TAXONOMY.foreground, batch_frames=2)
    loss, gradient = _loss_of_an_ensemble()
    committee = Ensemble([build_network("ERFNet", seed=seed, classes=CLASSES, width=0.25) for seed in (1, 2)])
    save_ensemble(committee, folder / "ensemble", {})
    given = {"store": str(folder), "taxonomy": "camvid11", "height_px": HEIGHT, "width_px": WIDTH, "seed": 1}
    with mock.patch.object(doubts, "BATCH_FRAMES", 2):
        rows_of_doubt, doubt_counts = _doubts(folder / "ensemble", rows, NetworkParameters(**given))
    exact = {
        "doubts": (sorted(rows_of_doubt, key=lambda row: row["frame_id"]), doubt_counts),
        "thresholds": ours.thresholds,
        "labels": labelled.manifest.to_dict("list") | labelled.table.to_dict("list"),
        "quality": [vars(each) for each in measure_quality([ours], frames, 2)],
        "confusion": [each.confusion for each in judged],
        "evaluated": evaluate_segmentation(network, frames, CLASSES, 2),
        "pixels": pixel_counts(frames),
        "rare": rare_class_draw(rows, frames, 0.1, 3).frame_id.tolist(),
        "instances": learnable_classes(instances),
        "precision": (average.boxes.by_class, average.masks.by_class, average.frames),
    }
    adapt_statistics(network, [images for _, images in image_batches(frames, 2, own_frames(len(frames), 2))])
    statistics = [layer.running_mean for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return {"exact": exact, "rounded": [loss, gradient, *statistics], "decoded": len(frames._cache)}


def _instances(rows: pd.DataFrame, store: Any) -> InstanceFrames:
    maps = np.zeros((len(rows), HEIGHT, WIDTH), np.uint16)
    for index, each in enumerate(maps):
        each[2:12, 3 : 10 + index] = KNOWN[index % 2] * 1000 + 1
    uris = [store.put(png(each), "png").uri for each in maps]
    settings = LoadSettings(height_px=HEIGHT, width_px=WIDTH, taxonomy="camvid11")
    return InstanceFrames(rows.assign(instances_uri=uris), store, settings)


def _loss_of_an_ensemble() -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over the processes of what each makes of its share of a batch: loss, and gradient of the weights."""
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    ensemble = Ensemble([nn.Conv2d(3, 4, 1).double() for _ in range(4)])
    images = torch.rand(3, 3, 6, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 6, 8), generator=generator)
    labels[0, 1:] = 255  # most of what is judged lies in the other process
    share = own_share()
    loss = member_cross_entropy(
        ensemble, SimpleNamespace(images=images[share], labels=labels[share]), torch.tensor([1.0, 5.0, 0.5, 2.0])
    )  # type: ignore[arg-type]
    loss.backward()
    gradient = torch.stack([member.weight.grad for member in ensemble.members])
    return torch.stack(gather(loss.detach())).mean(0), torch.stack(gather(gradient)).mean(0)


def test_two_processes_find_what_one_finds_and_wait_for_the_one_that_fails(tmp_path: Path) -> None:
    one = found(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, timeout=180, capture_output=True, text=True, check=False
    )
    two = [pickle.loads((tmp_path / f"rank{number}").read_bytes()) for number in (0, 1)]
    for each in two:
        np.testing.assert_equal(_named(each["exact"]), _named(one["exact"]))
        for ours, expected in zip(each["rounded"], one["rounded"], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
    assert one["decoded"] == 5 and [each["decoded"] for each in two] == [4, 3]  # by batches of two, and one by one
    assert done.returncode != 0 and (tmp_path / "told").read_text().startswith("Unreachable")  # the first word counts


def _named(exact: dict[str, Any]) -> dict[str, Any]:
    """Leave out where the store lies."""
    return exact | {"labels": {k: v for k, v in exact["labels"].items() if not k.endswith("_uri")}}


def main(folder: Path) -> None:
    """Write what this process finds; then one meets a server that is silent, and the other waits for it."""
    try:
        with process_group("cpu"):
            assert world_size() == 2
            (folder / f"rank{rank()}").write_bytes(pickle.dumps(found(folder / f"{rank()}")))
            gather(None)
            if rank() == 0:
                raise Unreachable("store s3://x: the endpoint cannot be reached")
            gather(None)
    except Exception as error:
        time.sleep(1.0 if isinstance(error, Unreachable) else 0.0)  # it cleans up and writes its record first
        with (folder / "told").open("a") as file:
            file.write(type(error).__name__)
        raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
