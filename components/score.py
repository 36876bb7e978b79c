"""score: say of every frame of one pool shard how unsure the ensemble is about it."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import FrameParameters, image_batches, shard_frames
from components.stage.parameters import did_you_mean, require
from components.stage.records import log, progress_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.uncertainty.scores import ScoreSettings


@dataclass(frozen=True, kw_only=True)
class ScoreParameters(FrameParameters):
    """Choose the shard and the measure of uncertainty."""

    shard: int  # which shard of the pool to score
    shard_count: int  # into how many shards the pool is divided, by drive
    measure: str = "ensemble_entropy"  # mean_entropy, mutual_information, variance or variation_ratio
    reduction: str = (
        "mean"  # how the pixels' uncertainty becomes the frame's: mean, max, top_share, region, class_weighted
    )
    top_share: float = 0.05  # share of the pixels that reduction top_share averages
    region_threshold: float = 0.25  # share of the measure's greatest value above which a pixel belongs to a region
    class_weights: dict[str, float] = field(default_factory=dict)  # by class, for class_weighted; a class left out: 1
    maps: bool = False  # write the measure's map of every frame as a picture, maps/FRAME.png
    batch_frames: int = 8  # frames in memory at once

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.shard_count >= 1, "shard_count", self.shard_count, "must be at least 1")
        require(0 <= self.shard < self.shard_count, "shard", self.shard, f"must lie in 0..{self.shard_count - 1}")
        require(self.batch_frames >= 1, "batch_frames", self.batch_frames, "must be at least 1")
        for name, weight in self.class_weights.items():
            known = self.class_names()
            require(name in known, f"class_weights.{name}", weight, f"no such class{did_you_mean(name, known)}")
            require(
                isinstance(weight, int | float) and weight >= 0, f"class_weights.{name}", weight, "must be at least 0"
            )

    def settings(self) -> "ScoreSettings":
        """Return how frames are scored, with every field checked."""
        from perception.uncertainty.scores import ScoreSettings

        weighted = self.reduction == "class_weighted"
        weights = tuple(float(self.class_weights.get(name, 1.0)) for name in self.class_names())
        return ScoreSettings(
            measure=self.measure,
            reduction=self.reduction,
            top_share=self.top_share,
            region_threshold=self.region_threshold,
            class_weights=weights if weighted else None,
        )


def run(inputs: Paths, outputs: Paths, parameters: ScoreParameters) -> None:
    """Write scores.parquet: one row a frame of the shard, with its score and embedding; on request maps/FRAME.png.

    Frames that are labelled already are scored too: the selection keeps away from where they lie.
    """
    from perception.selection.shortlist import BATCH_ROWS
    from perception.uncertainty.ensemble import ensemble_sha256, load_committee
    from perception.uncertainty.scores import score_frames, score_table

    parameters.prepare()
    shard = shard_frames(inputs, parameters.shard, parameters.shard_count)
    settings = parameters.settings()
    rows = score_frames(
        load_committee(inputs.one("ensemble")),
        image_batches(parameters.frame_set(shard, labels_required=False), parameters.batch_frames),
        settings,
        on_maps=partial(_write_map, outputs.one("scores") / "maps", parameters.measure) if parameters.maps else None,
        progress=progress_line(f"score shard {parameters.shard}"),
        total_frames=len(shard),
    )
    table = score_table(rows, settings, ensemble_sha256(inputs.one("ensemble")))
    table.to_parquet(outputs.one("scores") / "scores.parquet", index=False, row_group_size=BATCH_ROWS)
    log(f"shard {parameters.shard} of {parameters.shard_count}: {len(table)} frames scored")


def _write_map(
    folder: Path, measure: str, frame_id: str, maps: "dict[str, NDArray[np.float32]]", bounds: dict[str, float]
) -> None:
    """Write a frame's map as a picture, dark where the measure is 0, bright where it is as great as it can be."""
    from PIL import Image

    from perception.uncertainty.scores import heat_picture

    folder.mkdir(exist_ok=True)
    Image.fromarray(heat_picture(maps[measure], bounds[measure])).save(folder / f"{frame_id}.png")


STAGE = Stage(
    name="score",
    summary="Score how unsure the ensemble is about every frame of one pool shard.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from"),
        Port(name="ensemble", kind="ensemble", about="the trained ensemble"),
    ),
    outputs=(
        Port(
            name="scores",
            kind="scores",
            about="scores.parquet: score and embedding of every frame of the shard; maps/ on request",
        ),
    ),
    parameters=ScoreParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=8, gpu_count=1, timeout_minutes=240),
    run=run,
)
