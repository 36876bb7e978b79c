"""How large the night table's experiment is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tables.adaptation.plan import camvid_world
from benchmarks.tables.batches import Variation
from benchmarks.tables.dpe.segmentation import APART
from benchmarks.tables.dpe.segmentation import Plan as ChoicePlan
from benchmarks.tables.plans import plans_of
from perception.compression.latency_budget import Lost


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    height_px: int
    width_px: int
    width: float  # of ERFNet
    simulator_frames: int
    choice: ChoicePlan  # how the tenth is chosen
    chosen_by: str = APART  # one of dpe_segmentation.CHOICES
    batch_frames: int = 8
    simulator_steps: int  # of the network that the rows with a simulator start from
    steps: int  # of every row; the last ones start from a network that has learnt before
    epochs: int  # that steps are divided into: shrinking acts after each
    prune_epoch: int  # after it channels leave, counted from 0
    learning_rate: float
    press: float  # share of the median neuron norm that one proximal step takes at first
    cost_share: float  # of the network's latency, by block_costs, that may be left
    close_branches: bool = True  # whole residual branches may leave as well
    lost: Lost = "share"  # of its layer's importance: no layer becomes a bottleneck
    pseudo_share: float = 0.5  # of a batch, the rest are labels
    kept_share: float = 0.8  # of each class, the most confident pixels become pseudo-labels
    highest_threshold: float = 0.9
    energy: float = 0.95  # that low-rank layers keep
    # Half of all frames mirrored, and little else: what brings domains together costs thousands of steps more
    # (docs/decisions.md).
    variation: Variation = field(
        default_factory=lambda: Variation(zoom=(0.9, 1.3), color=0.15, tint=0.03, gamma=0.1, noise=0.0, blur_share=0.0)
    )
    world: Mapping[str, Any] = field(default_factory=camvid_world)

    @property
    def steps_in_all(self) -> int:
        """Return the steps of the rows with pseudo-labels, those of the networks that they start from included."""
        return self.simulator_steps + 2 * self.steps


PLANS = plans_of("night", Plan)
