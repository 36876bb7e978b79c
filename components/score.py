"""score: say of every frame of one pool shard how unsure the ensemble is about it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from components.stage.declaration import BASE, FRAMES, Needs, Paths, Port, Stage
from components.stage.learning import (
    NetworkParameters,
    check_classes,
    class_names,
    networks_of,
    open_frames,
    shard_frames,
)
from components.stage.parameters import shared_fields
from components.stage.records import log, progress_line
from perception.parameters import BrokenRule, Count, CountOrZero, NotNegative, checked
from perception.uncertainty.settings import ScoreRule, ScoreSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@checked
class ScoreParameters(NetworkParameters, ScoreRule):
    """Choose the shard and the measure of uncertainty."""

    shard: CountOrZero  # which shard of the pool to score
    shard_count: Count  # into how many shards the pool is divided, by drive
    # by class, for class_weighted; a class left out: 1
    class_weights: dict[str, NotNegative] = Field(default_factory=dict)
    maps: bool = False  # write the measure's map of every frame as a picture, maps/FRAME.png
    batch_frames: Count = 8  # frames in memory at once

    def __post_init__(self) -> None:
        if self.shard >= self.shard_count:
            raise BrokenRule("shard", self.shard, f"must lie in 0..{self.shard_count - 1}")
        check_classes("class_weights", self.class_weights, self.taxonomy)


def run(inputs: Paths, outputs: Paths, parameters: ScoreParameters) -> None:
    """Write scores.parquet: one row a frame of the shard, with its score and embedding; on request maps/FRAME.png.

    Frames that are labelled already are scored too: the selection keeps away from where they lie.
    """
    from perception.data.loading import image_batches
    from perception.selection.shortlist import BATCH_ROWS
    from perception.training.setup import best_device, set_threads
    from perception.uncertainty.ensemble import ensemble_sha256, load_committee
    from perception.uncertainty.scores import score_frames, score_table

    set_threads(parameters.threads)
    shard = shard_frames(inputs, parameters.shard, parameters.shard_count)
    settings = _settings(parameters)
    rows = score_frames(
        load_committee(inputs.one("ensemble"), networks_of(parameters)),
        image_batches(open_frames(shard, parameters, labels_required=False), parameters.batch_frames),
        settings,
        device=best_device(),
        on_maps=partial(_write_map, outputs.one("scores") / "maps", parameters.measure) if parameters.maps else None,
        progress=progress_line(f"score shard {parameters.shard}"),
        total_frames=len(shard),
    )
    table = score_table(rows, settings, ensemble_sha256(inputs.one("ensemble")))
    table.to_parquet(outputs.one("scores") / "scores.parquet", index=False, row_group_size=BATCH_ROWS)
    log(f"shard {parameters.shard} of {parameters.shard_count}: {len(table)} frames scored")


def _settings(parameters: ScoreParameters) -> ScoreSettings:
    """Return how frames are scored."""
    given, names = parameters.class_weights, class_names(parameters.taxonomy)
    weighted = parameters.reduction == "class_weighted"
    weights = tuple(given.get(name, 1.0) for name in names) if weighted else None
    return shared_fields(ScoreSettings, parameters, class_weights=weights)


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
    inputs=(FRAMES, BASE, Port(name="ensemble", about="the trained ensemble")),
    outputs=(
        Port(name="scores", about="scores.parquet: score and embedding of every frame of the shard; maps/ on request"),
    ),
    parameters=ScoreParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=8, gpu_count=1, timeout_minutes=240),
    run=run,
)
