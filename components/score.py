"""score: say of every frame of one pool shard how unsure the ensemble is about it."""

from dataclasses import dataclass

from components.contract import Needs, Paths, Port, Stage, log, progress_line
from components.learning import FrameParameters, image_batches, labelled_so_far, open_pool
from components.parameters import require


@dataclass(frozen=True, kw_only=True)
class ScoreParameters(FrameParameters):
    """Choose the shard and the measure of uncertainty."""

    shard: int  # which shard of the pool to score
    shard_count: int  # into how many shards the pool is divided, by drive
    measure: str = "ensemble_entropy"  # see perception/uncertainty/scores.py
    reduction: str = "mean"  # how the pixels' uncertainty becomes the frame's
    batch_frames: int = 8  # frames in memory at once

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.shard_count >= 1, "shard_count", self.shard_count, "must be at least 1")
        require(0 <= self.shard < self.shard_count, "shard", self.shard, f"must lie in 0..{self.shard_count - 1}")
        require(self.batch_frames >= 1, "batch_frames", self.batch_frames, "must be at least 1")


def run(inputs: Paths, outputs: Paths, parameters: ScoreParameters) -> None:
    """Write scores.parquet: one row a frame of the shard, with its score and embedding.

    Frames that are labelled already are scored too: the selection keeps away from where they lie.
    """
    import pandas as pd

    from perception.selection.shards import in_shard
    from perception.uncertainty.ensemble import ensemble_sha256, load_ensemble
    from perception.uncertainty.scores import ScoreSettings, score_frames, score_table

    parameters.prepare()
    known = pd.concat([open_pool(inputs), labelled_so_far(inputs)], ignore_index=True)
    shard = known[in_shard(known.drive_id, parameters.shard, parameters.shard_count)]
    settings = ScoreSettings(measure=parameters.measure, reduction=parameters.reduction)
    rows = score_frames(
        load_ensemble(inputs.one("ensemble")),
        image_batches(parameters.frame_set(shard, labels_required=False), parameters.batch_frames),
        settings,
        progress=progress_line(f"score shard {parameters.shard}"),
        total_frames=len(shard),
    )
    table = score_table(rows, settings, ensemble_sha256(inputs.one("ensemble")))
    table.to_parquet(outputs.one("scores") / "scores.parquet", index=False)
    log(f"shard {parameters.shard} of {parameters.shard_count}: {len(table)} frames scored")


STAGE = Stage(
    name="score",
    summary="Score how unsure the ensemble is about every frame of one pool shard.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from"),
        Port(name="ensemble", kind="ensemble", about="the trained ensemble"),
    ),
    outputs=(
        Port(name="scores", kind="scores", about="scores.parquet: score and embedding of every frame of the shard"),
    ),
    parameters=ScoreParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=8, gpu_count=1, timeout_minutes=240),
    run=run,
)
