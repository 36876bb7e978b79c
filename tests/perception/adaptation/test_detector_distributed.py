"""The detector's gradients in two processes are those of one that sees the whole batch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from perception.adaptation.detector import ForegroundDetector
from perception.adaptation.detector_training import DetectionBatch, detection_batches, detection_loss
from perception.training.distributed import own_share, process_group, rank, world_size
from perception.training.loop import TrainSettings, fit

SRC = Path(__file__).parents[3]
SETTINGS = TrainSettings(
    epochs=1, batch_frames=5, learning_rate=1e-2, weight_decay=1e-4, schedule="poly", seed=1, max_grad_norm=10.0
)


def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Between none and four things, so that the processes get very different numbers of them."""
    rng = np.random.default_rng([9, index])
    instances = np.zeros((32, 48), np.uint16)
    for number in range(index % 5):
        y, x = rng.integers(0, 20), rng.integers(0, 36)
        instances[y : y + 10, x : x + 12] = rng.choice([11, 13]) * 1000 + number
    return rng.integers(0, 256, (32, 48, 3)).astype(np.uint8), instances


def batches(epoch: int) -> list[DetectionBatch]:
    made = detection_batches(frame, range(10), (11, 13), 5, seed=0, epoch=epoch, augment=None, share=own_share())
    return [in_double(each) for each in made]


def in_double(batch: DetectionBatch) -> DetectionBatch:
    """Keep rounding, which depends on the order of sums, from hiding an error."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return DetectionBatch(**{name: v.double() if v.is_floating_point() else v for name, v in values.items()})


def train(folder: Path) -> None:
    torch.manual_seed(0)
    network, gradients = ForegroundDetector(classes=2, width=0.5).double(), {}

    def keep_gradients(iterations: int, trained: torch.nn.Module, _: torch.optim.Optimizer) -> None:
        if iterations == 1:
            gradients.update({f"gradient/{name}": p.grad.clone() for name, p in trained.named_parameters()})

    fit(network, batches, SETTINGS, loss=detection_loss, after_step=keep_gradients)
    tensors = gradients | {f"weight/{name}": value for name, value in network.state_dict().items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"rank{rank()}")


def test_two_processes_give_the_gradients_of_one(tmp_path):
    train(tmp_path)
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "two")], env=environment, timeout=180, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = load_file(tmp_path / "rank0")
    total = sum(value.square().sum() for name, value in one.items() if name.startswith("gradient/")).sqrt().item()
    assert total > 1e-3
    for number in (0, 1):
        two = load_file(tmp_path / "two" / f"rank{number}")
        assert one.keys() == two.keys()
        for name, expected in one.items():
            scale = expected.double().norm().item()
            error = (two[name].double() - expected.double()).norm().item()
            # A bias before a normalisation has no gradient but rounding.
            assert error <= 1e-6 * scale or (name.startswith("gradient/") and scale < 1e-10), (name, error, scale)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert world_size() == 2
        train(Path(sys.argv[1]))
