"""train_prune: train the night's network, and let it lose neurons while it learns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log
from components.learning import LearningParameters, curated_training_frames, provenance, read_frames, write_json
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
    max_loss_ratio: float = 2.0  # to the dense network's training loss; the gate refuses a pruned one that learned less
    max_miou_loss: float = 0.1  # against the dense network; the gate refuses a pruned one that loses more

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.human_share < 1, "human_share", self.human_share, "must lie in (0, 1)")
        require(
            0 < self.press_epochs < self.epochs,
            "press_epochs",
            self.press_epochs,
            f"must lie in 1..{self.epochs - 1}, below epochs",
        )
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

    everything = read_frames(inputs)
    test = everything[everything.split == "test"].reset_index(drop=True)
    figures = _figures_of(dense, "dense", test, parameters) | _figures_of(pruned, "pruned", test, parameters)
    losses = {name: [record.loss for record in records] for name, records in history.items()}
    origin = provenance(inputs.one("curated") / "version" / "manifest.parquet")
    write_json(folder / "network.json", figures | origin | {"loss": losses, "layers": layers})
    _gate_rows(figures, losses, parameters).to_parquet(folder / "gate.parquet", index=False)
    log(f"parameters {figures['parameters_dense']:,} dense, {figures['parameters_pruned']:,} pruned")


def training_frames(inputs: Paths, parameters: TrainPruneParameters) -> "pd.DataFrame":
    """Return the rows to learn from: simulator and pseudo-labelled frames, and human-labelled ones repeated to their share."""
    import pandas as pd

    from perception.data.manifest import read_manifest

    frames = read_frames(inputs)
    simulator = frames[(frames.domain == "synthetic") & (frames.split == "train")]
    pseudo = read_manifest(inputs.one("adaptation") / "pseudo" / "manifest.parquet")
    human = curated_training_frames(inputs)
    others = len(simulator) + len(pseudo)
    repeats = max(1, round(parameters.human_share / (1 - parameters.human_share) * others / len(human)))
    return pd.concat([simulator, pseudo, *[human] * repeats], ignore_index=True)


def _train_pruned(
    network: Any, frames: Any, parameters: TrainPruneParameters
) -> tuple[list[Any], list[dict[str, Any]]]:
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
            removal = remove_zero_channels(
                network, groups, minimum_channels=parameters.minimum_channels, optimizer=optimizer
            )
            layers.extend(
                {"layer": item.layer, "before": item.channels_before, "after": item.channels_after}
                for item in removal.layers
            )

    return parameters.train(network, frames, what="train and prune", after_epoch=press), layers


def _figures_of(network: Any, name: str, test: "pd.DataFrame", parameters: TrainPruneParameters) -> dict[str, Any]:
    import torch

    from perception.compression.cost import count_macs, count_parameters

    network.eval()
    shape = (3, parameters.height_px, parameters.width_px)
    return {
        f"parameters_{name}": count_parameters(network),
        f"macs_{name}": count_macs(network, shape),
        f"miou_{name}": parameters.miou(network, test),
        f"nonfinite_weights_{name}": sum(
            int((~torch.isfinite(weight)).sum()) for weight in network.state_dict().values()
        ),
    }


def _gate_rows(
    figures: dict[str, Any], losses: dict[str, list[float]], parameters: TrainPruneParameters
) -> "pd.DataFrame":
    """Return the figures that the gate judges: training converged, and pruning removed neurons without ruining the network."""
    from perception.quality.metrics_table import metric_rows

    rows: list[tuple[str, float, float, float]] = [
        ("nonfinite_weights", figures["nonfinite_weights_pruned"], 0, 0),
        ("loss_pruned", losses["pruned"][-1], 0, parameters.max_loss_ratio * losses["dense"][-1]),
        ("parameters_pruned", figures["parameters_pruned"], 1, figures["parameters_dense"]),
        ("miou_pruned", figures["miou_pruned"], max(0.0, figures["miou_dense"] - parameters.max_miou_loss), 1),
    ]
    return metric_rows(
        {"stage": "train_prune", "metric": name, "value": float(value), "lower": float(lower), "upper": float(upper)}
        for name, value, lower, upper in rows
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
    needs=Needs(
        image="torch",
        loads="torch",
        cpu_cores=2,
        memory_gib=8,
        gpu_count=1,
        timeout_minutes=480,
        shared_memory_gib=8,
        distributed=True,
    ),
    run=run,
)
