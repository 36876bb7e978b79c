"""train_prune: train the night's network, and let it lose neurons while it learns."""

import copy
import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from components.stage.declaration import BASE, FRAMES, Paths, Port, Stage
from components.stage.learning import (
    TAUGHT_FILE,
    LearningParameters,
    by_all_processes,
    class_names,
    curated_training_frames,
    deciding_frames,
    gate_rows,
    network_miou,
    networks_of,
    open_frames,
    provenance,
    read_frames,
    train,
    train_settings,
    training_needs,
    write_json,
)
from components.stage.parameters import shared_fields
from components.stage.records import log
from components.stage.starting import Start, find_start
from perception.parameters import (
    BrokenRule,
    Count,
    CountOrZero,
    Fraction,
    Positive,
    Share,
    ShareFromZero,
    ShareToOne,
    checked,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from perception.compression.aware_training import ShrinkSettings
    from perception.data.loading import FrameSet
    from perception.training.loop import Loss, TrainSettings


@checked
class TrainPruneParameters(LearningParameters):
    """Say how the network is trained and how hard it is pressed to lose neurons."""

    human_share: Share = 0.5  # share of an epoch's frames that carry human labels
    press_epochs: Count  # epochs that end with a proximal step; after the last one the network is pruned and learns on
    pruned_epochs: CountOrZero = 0  # of the pruned network, whose later epochs cost less; 0: as many as the dense one's
    pruned_rate_factor: Positive = 1.0  # of learning_rate, for the pruned network, which has to find its way anew
    # of the pruned network's loss: what the dense network says of every pixel, labelled or not; the labels have the rest
    taught_share: Fraction = 0.0
    press_share: Share = 0.08  # of the median neuron norm that one proximal step takes
    press_by_cost: Fraction = 0.0  # power of a neuron's cost by which it is pressed harder than a cheap one; 0: alike
    sparse_share: ShareFromZero = 0.0  # alpha: 0 presses on whole neurons, 1 on single weights
    # times that neurons leave while the network is pressed, evenly spaced; the last ends the pressing
    reloads: Count = 1
    # of the dense network's modelled latency that may be left; 1: only zeroed neurons leave
    latency_share: ShareToOne = 1.0
    # the model: blocks of multiplications (repeatable), or measured in onnxruntime here
    latency_by: Literal["blocks", "measured"] = "blocks"
    multiple_of: Count = 8  # neurons leave in such numbers: kernels compute as many channels at once
    # with a neuron: its own worth, or its share of what its layer has left, which close_branches wants
    lost: Literal["sum", "share"] = "sum"
    # what a neuron is worth for latency_share: its norm, or its estimated share in the loss
    importance: Literal["norm", "loss"] = "norm"
    close_branches: bool = False  # whole residual branches may leave too, so that the network gets shallower
    minimum_channels: Count = 4  # every layer keeps at least so many
    max_loss_ratio: float = 2.0  # to the dense network's training loss; the gate refuses a pruned one that learned less
    max_miou_loss: float = 0.1  # against the dense network; the gate refuses a pruned one that loses more

    def __post_init__(self) -> None:
        epochs = self.pruned_epochs or self.epochs
        if self.press_epochs >= epochs:
            rule = f"must lie in 1..{epochs - 1}, below the epochs of the pruned network"
            raise BrokenRule("press_epochs", self.press_epochs, rule)
        if self.reloads > self.press_epochs:
            raise BrokenRule("reloads", self.reloads, f"must lie in 1..{self.press_epochs}")


@by_all_processes
def run(inputs: Paths, outputs: Paths, parameters: TrainPruneParameters) -> None:
    """Train a dense network and go on from it, on the same frames, to one that loses neurons meanwhile; write both.

    Where nothing is pruned the dense network is written twice.
    """
    from perception.models.checkpoint import save_network

    folder = outputs.one("network")
    frames = open_frames(training_frames(inputs, parameters), parameters)
    _teachers(inputs).to_parquet(folder / TAUGHT_FILE, index=False)
    settings = train_settings(parameters)
    val = deciding_frames(read_frames(inputs))
    about = {"trained_on": "curated, simulator and pseudo-labelled frames"}
    about["classes"] = json.dumps(class_names(parameters.taxonomy))

    dense, start = _starting_network(inputs, parameters)
    networks = networks_of(parameters)
    figures: dict[str, Any] = {"started_from": start.started_from, "start_reason": start.reason}
    figures["started_from_model"] = start.model_sha256
    figures["miou_start"] = network_miou(dense, val, parameters)
    log(f"starts from {start.started_from}: {start.reason}; mIoU {figures['miou_start']:.3f}")
    history = {"dense": train(dense, frames, settings, parameters, what="train the dense network")}
    save_network(dense, folder / "dense.safetensors", about, networks)

    structure: dict[str, Any] = {"layers": [], "closed_branches": []}
    pruned = copy.deepcopy(dense)
    if parameters.prune == "neurons":
        history["pruned"], structure = _train_pruned(pruned, dense, frames, settings, parameters)
    else:
        history["pruned"] = history["dense"]
    save_network(pruned, folder / "pruned.safetensors", about, networks)

    figures |= _figures_of(dense, "dense", val, parameters) | _figures_of(pruned, "pruned", val, parameters)
    losses = {name: [record.loss for record in records] for name, records in history.items()}
    origin = provenance(inputs.one("curated") / "version" / "manifest.parquet")
    write_json(folder / "network.json", figures | origin | structure | {"loss": losses})
    _gate_rows(figures, losses, parameters).to_parquet(folder / "gate.parquet", index=False)
    log(f"parameters {figures['parameters_dense']:,} dense, {figures['parameters_pruned']:,} pruned")


def _starting_network(inputs: Paths, parameters: TrainPruneParameters) -> "tuple[nn.Module, Start]":
    """Return the student of adapt, which started from brought weights or from scratch, with the released weights where they fit."""
    from perception.data.tables import read_record
    from perception.models.checkpoint import load_network
    from perception.reporting.records import Adaptation

    network = load_network(inputs.one("adaptation") / "student.safetensors", networks_of(parameters))
    adaptation = read_record(inputs.one("adaptation") / "adaptation.json", Adaptation)
    student = Start(started_from=adaptation.started_from, state=network.state_dict())
    start = find_start(parameters.start_from, inputs.one("base"), network, parameters.taxonomy, student)
    network.load_state_dict(start.state)
    return network, start


def training_frames(inputs: Paths, parameters: TrainPruneParameters) -> "pd.DataFrame":
    """Return the rows to learn from: simulator and pseudo-labelled frames, and human-labelled ones to their share.

    What there is too little of for the share is repeated, human-labelled frames or the others.
    """
    from perception.adaptation.foreground_training import mixed_rows

    return mixed_rows(_uncurated(inputs), curated_training_frames(inputs), 1 - parameters.human_share, parameters.seed)


def _uncurated(inputs: Paths) -> "pd.DataFrame":
    """Return the simulator's and the pseudo-labelled frames, from which the student learnt as well."""
    import pandas as pd

    from perception.data.manifest import read_manifest

    frames = read_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    pseudo = read_manifest(inputs.one("adaptation") / "pseudo" / "manifest.parquet")
    return pd.concat([simulator, pseudo], ignore_index=True)


def _teachers(inputs: Paths) -> "pd.DataFrame":
    """Return every frame that taught the network or the student that it may start from: frame_id, drive_id, label_source, label_uri."""
    import pandas as pd

    rows = pd.concat([_uncurated(inputs), curated_training_frames(inputs)], ignore_index=True)
    return (
        rows[["frame_id", "drive_id", "label_source", "label_uri"]]
        .drop_duplicates()
        .sort_values(["frame_id", "label_source"])
    )


def _train_pruned(
    network: Any, dense: Any, frames: "FrameSet", settings: "TrainSettings", parameters: TrainPruneParameters
) -> tuple[list[Any], dict[str, Any]]:
    """Train with a proximal step after every pressed epoch and the neurons' leave at the reloads; also tell what left.

    The dense network teaches where taught_share says so.
    """
    import torch

    from perception.compression.aware_training import CompressionAwareTraining

    example = torch.zeros(1, 3, parameters.height_px, parameters.width_px)
    rate = parameters.pruned_rate_factor * parameters.learning_rate
    hooks = CompressionAwareTraining(network, example, rate, _shrink_settings(parameters))
    records = train(
        network,
        frames,
        replace(settings, epochs=parameters.pruned_epochs or parameters.epochs, learning_rate=rate),
        parameters,
        what="train and prune",
        loss=_loss_of(dense, frames, settings, parameters) if parameters.taught_share else None,
        after_epoch=hooks.after_epoch,
        keeps_state=False,  # what has left, and by which norms, is in no state file
    )
    removals = [record.removed for record in hooks.records if record.removed]
    after = {item.layer: item.channels_after for removed in removals for item in removed}
    layers = [{"layer": item.layer, "before": item.channels_before, "after": after[item.layer]} for item in removals[0]]
    return records, {"layers": layers, "closed_branches": [name for record in hooks.records for name in record.closed]}


def _loss_of(teacher: Any, frames: "FrameSet", settings: "TrainSettings", parameters: TrainPruneParameters) -> "Loss":
    """Return the loss by which a network learns from labels and teacher."""
    import torch

    from perception.compression.export import fold_batchnorm
    from perception.training.losses import class_weights, pixel_counts
    from perception.training.taught import taught_loss

    weights = torch.as_tensor(class_weights(pixel_counts(frames)), dtype=torch.float32, device=settings.device)
    folded = fold_batchnorm(teacher.eval()).to(settings.device)  # says the same in a tenth less time
    return partial(taught_loss, teacher=folded, share=parameters.taught_share, weights=weights)


def _shrink_settings(parameters: TrainPruneParameters) -> "ShrinkSettings":
    from perception.compression.aware_training import ShrinkSettings

    epochs, reloads = parameters.press_epochs, parameters.reloads
    return shared_fields(
        ShrinkSettings,
        parameters,
        strength_share=parameters.press_share,
        alpha=parameters.sparse_share,
        reload_epochs=tuple(epochs * number // reloads - 1 for number in range(1, reloads + 1)),
        target_cost_share=parameters.latency_share if parameters.latency_share < 1 else None,
        costs=parameters.latency_by,
        strength_by_cost=parameters.press_by_cost,
    )


def _figures_of(network: Any, name: str, val: "pd.DataFrame", parameters: TrainPruneParameters) -> dict[str, Any]:
    import torch

    from perception.compression.cost import count_macs, count_parameters

    network.eval()
    shape, weights = (3, parameters.height_px, parameters.width_px), network.state_dict().values()
    return {
        f"parameters_{name}": count_parameters(network),
        f"macs_{name}": count_macs(network, shape),
        f"miou_{name}": network_miou(network, val, parameters),
        f"nonfinite_weights_{name}": sum(int((~torch.isfinite(each)).sum()) for each in weights),
    }


def _gate_rows(
    figures: dict[str, Any], losses: dict[str, list[float]], parameters: TrainPruneParameters
) -> "pd.DataFrame":
    """Return the figures that the gate judges: training converged, and pruning removed neurons without ruining the network."""
    return gate_rows(
        "train_prune",
        ("nonfinite_weights", figures["nonfinite_weights_pruned"], 0, 0),
        ("loss_pruned", losses["pruned"][-1], 0, parameters.max_loss_ratio * losses["dense"][-1]),
        ("parameters_pruned", figures["parameters_pruned"], 1, figures["parameters_dense"]),
        ("miou_pruned", figures["miou_pruned"], max(0.0, figures["miou_dense"] - parameters.max_miou_loss), 1),
    )


STAGE = Stage(
    name="train_prune",
    summary="Train the night's network while it loses the neurons that it does not need.",
    inputs=(
        FRAMES,
        BASE,
        Port(name="curated", about="the curated frames with human labels"),
        Port(
            name="adaptation", about="the network to start from where none is released, and the pseudo-labelled frames"
        ),
    ),
    outputs=(Port(name="network", about="dense and pruned weights, and how they were trained", gate_table=True),),
    parameters=TrainPruneParameters,
    needs=training_needs(timeout_minutes=480),
    run=run,
)
