"""train_prune: train the night's network, and let it lose neurons while it learns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log
from components.learning import LearningParameters, read_frames, write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class TrainPruneParameters(LearningParameters):
    """Say how the network is trained and how hard it is pressed to lose neurons."""

    human_share: float = 0.5  # share of an epoch's frames that carry human labels
    press_epochs: int  # epochs that end with a proximal step; then the zeroed neurons leave and the rest learns on
    press_share: float = 0.08  # of the median neuron norm that one proximal step takes
    sparse_share: float = 0.0  # alpha: 0 presses on whole neurons, 1 on single weights
    minimum_channels: int = 4  # every layer keeps at least so many

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.human_share < 1, "human_share", self.human_share, "must lie in (0, 1)")
        require(0 < self.press_epochs < self.epochs, "press_epochs", self.press_epochs, f"must lie in 1..{self.epochs - 1}, below epochs")
        require(self.press_share > 0, "press_share", self.press_share, "must be above 0")
        require(0 <= self.sparse_share <= 1, "sparse_share", self.sparse_share, "must lie in [0, 1]")
        require(self.minimum_channels >= 1, "minimum_channels", self.minimum_channels, "must be at least 1")


def run(inputs: Paths, outputs: Paths, parameters: TrainPruneParameters) -> None:
    """Train a dense network and, from the same start on the same frames, one that is pruned while it trains; write both."""
    from perception.models.checkpoint import load_network, save_network

    parameters.prepare()
    folder = outputs.one("network")
    frames = parameters.frame_set(training_frames(inputs, parameters))
    start = inputs.one("adaptation") / "student.safetensors"

    dense = load_network(start)
    history = {"dense": parameters.train(dense, frames, what="train the dense network")}
    save_network(dense, folder / "dense.safetensors", {"trained_on": "curated, simulator and pseudo-labelled frames"})

    pruned = load_network(start)
    history["pruned"], layers = _train_pruned(pruned, frames, parameters)
    save_network(pruned, folder / "pruned.safetensors", {"trained_on": "curated, simulator and pseudo-labelled frames"})

    figures = _figures(dense, pruned, layers, inputs, parameters)
    write_json(folder / "network.json", figures | {"loss": {name: [record.loss for record in records] for name, records in history.items()}})
    _gate_rows(figures, history).to_parquet(folder / "gate.parquet", index=False)
    log(f"parameters {figures['parameters_dense']:,} dense, {figures['parameters_pruned']:,} pruned")


def training_frames(inputs: Paths, parameters: TrainPruneParameters) -> "pd.DataFrame":
    """Return the rows to learn from: simulator and pseudo-labelled frames, and human-labelled ones repeated to their share."""
    import pandas as pd

    from perception.data.manifest import read_manifest

    frames = read_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    pseudo = read_manifest(inputs.one("adaptation") / "pseudo" / "manifest.parquet")
    human = read_manifest(inputs.one("curated") / "manifest.parquet")
    others = len(simulator) + len(pseudo)
    repeats = max(1, round(parameters.human_share / (1 - parameters.human_share) * others / len(human)))
    return pd.concat([simulator, pseudo, *[human] * repeats], ignore_index=True)


def _train_pruned(network: Any, frames: Any, parameters: TrainPruneParameters) -> tuple[list[Any], list[dict[str, Any]]]:
    """Train with a proximal step after every pressed epoch; after the last one the zeroed neurons leave for good."""
    import torch

    from perception.sparsity.groups import find_groups
    from perception.sparsity.proximal import calibrate_strength, proximal_step
    from perception.sparsity.removal import remove_zero_channels

    groups = find_groups(network, torch.zeros(1, 3, parameters.height_px, parameters.width_px))
    rate, alpha = parameters.learning_rate, parameters.sparse_share
    strength = calibrate_strength(groups, network, rate, parameters.press_share, alpha=alpha)
    layers: list[dict[str, Any]] = []

    def press(epoch: int, _network: Any, optimizer: Any) -> None:
        if epoch < parameters.press_epochs:
            proximal_step(groups, rate, strength, alpha)
        if epoch == parameters.press_epochs - 1:
            removal = remove_zero_channels(network, groups, minimum_channels=parameters.minimum_channels, optimizer=optimizer)
            layers.extend({"layer": item.layer, "before": item.channels_before, "after": item.channels_after} for item in removal.layers)

    return parameters.train(network, frames, what="train and prune", after_epoch=press), layers


def _figures(dense: Any, pruned: Any, layers: list[dict[str, Any]], inputs: Paths, parameters: TrainPruneParameters) -> dict[str, Any]:
    from perception.compression.cost import count_macs, count_parameters
    from perception.metrics.confusion import mean_iou
    from perception.training.loop import evaluate_segmentation

    frames = read_frames(inputs)
    test = parameters.frame_set(frames[frames.split == "test"])
    shape = (3, parameters.height_px, parameters.width_px)
    figures: dict[str, Any] = {"layers": layers}
    for name, network in (("dense", dense), ("pruned", pruned)):
        network.eval()
        figures |= {
            f"parameters_{name}": count_parameters(network),
            f"macs_{name}": count_macs(network, shape),
            f"miou_{name}": mean_iou(evaluate_segmentation(network, test, parameters.batch_frames)),
        }
    return figures


def _gate_rows(figures: dict[str, Any], history: dict[str, list[Any]]) -> "pd.DataFrame":
    """Return the figures that the gate judges."""
    from perception.quality.metrics_table import metric_rows

    return metric_rows(
        [
            {"stage": "train_prune", "metric": "loss_dense", "value": history["dense"][-1].loss, "lower": 0.0},
            {"stage": "train_prune", "metric": "loss_pruned", "value": history["pruned"][-1].loss, "lower": 0.0},
        ]
    )


STAGE = Stage(
    name="train_prune",
    summary="Train the night's network while it loses the neurons that it does not need.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="curated", kind="version", about="the curated frames with human labels"),
        Port(name="adaptation", kind="network", about="the network to start from, and the pseudo-labelled frames"),
    ),
    outputs=(Port(name="network", kind="network", about="dense and pruned weights, and how they were trained"),),
    parameters=TrainPruneParameters,
    needs=Needs(image="torch", cpu_cores=2, memory_gib=8, gpu_count=1, timeout_minutes=480),
    run=run,
)
