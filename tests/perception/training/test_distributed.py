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
from perception.training import distributed
from perception.training.distributed import own_frames, own_share, process_group, rank, share_of_mean, world_size
from perception.training.loop import Resume, TrainSettings, fit
from perception.training.setup import best_device

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
        images = torch.rand(5, 3, 8, 16, generator=generator, dtype=torch.float64)
        made.append(Batch(images[own_share()], labels[own_share()]))
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
    assert own_frames(5, 2) == list(range(5))[own_share()] == [0, 1, 2, 3, 4]
    with process_group("cpu"):
        assert not dist.is_initialized()
    assert share_of_mean(torch.tensor(6.0), torch.tensor(4.0)) == 1.5
    assert share_of_mean(torch.tensor(0.0), torch.tensor(0.0)) == 0


@pytest.mark.parametrize(("count", "batch_frames"), [(0, 2), (1, 3), (7, 2), (12, 3), (5, 8)])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_frames_are_shared_out_by_whole_batches(monkeypatch, count, batch_frames, processes):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    shares = []
    for number in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(own_frames(count, batch_frames))
    whole = [list(range(start, min(start + batch_frames, count))) for start in range(0, count, batch_frames)]
    cut = [[share[at : at + batch_frames] for at in range(0, len(share), batch_frames)] for share in shares]
    assert sorted(batch for batches in cut for batch in batches) == whole
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize(("processes", "gpus", "backend"), [(2, 1, "gloo"), (2, 2, "nccl"), (8, 8, "nccl")])
def test_processes_that_share_a_gpu_talk_over_gloo(monkeypatch, processes, gpus, backend):
    asked = []
    environment = {"RANK": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in (environment | {"LOCAL_WORLD_SIZE": str(processes), "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(str(device)))
    monkeypatch.setattr(dist, "init_process_group", asked.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with process_group(best_device()):
        assert asked == [f"cuda:{1 % gpus}", backend]


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
