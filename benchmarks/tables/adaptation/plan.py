"""How large the adaptation table's experiment is, and what each of its cells hangs on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from benchmarks.results import ROOT
from benchmarks.tables.batches import Variation
from benchmarks.tables.plans import plans_of

WORLD_SEED = 7  # of all rendered frames: seeds of the table vary what is learnt from them


def camvid_world() -> Mapping[str, Any]:
    """Return the ranges that the camvid profile of params.yaml draws its simulator's streets from."""
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    world: Mapping[str, Any] = parameters["profiles"]["camvid"]["sources"]["simulator"]["world"]
    return world


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say how large the experiment is."""

    street_px: tuple[int, int]  # height and width of rendered targets
    camvid_px: tuple[int, int]
    simulator_frames: int
    foreground_frames: int  # more simulator frames, their foreground in random textures
    held_out_frames: int  # simulator frames in random textures that nothing learns from: the score threshold's
    street_frames: int  # of the target, to adapt to
    street_test_frames: int
    width: float  # of ERFNet
    detector_width: float
    batch_frames: int
    steps: int  # of each network that starts from nothing
    student_steps: int  # of each round of pseudo-labels
    rounds: int  # pseudo-labels are made anew by the student in each
    detector_steps: int
    learning_rate: float = 1e-3
    student_rate: float = 1e-3
    detector_rate: float = 2e-3
    simulator_share: float = 0.25  # of a batch that pseudo-labels are learnt in
    foreground_share: float = 0.25  # of it, simulator frames whose foreground has random textures
    kept_share: float = 0.6  # of each class, the most confident pixels become pseudo-labels
    highest_threshold: float = 0.9
    lowest_score: float = 0.05  # of instances that fusion gets to see
    most_detections: int = 32  # in a frame
    texture_share: float = 0.6  # of foreground things in random textures
    variation: Variation = field(default_factory=Variation)
    camvid_world: Mapping[str, Any] = field(default_factory=camvid_world)


# What a cell's result depends on.
FRAMES = (
    "street_px", "camvid_px", "simulator_frames", "foreground_frames", "held_out_frames", "street_frames", "street_test_frames",
    "texture_share", "camvid_world", "world_seed",
)  # fmt: skip
SEGMENTER = ("width", "batch_frames", "steps", "learning_rate", "variation")
DETECTOR = (
    "detector_width", "batch_frames", "detector_steps", "detector_rate", "variation", "lowest_score", "most_detections",
)  # fmt: skip
STUDENT = (
    "student_steps", "rounds", "student_rate", "simulator_share", "foreground_share", "kept_share", "highest_threshold",
)  # fmt: skip
DEPENDS = {
    "source": SEGMENTER, "joint": SEGMENTER, "full": SEGMENTER,
    "longer": (*SEGMENTER, "rounds", "student_steps"), "detector": DETECTOR, "untextured": DETECTOR,
    "fused": SEGMENTER + DETECTOR, "plain": SEGMENTER + STUDENT, "pseudo": SEGMENTER + DETECTOR + STUDENT,
}  # fmt: skip

PLANS = plans_of("adaptation", Plan)


def settings_of(plan: Plan, names: tuple[str, ...]) -> dict[str, Any]:
    """Return what a cell's result depends on: a change runs it again, and those that need it."""
    everything = asdict(plan) | {"world_seed": WORLD_SEED}
    return {name: everything[name] for name in names}
