"""compare: was the selection worth it? The same budget spent by the strategy and at random, on the same network."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.stage.declaration import BASE, FRAMES, Paths, Port, Stage
from components.stage.learning import (
    LearningParameters,
    by_all_processes,
    deciding_frames,
    labelled_so_far,
    network_miou,
    networks_of,
    new_network,
    open_frames,
    read_frames,
    train,
    train_settings,
    training_needs,
    write_json,
)
from components.stage.records import log
from perception.parameters import Count, checked

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn


@checked
class CompareParameters(LearningParameters):
    """Say how the two arms are trained; both the same."""

    # trainings of each arm, from different first weights, those at random each on another draw; from 2 on the report
    # shows their spread
    seeds: Count = 1
    # head: what follows the encoder, which stays as it is in a member of the night's ensemble, seed by seed the next one;
    # network: all of it, from its first weights
    trained: Literal["head", "network"] = "network"


@by_all_processes
def run(inputs: Paths, outputs: Paths, parameters: CompareParameters) -> None:
    """Write comparison.json: mIoU on the val frames of each arm and seed; null for an arm whose labels are not there.

    labels.json ranks the selected frames' labels by how much the ensemble doubts them.
    """
    import pandas as pd

    from components.compare.doubts import doubted_labels
    from perception.data.tables import read_table

    known, frames = labelled_so_far(inputs), read_frames(inputs)
    val = deciding_frames(frames)
    results: dict[str, Any] = {"seeds": parameters.seeds, "missing_labels": {}}
    for arm, file in (("selected", "selected.parquet"), ("random", "control.parquet")):
        chosen = read_table(inputs.one("selection") / file, {"frame_id": "text"})
        chosen = chosen[~chosen.fresh] if "fresh" in chosen else chosen
        labelled, missing = _with_labels(inputs, frames[frames.frame_id.isin(chosen.frame_id)], parameters.store)
        results["missing_labels"][arm] = missing
        groups = [labelled[labelled.frame_id.isin(group.frame_id)] for group in _groups(chosen)]
        learnt_from = [pd.concat([known, group]) for group in groups]
        start = partial(_start, inputs.one("ensemble"), parameters)
        results[f"miou_{arm}"] = None if missing else _train_and_score(learnt_from, val, arm, start, parameters)
        if arm == "selected" and not missing and len(labelled):
            doubts = doubted_labels(inputs.one("ensemble"), labelled, parameters)
            write_json(outputs.one("comparison") / "labels.json", doubts)
    write_json(outputs.one("comparison") / "comparison.json", results)
    log(
        f"mIoU with selected frames {_mean(results['miou_selected'])}, with random ones {_mean(results['miou_random'])}"
    )


def _with_labels(inputs: Paths, frames: "pd.DataFrame", store_url: str) -> "tuple[pd.DataFrame, int]":
    """Return the frames with their labels revealed, and how many labels are missing (a fleet labels no control group)."""
    import pandas as pd

    from perception.data.store import open_store
    from perception.data.tables import read_table
    from perception.quality.intake import ORACLE

    oracle, store = read_table(inputs.one("frames") / "oracle.parquet", ORACLE, key="frame_id"), open_store(store_url)
    labelled = frames.drop(columns=list(oracle.columns.drop("frame_id"))).merge(oracle, on="frame_id", how="left")
    missing = sum(1 for uri in labelled.label_uri if pd.isna(uri) or not store.exists(uri))
    return labelled.assign(split="train", label_source="human"), missing


def _groups(chosen: "pd.DataFrame") -> "list[pd.DataFrame]":
    """Return the frames of every draw of the control group; the strategy's, and no frames at all, are one group."""
    return [group for _, group in chosen.groupby("draw")] if "draw" in chosen and len(chosen) else [chosen]


def _train_and_score(
    groups: "Sequence[pd.DataFrame]",
    val: "pd.DataFrame",
    arm: str,
    start: "Callable[[int], nn.Module]",
    parameters: CompareParameters,
) -> list[float]:
    """Train a network for each repetition, on the groups in turn; both arms start a repetition from the same weights."""
    scores = []
    for repetition in range(parameters.seeds):
        network = start(repetition)
        frames = open_frames(groups[repetition % len(groups)], parameters)
        settings = train_settings(parameters, seed_offset=repetition)
        train(network, frames, settings, parameters, what=f"compare {arm}")
        scores.append(network_miou(network, val, parameters))
    return scores


def _start(ensemble: Path, parameters: CompareParameters, repetition: int) -> "nn.Module":
    """Return the network that a repetition starts from: a new one, or a member of the ensemble with a frozen encoder."""
    from perception.models.checkpoint import load_network
    from perception.models.frozen import freeze_encoder
    from perception.training.setup import seeded

    if parameters.trained == "network":
        return seeded(partial(new_network, parameters), parameters.seed + repetition)
    members = sorted(ensemble.glob("member_*.safetensors"))
    network = load_network(members[repetition % len(members)], networks_of(parameters))
    freeze_encoder(network)
    return network


def _mean(scores: list[float] | None) -> str:
    return f"{sum(scores) / len(scores):.3f}" if scores else "not measured"


STAGE = Stage(
    name="compare",
    summary="Spend the same budget by the strategy and at random, and compare the networks that learn from it.",
    inputs=(
        FRAMES,
        BASE,
        Port(name="ensemble", about="the ensemble that scored the pool, which doubts some labels"),
        Port(name="selection", about="the chosen frames and the random control group"),
    ),
    outputs=(
        Port(name="comparison", about="comparison.json: mIoU of both arms; labels.json: which labels to look at again"),
    ),
    parameters=CompareParameters,
    needs=training_needs(timeout_minutes=240),
    run=run,
)
