"""select: choose the frames to label tonight."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.stage.declaration import BASE, FRAMES, Needs, Paths, Port, Stage
from components.stage.learning import (
    NetworkParameters,
    check_classes,
    class_names,
    labelled_so_far,
    networks_of,
    open_frames,
    open_pool,
    write_json,
)
from components.stage.records import log
from perception.parameters import Count, ShareFromZero, checked
from perception.selection.settings import Quota, SelectionSettings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from perception.data.annotation import Batch

JUDGED = ("frame_id", "score", "rank", "drive_id", "split", "in_pool", "in_labelled")  # columns that the gate looks at
FRESH = "drawn uniformly from the pool, to judge networks by"
_BATCH_FRAMES = 8  # in memory at once while labels are suggested
_SCORES = dict.fromkeys(("frame_id", "model_sha256", "measure", "reduction"), "text")
_SCORES |= {"embedding": "vector", "class_share": "vector", "*": "number?", "score": "number"}


@checked
class NamedQuota(Quota):
    """Ask that a share of the budget goes to frames of one condition, or to frames that show a class."""

    class_name: str | None = Field(default=None, alias="class")  # name of a class that the frames show

    @property
    def shows_class(self) -> bool:
        """Return whether the quota is for frames that show a class."""
        return self.class_id is not None or self.class_name is not None


@checked
class SelectParameters(NetworkParameters, SelectionSettings):
    """Choose the strategy and how much may be labelled."""

    quotas: tuple[NamedQuota, ...] = ()  # least shares of the budget for conditions and classes
    # features: the scores' embeddings; classes: shares of the predicted classes
    distance_by: Literal["features", "classes"] = "features"
    # Control groups, drawn independently, because one may be lucky: compare takes one for each of its trainings in turn.
    # Each takes another pass over the scores, so there should be no more than compare.seeds.
    control_draws: Count = 1
    # an earlier night's evaluation/query.json: frames like its failures score higher; empty: base's
    failure_query: str = ""
    # of the budget: drawn uniformly from the pool and kept out of tonight's training, to judge networks by without bias
    fresh_share: ShareFromZero = 0.1

    @property
    def fresh_frames(self) -> int:
        """Return how many frames of the budget are drawn uniformly: the share, at least one, and never the whole budget."""
        wanted = max(1, round(self.fresh_share * self.budget_frames)) if self.fresh_share else 0
        return min(wanted, self.budget_frames - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classes("quotas", (each.class_name for each in self.quotas if each.class_name), self.taxonomy)


def run(inputs: Paths, outputs: Paths, parameters: SelectParameters) -> dict[str, int]:
    """Write selected.parquet, control.parquet with groups of as many frames at random for the comparison in the report,
    and the annotation batch, which suggests what the ensemble sees; tell how many were chosen.

    The score tables are merged shard by shard; no more than a batch of rows and the shortlist is in memory.
    """
    from perception.data.tables import check_schema

    pool, folder, before = open_pool(inputs), outputs.one("selection"), labelled_so_far(inputs)
    factors = _failure_factors(pool, inputs.one("base") / "query.json", parameters.failure_query)
    tables = [path / "scores.parquet" for path in inputs.many("scores")]
    for table in tables:
        check_schema(table, _SCORES)
    parameters = _within(parameters, len(pool))
    selected, control = _choices(pool.assign(boost=factors), before, tables, parameters)
    control.to_parquet(folder / "control.parquet", index=False)
    chosen = pool[pool.frame_id.isin(selected.frame_id)].drop(columns=["score", "rank", "reason"], errors="ignore")
    batch = _hand_over(chosen, inputs.one("ensemble"), folder / "annotation", parameters)
    prelabels = selected.frame_id.map(dict(batch.prelabel_uris)).astype(object)
    selected.assign(prelabel_uri=prelabels).to_parquet(folder / "selected.parquet", index=False)
    story = {
        "strategy": parameters.strategy,
        "budget_frames": parameters.budget_frames,
        "pool_frames": len(pool),
        "boosted_frames": int((factors > 1).sum()),
        "annotation_batch": batch.name,
        "model_sha256": _scored_by(tables),
    }
    write_json(folder / "selection.json", story)
    ids = selected.frame_id
    judged = selected.assign(in_pool=ids.isin(pool.frame_id), in_labelled=ids.isin(before.frame_id))
    judged[list(JUDGED)].to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"budget_frames": min(parameters.budget_frames, len(pool))})
    log(f"{len(selected)} of {len(pool)} frames selected by {parameters.strategy}; annotation batch {batch.name}")
    if len(selected) < min(parameters.budget_frames, len(pool)):
        log(
            f"fewer than budget_frames = {parameters.budget_frames}: every other candidate is a near-duplicate of a labelled or "
            "chosen frame; take in other footage, or lower duplicate_distance, duplicate_gap_s or duplicate_gap_frames"
        )
    return {"chosen": len(selected)}


def _hand_over(chosen: "pd.DataFrame", ensemble: Path, folder: Path, parameters: SelectParameters) -> "Batch":
    """Write the annotation batch of the chosen frames, with what the ensemble sees in them."""
    from perception.data.annotation import outlines_of, write_batch
    from perception.data.loading import image_batches
    from perception.data.store import open_store
    from perception.training.setup import best_device, set_threads
    from perception.uncertainty.ensemble import load_committee
    from perception.uncertainty.prediction import predicted_labels

    set_threads(parameters.threads)
    sizes = {str(frame.frame_id): (int(frame.height_px), int(frame.width_px)) for frame in chosen.itertuples()}
    images = image_batches(open_frames(chosen, parameters, labels_required=False), _BATCH_FRAMES)
    labels = predicted_labels(load_committee(ensemble, networks_of(parameters)), images, sizes, best_device())
    outlines = {frame_id: outlines_of(label) for frame_id, label in labels}
    return write_batch(chosen, outlines, open_store(parameters.store), folder, parameters.taxonomy)


def _within(parameters: SelectParameters, pool_frames: int) -> SelectParameters:
    """Return the parameters with no larger budget than the pool has frames: some nights bring few."""
    if pool_frames and pool_frames < parameters.budget_frames:
        log(f"the pool has {pool_frames} frames, fewer than the budget of {parameters.budget_frames}: all are chosen")
        return replace(parameters, budget_frames=pool_frames)
    return parameters


def _choices(
    pool: "pd.DataFrame", before: "pd.DataFrame", tables: "Sequence[Path]", parameters: SelectParameters
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return the chosen frames, and every draw of the control group, told apart by column draw.

    Some of the chosen ones are drawn uniformly (column fresh), the strategy chooses the others; the control group is as large as those.
    pool: with column boost, by how much a frame's score is raised. before: the frames that have labels.
    """
    import pandas as pd

    from perception.selection.budget import choose_frames
    from perception.selection.composition import embedded_by_classes
    from perception.selection.shortlist import labelled_rows, shortlist_files

    facts = pool.drop(columns=["score", "rank", "reason"], errors="ignore").set_index("frame_id")
    where = before.set_index("frame_id")[["drive_id", "timestamp_utc"]]
    if parameters.duplicate_gap_frames:
        places = _drive_places(pool, before)
        facts, where = facts.join(places), where.join(places)
    labelled = set(before.frame_id)
    known = labelled_rows(tables, labelled).join(where, on="frame_id")

    def choose(settings: "SelectionSettings", taken: "Iterable[str]" = ()) -> "pd.DataFrame":
        closed = labelled | set(taken)
        candidates = shortlist_files(tables, settings, closed, partial(_candidates, facts)).drop(columns="boost")
        if candidates.empty:  # all frames are at annotators: a night of returned labels
            return candidates.assign(rank=0, reason="").astype({"rank": "int32"})
        if parameters.distance_by == "classes":
            candidates, near = embedded_by_classes(candidates, known)
            return choose_frames(candidates, settings, labelled=near)
        return choose_frames(candidates, settings, labelled=known)

    classes = class_names(parameters.taxonomy)
    quotas = (
        replace(each, class_id=classes.index(each.class_name)) if each.class_name else each
        for each in parameters.quotas
    )
    settings = replace(parameters, quotas=tuple(quotas))
    # What narrows the choice is the strategy's as well: the control group is any frames of the pool.
    at_random = replace(
        settings, strategy="random", quotas=(), duplicate_distance=0.0, duplicate_gap_s=0.0, duplicate_gap_frames=0
    )
    fresh_seed = parameters.seed + parameters.control_draws
    count, fresh = parameters.fresh_frames, []
    if count:
        fresh = [choose(replace(at_random, budget_frames=count, seed=fresh_seed)).assign(fresh=True, reason=FRESH)]
    drawn = [frame_id for each in fresh for frame_id in each.frame_id]
    rest = parameters.budget_frames - count
    chosen = choose(replace(settings, budget_frames=rest), drawn).assign(fresh=False)
    fresh = [each.assign(rank=(each["rank"] + len(chosen)).astype("int32")) for each in fresh]
    seeds = [parameters.seed + draw for draw in range(parameters.control_draws)]
    draws = [
        choose(replace(at_random, budget_frames=rest, seed=seed), drawn).assign(draw=draw)
        for draw, seed in enumerate(seeds)
    ]
    return pd.concat([chosen, *fresh], ignore_index=True), pd.concat(draws, ignore_index=True)


def _scored_by(tables: "Sequence[Path]") -> str:
    """Return the hash of the ensemble that scored: near-duplicates, or an empty pool, may leave nothing to select."""
    import pyarrow.parquet as pq

    rows = (batch for path in tables for batch in pq.ParquetFile(path).iter_batches(1, columns=["model_sha256"]))
    return str(next(rows)["model_sha256"][0])


def _drive_places(*tables: "pd.DataFrame") -> "pd.Series[int]":
    """Number the frames of every drive in the order of their time and, where that is unknown, of their frame_id."""
    import pandas as pd

    frames = pd.concat([table[["frame_id", "drive_id", "timestamp_utc"]] for table in tables], ignore_index=True)
    frames = frames.sort_values(["timestamp_utc", "frame_id"]).set_index("frame_id")
    return frames.groupby("drive_id").cumcount().rename("drive_place")


def _candidates(facts: "pd.DataFrame", scored: "pd.DataFrame") -> "pd.DataFrame":
    """Join a batch of scored frames with the pool's facts, and raise the scores of frames like known failures."""
    # The index keeps its hash table: isin would build one of the whole pool for every batch.
    places = facts.index.get_indexer(scored.frame_id)
    inside = scored[places >= 0]
    known = facts.iloc[places[places >= 0]].set_index(inside.index)
    return inside.join(known).assign(score=inside.score * known.boost)


def _failure_factors(pool: "pd.DataFrame", of_base: Path, named: str) -> "NDArray[np.float64]":
    """Return by how much each frame's score is raised because it is like an earlier night's failures."""
    import numpy as np

    from perception.selection.boost import boost_factors, read_queries

    path = Path(named) if named else of_base
    if not named and not path.exists():
        return np.ones(len(pool))
    return boost_factors(pool, read_queries(path))


STAGE = Stage(
    name="select",
    summary="Choose the frames to label tonight, within the budget.",
    inputs=(
        FRAMES,
        BASE,
        Port(name="ensemble", about="the ensemble that scored the pool, which suggests labels"),
        Port(name="scores", about="score and embedding of every pool frame, one folder a shard", many=True),
    ),
    outputs=(
        Port(
            name="selection",
            about="the chosen frames with rank and reason, a random control group, and annotation/: the batch to label",
            gate_table=True,
        ),
    ),
    parameters=SelectParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=4, gpu_count=1),
    run=run,
)
