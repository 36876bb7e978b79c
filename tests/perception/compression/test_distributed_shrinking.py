"""Processes that measure other times must lose the same neurons, or their gradients no longer fit together."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from perception.compression import aware_training
from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.compression.latency_budget import block_costs
from perception.training.distributed import process_group, rank, world_size

ROOT = Path(__file__).parents[3]
SETTINGS = ShrinkSettings(
    strength_share=0.2, reload_epochs=(0,), target_cost_share=0.5, costs="measured", strength_by_cost=0.5,
    first_factor=1.0, minimum_channels=1,
)  # fmt: skip


def shrink(folder: Path) -> None:
    """Press and prune a network whose layers cost differently in every process; write what is left."""

    def measured(*given):
        model = block_costs(*given, block=1, call_macs=0.0)
        factors = torch.rand(len(model.pair), generator=torch.Generator().manual_seed(rank())).double().numpy()
        return replace(model, pair=model.pair * factors**3)

    aware_training._COST_MODELS["measured"] = measured
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3)
    )
    hooks = CompressionAwareTraining(network, torch.zeros(1, 3, 8, 8), 0.1, SETTINGS)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    hooks.after_epoch(0, network, optimizer)
    save_file(dict(network.state_dict()), folder / f"rank{rank()}")


def test_two_processes_lose_the_neurons_that_the_first_one_measures(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=180, capture_output=True)
    first, second = (load_file(tmp_path / f"rank{number}") for number in (0, 1))
    assert sum(tensor.numel() for tensor in first.values()) < 16 * (3 * 9 + 1) + 16 * (16 * 9 + 1) + 2 * (16 * 9 + 1)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


if __name__ == "__main__":
    with process_group("cpu"), process_group("cpu"):
        assert world_size() == 2
        shrink(Path(sys.argv[1]))
