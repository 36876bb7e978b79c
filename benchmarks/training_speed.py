"""Measure how many images a second a table's committee is trained on: python benchmarks/training_speed.py.

    python benchmarks/training_speed.py [--size medium] [--device cuda] [--kind dpe] [--steps 100] [--eager]

Every member's pass over an image counts once: a step of 128 images and 4 members is 512. The images are noise of
CIFAR-10's size, on the device already, as in the table. The first round warms up and is not counted. From the speed
follow the seconds that one row of table dpe trains for. The last line is JSON.
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.tables.committees import SNAPSHOT_EPOCHS_PER_MEMBER, Recipe, train_committee
from benchmarks.tables.data import Labelled
from benchmarks.tables.dpe import EXPONENTIAL, PLANS
from benchmarks.tables.results import hardware
from perception.uncertainty.dpe import EnsembleLoss

ROUNDS = 2  # of each number of steps; the shorter time counts


def main() -> int:
    options = _options()
    plan = PLANS[options.size]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2048, 3, 32, 32, generator=generator).to(options.device)
    labelled = Labelled(images, torch.randint(0, 10, (2048,), generator=generator).to(options.device))
    loss = plan.loss or EnsembleLoss()
    members = plan.recipe.members if options.kind in ("ensemble", "dpe") else 1
    _seconds(_short(plan.recipe, min(20, options.steps)), labelled, options, loss)
    steps = _whole_epochs(options.steps, plan.recipe)
    few, many = (
        min(_seconds(_short(plan.recipe, count), labelled, options, loss) for _ in range(ROUNDS))
        for count in (steps, 2 * steps)
    )
    # The difference leaves out what a training takes to begin.
    speed = steps * plan.recipe.batch_frames * members / (many - few)
    passes = sum(plan.recipe.steps(plan.pool_frames * percent // 100) for percent in EXPONENTIAL)
    report = {
        "benchmark": "training_speed",
        "plan": options.size,
        "kind": options.kind,
        "eager": options.eager,
        "images_per_second": round(speed),
        "seconds_a_row": round(passes * plan.recipe.batch_frames * members / speed),
        "hardware": hardware(options.device),
    }
    print(json.dumps(report))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=PLANS, default="medium")
    parser.add_argument("--kind", choices=("single", "ensemble", "dpe"), default="dpe")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--eager", action="store_true", help="launch kernels one by one")
    return parser.parse_args()


def _short(recipe: Recipe, steps: int) -> Recipe:
    return dataclasses.replace(recipe, steps_at_1024=steps, steps_power=0.0)


def _whole_epochs(steps: int, recipe: Recipe) -> int:
    """Return the next number that divides into the epochs in which train_committee makes its steps."""
    epochs = SNAPSHOT_EPOCHS_PER_MEMBER * recipe.members
    return -(-steps // epochs) * epochs


def _seconds(recipe: Recipe, labelled: Labelled, options: argparse.Namespace, loss: EnsembleLoss) -> float:
    start = time.perf_counter()
    train_committee(options.kind, labelled, recipe, seed=0, device=options.device, loss=loss, eager=options.eager)
    if options.device.startswith("cuda"):
        torch.cuda.synchronize(options.device)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
