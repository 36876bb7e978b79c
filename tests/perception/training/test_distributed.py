import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from perception.data.loading import Batch
from perception.errors import InputError
from perception.models.registry import build_network
from perception.training.distributed import process_group, rank, share_of_mean, world_size
from perception.training.loop import Resume, TrainSettings, fit

SRC = Path(__file__).parents[3]
SETTINGS = TrainSettings(epochs=2, batch_frames=5, learning_rate=1e-2, weight_decay=1e-4, schedule="poly", seed=1)


def network() -> nn.Module:
    # No dropout: its draws belong to a process. Double precision: the order of sums must not hide an error.
    return build_network("ERFNet", seed=0, classes=3, width=0.25, dropout_quarter=0.0, dropout_eighth=0.0).double()


def batches(epoch: int) -> list[Batch]:
    """Two batches; the processes get 3 and 2 frames, and very different shares of the labelled pixels."""
    generator = torch.Generator().manual_seed(epoch)
    made = []
    for _ in range(2):
        labels = torch.randint(0, 3, (5, 8, 16), generator=generator)
        labels[::2, :7] = 255
        made.append(Batch(torch.rand(5, 3, 8, 16, generator=generator, dtype=torch.float64), labels))
    return made


def train(folder: Path) -> None:
    """Write the first step's gradients and the last weights; each process must end with the same ones."""
    trained, gradients = network(), {}

    def keep_gradients(iterations: int, trained: nn.Module, _: torch.optim.Optimizer) -> None:
        if iterations == 1:
            gradients.update({f"gradient/{name}": p.grad.clone() for name, p in trained.named_parameters()})

    resume = Resume(path=folder / "state", every_minutes=1e-9)
    records = fit(trained, batches, SETTINGS, after_step=keep_gradients, resume=resume, class_weights=[1.0, 2.0, 5.0])
    tensors = gradients | {f"weight/{name}": value for name, value in trained.state_dict().items()}
    tensors["losses"] = torch.tensor([record.loss for record in records], dtype=torch.float64)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"rank{rank()}")


def test_two_processes_give_the_gradients_and_weights_of_one(tmp_path):
    train(tmp_path)
    (tmp_path / "two").mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__,
        str(tmp_path / "two"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=180, capture_output=True)
    one = load_file(tmp_path / "rank0")
    for number in (0, 1):
        two = load_file(tmp_path / "two" / f"rank{number}")
        assert one.keys() == two.keys()
        for name, expected in one.items():
            scale = expected.double().norm().item()
            error = (two[name].double() - expected.double()).norm().item()
            # A convolution's bias before a normalisation has no gradient but rounding.
            assert error <= 1e-6 * scale or (name.startswith("gradient/") and scale < 1e-12), name


def test_without_processes_everything_is_the_identity():
    assert (rank(), world_size()) == (0, 1)
    with process_group("cpu"):
        assert not dist.is_initialized()
    assert share_of_mean(torch.tensor(6.0), torch.tensor(4.0)) == 1.5
    assert share_of_mean(torch.tensor(0.0), torch.tensor(0.0)) == 0


def test_a_half_set_environment_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="MASTER_ADDR"), process_group("cpu"):
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu"):
        assert world_size() == 2
        train(Path(sys.argv[1]))
