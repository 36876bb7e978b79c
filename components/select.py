"""select: choose the frames to label tonight."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.contract import Needs, Paths, Port, Stage, log
from components.learning import labelled_so_far, open_pool, write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd

JUDGED = ("frame_id", "score", "rank", "drive_id", "split", "in_pool", "in_labelled")  # columns that the gate looks at


@dataclass(frozen=True, kw_only=True)
class SelectParameters:
    """Choose the strategy and how much may be labelled."""

    store: str  # blob store: a folder or s3://bucket/prefix
    seed: int  # of the control group and of strategies that draw at random
    budget_frames: int  # frames to label tonight
    strategy: str = "k_centre"  # see perception/selection/settings.py
    shortlist_frames: int = 20_000  # most uncertain frames of the whole pool that the strategy looks at
    duplicate_gap_s: float = (
        0.0  # frames of one drive closer than this in time count as near-duplicates; 0: no such rule
    )
    failure_query: str = (
        ""  # an earlier night's evaluation/query.json: frames like its failures score higher; "": base's
    )

    def __post_init__(self) -> None:
        require(self.budget_frames >= 1, "budget_frames", self.budget_frames, "must be at least 1")
        require(
            self.shortlist_frames >= self.budget_frames,
            "shortlist_frames",
            self.shortlist_frames,
            "must hold the budget",
        )


def run(inputs: Paths, outputs: Paths, parameters: SelectParameters) -> None:
    """Write selected.parquet, and control.parquet: as many frames at random, for the comparison in the report."""
    import pandas as pd

    from perception.selection.budget import choose_frames
    from perception.selection.settings import SelectionSettings

    pool, folder = open_pool(inputs), outputs.one("selection")
    scores = pd.concat([pd.read_parquet(path / "scores.parquet") for path in inputs.many("scores")], ignore_index=True)
    candidates = pool.drop(columns=["score"], errors="ignore").merge(
        scores, on="frame_id", how="inner", validate="one_to_one"
    )
    candidates, boosted = _boosted(candidates, inputs.one("base") / "query.json", parameters.failure_query)
    known = scores[scores.frame_id.isin(labelled_so_far(inputs).frame_id)]
    settings = SelectionSettings(
        budget_frames=parameters.budget_frames,
        strategy=parameters.strategy,
        shortlist_frames=parameters.shortlist_frames,
        duplicate_gap_s=parameters.duplicate_gap_s or None,
        seed=parameters.seed,
    )
    selected = choose_frames(candidates, settings, labelled=known)
    control = choose_frames(candidates, replace(settings, strategy="random"), labelled=known)
    selected.to_parquet(folder / "selected.parquet", index=False)
    control.to_parquet(folder / "control.parquet", index=False)
    story = {"strategy": parameters.strategy, "budget_frames": parameters.budget_frames, "pool_frames": len(pool)}
    story |= {"boosted_frames": boosted}
    write_json(folder / "selection.json", story | {"model_sha256": scores.model_sha256.iloc[0]})
    judged = selected.assign(
        in_pool=selected.frame_id.isin(pool.frame_id), in_labelled=selected.frame_id.isin(known.frame_id)
    )
    judged[list(JUDGED)].to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"budget_frames": parameters.budget_frames})
    log(f"{len(selected)} of {len(pool)} frames selected by {parameters.strategy}")


def _boosted(candidates: "pd.DataFrame", of_base: Path, named: str) -> "tuple[pd.DataFrame, int]":
    """Raise the scores of frames like an earlier night's failures; return the candidates and how many were raised."""
    from perception.selection.boost import boost_factors, read_queries

    path = Path(named) if named else of_base
    if not named and not path.exists():
        return candidates, 0
    factors = boost_factors(candidates, read_queries(path))
    return candidates.assign(score=candidates.score * factors), int((factors > 1).sum())


STAGE = Stage(
    name="select",
    summary="Choose the frames to label tonight, within the budget.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from"),
        Port(
            name="scores", kind="scores", about="score and embedding of every pool frame, one folder a shard", many=True
        ),
    ),
    outputs=(
        Port(
            name="selection",
            kind="selection",
            about="the chosen frames with rank and reason, and a random control group",
        ),
    ),
    parameters=SelectParameters,
    needs=Needs(image="torch", cpu_cores=2, memory_gib=4),
    run=run,
)
