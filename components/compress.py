"""compress: turn the pruned network into the one that ships: low rank where that is faster, exported to ONNX, measured."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract import Needs, Paths, Port, Stage, log
from components.learning import write_json
from components.parameters import require

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class CompressParameters:
    """Say how far the network may be compressed and how its latency is measured."""

    height_px: int  # input size of the exported network
    width_px: int
    energy: float = 0.98  # share of the sum of singular values that a factorised layer keeps
    choose_by: str = "parameters"  # which layers become pairs: where it saves parameters, or where it is measured to save latency
    latency_repeats: int = 30  # measurements of each network, interleaved; the median counts
    threads: int = 1  # of onnxruntime while it is measured

    def __post_init__(self) -> None:
        require(0 < self.energy <= 1, "energy", self.energy, "must lie in (0, 1]")
        require(self.choose_by in ("parameters", "latency"), "choose_by", self.choose_by, "must be parameters or latency")
        require(self.latency_repeats >= 3, "latency_repeats", self.latency_repeats, "must be at least 3")
        require(self.threads >= 1, "threads", self.threads, "must be at least 1")


def run(inputs: Paths, outputs: Paths, parameters: CompressParameters) -> None:
    """Factorise, export, measure; write model.onnx, dense.onnx, the weights and card.json."""
    from perception.compression.cost import measure_latency_ms
    from perception.compression.export import export_onnx, fold_batchnorm
    from perception.models.checkpoint import load_network, save_network

    folder, size = outputs.one("compressed"), (parameters.height_px, parameters.width_px)
    dense, pruned = (load_network(inputs.one("network") / f"{name}.safetensors") for name in ("dense", "pruned"))
    network, choices = _factorise(pruned, parameters)
    sha256 = save_network(network, folder / "model.safetensors", {"shrunk_by": "pruning and low rank"})
    exports = {
        "model": export_onnx(fold_batchnorm(network), folder / "model.onnx", *size),
        "dense": export_onnx(fold_batchnorm(dense), folder / "dense.onnx", *size),
    }
    paths = {name: export.path for name, export in exports.items()}
    latency = measure_latency_ms(paths, repeats=parameters.latency_repeats, threads=parameters.threads)
    card = _model_card(network, dense, exports, parameters) | {"layers": choices, "weights_sha256": sha256}
    write_json(folder / "card.json", card)
    write_json(folder / "latency.json", {item.model: {"median_ms": item.median_ms, "spread_ms": item.spread_ms} for item in latency})
    _gate_rows(card).to_parquet(folder / "gate.parquet", index=False)
    log(f"{card['parameters']:,} parameters; " + ", ".join(f"{item.model} {item.median_ms:.1f} ms" for item in latency))


def _factorise(network: Any, parameters: CompressParameters) -> tuple[Any, list[dict[str, Any]]]:
    import dataclasses

    import torch

    from perception.compression.low_rank import factorise_by_energy, factorise_by_latency

    example = torch.zeros(1, 3, parameters.height_px, parameters.width_px)
    network.eval()
    if parameters.choose_by == "latency":
        found = factorise_by_latency(network, example, parameters.energy)
    else:
        found = factorise_by_energy(network, parameters.energy)
    return found.network.eval(), [dataclasses.asdict(choice) for choice in found.layers]


def _model_card(network: Any, dense: Any, exports: dict[str, Any], parameters: CompressParameters) -> dict[str, Any]:
    from perception.compression.cost import count_macs, count_parameters

    shape = (3, parameters.height_px, parameters.width_px)
    return {
        "input": list(shape),
        "opset": exports["model"].opset,
        "parameters": count_parameters(network),
        "parameters_dense": count_parameters(dense),
        "macs": count_macs(network, shape),
        "macs_dense": count_macs(dense, shape),
        "bytes": exports["model"].bytes,
        "bytes_dense": exports["dense"].bytes,
        "export_max_abs_error": exports["model"].max_abs_error,
        "export_relative_error": exports["model"].relative_error,
        "onnx_sha256": exports["model"].sha256,
    }


def _gate_rows(card: dict[str, Any]) -> "pd.DataFrame":
    """Return the figures that the gate judges."""
    from perception.quality.metrics_table import metric_rows

    return metric_rows(
        [
            {"stage": "compress", "metric": "export_relative_error", "value": card["export_relative_error"], "lower": 0.0, "upper": 1e-4},
            {"stage": "compress", "metric": "parameters", "value": card["parameters"], "lower": 1, "upper": card["parameters_dense"]},
        ]
    )


STAGE = Stage(
    name="compress",
    summary="Factorise, export to ONNX and measure the network that ships.",
    inputs=(Port(name="network", kind="network", about="dense and pruned weights"),),
    outputs=(Port(name="compressed", kind="network", about="model.onnx, dense.onnx, weights, model card and latency"),),
    parameters=CompressParameters,
    needs=Needs(image="torch", cpu_cores=2, memory_gib=4),
    run=run,
)
