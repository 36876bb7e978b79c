"""How large the experiment of table dpe is, and its rows."""

from dataclasses import dataclass

from benchmarks.tables.dpe.committees import Recipe
from benchmarks.tables.plans import plans_of
from perception.selection.schedule import exponential_sizes, linear_sizes
from perception.uncertainty.dpe import EnsembleLoss

EXPONENTIAL, LINEAR_8 = tuple(exponential_sizes(4, 4)), tuple(linear_sizes(32, 8)[:5])  # labelled shares in per cent
Arm = tuple[str, str, tuple[int, ...]]  # kind of committee, strategy, labelled shares in per cent
SWEEP_PERCENT = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    pool_frames: int
    validation_frames: int  # the sweep is judged on them; not in the test set nor, where it chooses the loss, the pool
    recipe: Recipe
    betas: tuple[float, ...] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
    loss: EnsembleLoss | None = None  # of DPE; None: the one that the sweep finds best
    arms: tuple[Arm, ...]  # in the order in which they are run


PLANS = plans_of("dpe", Plan)


def arm_name(arm: Arm) -> str:
    """Return an arm's name in figures."""
    return "-".join(map(str, (*arm[:2], *arm[2])))


def cell_name(arm: Arm, seed: int, percent: int) -> str:
    """Return the name of the cell of one of an arm's rounds."""
    return f"{arm_name(arm)}-seed{seed}-{percent}"


def sweep_points(plan: Plan) -> list[tuple[str, float]]:
    """Return (direction, beta) of every point; beta 0 is the plain ensemble."""
    return [("pq", 0.0), *((direction, beta) for direction in ("pq", "qp") for beta in plan.betas)]
