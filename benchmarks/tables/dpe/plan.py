"""How large the experiment of table dpe is, and its rows."""

from dataclasses import dataclass, replace

from benchmarks.tables.dpe.committees import Recipe
from perception.selection.schedule import exponential_sizes, linear_sizes
from perception.uncertainty.dpe import EnsembleLoss

EXPONENTIAL, LINEAR_8 = tuple(exponential_sizes(4, 4)), tuple(linear_sizes(32, 8)[:5])  # labelled shares in per cent
Arm = tuple[str, str, tuple[int, ...]]  # kind of committee, strategy, labelled shares in per cent
ARMS: tuple[Arm, ...] = (
    ("ensemble", "random", EXPONENTIAL),
    ("ensemble", "k_centre", EXPONENTIAL),
    ("dpe", "k_centre", EXPONENTIAL),
    ("dpe", "random", EXPONENTIAL),
    ("single", "random", EXPONENTIAL),
    ("ensemble", "top_n", EXPONENTIAL),
    ("single", "k_centre", EXPONENTIAL),
    ("snapshots", "k_centre", EXPONENTIAL),
    ("dropout", "k_centre", EXPONENTIAL),
    ("single", "random", (4, 20)),
    ("single", "random", (100,)),
    ("single", "k_centre", LINEAR_8),
    ("single", "core_set", LINEAR_8),
    ("dpe", "random", (4, 20)),
    ("dpe", "random", (100,)),
    ("dpe", "k_centre", LINEAR_8),
)
SWEEP_PERCENT = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    pool_frames: int
    validation_frames: int  # the sweep is judged on them; not in the test set nor, where it chooses the loss, the pool
    recipe: Recipe
    betas: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
    loss: EnsembleLoss | None = None  # of DPE; None: the one that the sweep finds best
    arms: tuple[Arm, ...] = ARMS  # in the order in which they are run


# A few minutes of a GPU: the published network at half its width, half as many members, few passes over the images,
# the learning rate that rises and falls once. The loss is fixed, not swept, so that all 50,000 images are pool, as
# published. Of 4 members drawn from the prior the gradient of KL(prior || members) has no finite spread (methods
# 1.2): here its norm is 54,000 at the start, that of KL(members || prior) 2; with the variance's floor at 0.01, 71.
_MEDIUM = Plan(
    pool_frames=50_000,
    validation_frames=5_000,
    recipe=Recipe(
        network="resnet18", channels=32, members=4, learning_rate=0.1, optimiser="sgd", nesterov=True,
        warmup_share=0.2, weight_decay=5e-4, batch_frames=128, steps_at_1024=240, steps_power=0.7, augment=True,
    ),
    betas=(1e-6, 1e-5, 1e-4),
    loss=EnsembleLoss(penalty="dpe", beta=1e-5, direction="qp", variance_floor=1e-2),
    arms=(
        ("ensemble", "random", EXPONENTIAL),
        ("ensemble", "k_centre", EXPONENTIAL),
        ("dpe", "k_centre", EXPONENTIAL),
        ("dpe", "random", EXPONENTIAL),
    ),
)  # fmt: skip

PLANS = {
    "small": Plan(
        pool_frames=10_000,
        validation_frames=5_000,
        recipe=Recipe(
            network="mlp", members=4, learning_rate=2e-3, optimiser="adam", weight_decay=1e-4, batch_frames=64,
            steps_at_1024=400, steps_power=0.5, augment=False,
        ),
    ),
    "medium": _MEDIUM,
    # 24 passes over the labelled images in every round, where medium takes 25 in the first and 13 in the last.
    "long": replace(_MEDIUM, recipe=replace(_MEDIUM.recipe, steps_at_1024=192, steps_power=1.0)),
    "full": Plan(
        pool_frames=45_000,
        validation_frames=5_000,
        recipe=Recipe(
            network="resnet18", members=8, learning_rate=0.05, optimiser="sgd", weight_decay=5e-4, batch_frames=128,
            steps_at_1024=1600, steps_power=0.75, augment=True,
        ),
    ),
}  # fmt: skip


def sweep_points(plan: Plan) -> list[tuple[str, float]]:
    """Return (direction, beta) of every point; beta 0 is the plain ensemble."""
    return [("pq", 0.0), *((direction, beta) for direction in ("pq", "qp") for beta in plan.betas)]
