"""compress: turn the pruned network into the one that ships: low rank where that is faster, exported to ONNX, measured."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import (
    TAUGHT_FILE,
    NetworkParameters,
    class_names,
    deciding_frames,
    gate_rows,
    networks_of,
    open_frames,
    read_frames,
    write_json,
)
from components.stage.records import log
from perception.parameters import Count, ShareFromZero, ShareToOne, checked

if TYPE_CHECKING:
    import pandas as pd

    from perception.compression.cost import Latency
    from perception.compression.export import ExportReport

_ORIGIN = ("data_manifest_sha256", "code_commit", "image", "started_from_model")  # of the trained networks, told on


@checked
class CompressParameters(NetworkParameters):
    """Say how far the network may be compressed and how its latency is measured."""

    energy: ShareToOne = 0.98  # share of the sum of singular values that a factorised layer keeps
    # which layers become pairs: where it saves parameters, or where it is measured to save latency
    choose_by: Literal["parameters", "latency"] = "parameters"
    least_saving: ShareFromZero = 0.5  # by parameters: share of a layer's parameters that its pair must save
    # of what ships: int8 has 8 bits a weight and activation, for machines that are faster so; measure, and see what it costs
    precision: Literal["float32", "int8"] = "float32"
    calibration_frames: Count = 64  # of the val part, or of the pool where there is none, that show int8 its ranges
    latency_repeats: Annotated[int, Field(ge=3)] = 30  # measurements of each network, interleaved; the median counts
    latency_threads: Count = 1  # of onnxruntime while it is measured
    # words of a program that measures an ONNX file on the machine that it is for (docs/own_network.md); none: onnxruntime here
    latency_command: tuple[str, ...] = ()
    latency_batch_frames: Count = 4  # the model card tells the latency of one frame and of so many at once
    max_miou_loss: float = 0.05  # against the pruned network; the gate refuses a compressed one that loses more
    max_latency_ratio: float = 1.5  # to the dense network's; the gate refuses a compressed one that is slower


def run(inputs: Paths, outputs: Paths, parameters: CompressParameters) -> None:
    """Factorise, export, quantise where asked, measure; write model.onnx, dense.onnx, the weights of both, card.json and card.md."""
    from perception.compression.export import export_onnx, fold_batchnorm, input_metadata
    from perception.compression.model_card import card_markdown, latency_by_batch, neurons_removed_percent
    from perception.data.tables import read_record
    from perception.models.checkpoint import load_network, save_network
    from perception.reporting.records import TrainedNetworks
    from perception.training.setup import set_threads

    set_threads(parameters.threads)
    folder, size = outputs.one("compressed"), (parameters.height_px, parameters.width_px)
    networks, given = networks_of(parameters), inputs.one("network")
    dense, pruned = (load_network(given / f"{name}.safetensors", networks) for name in ("dense", "pruned"))
    for name in ("dense.safetensors", TAUGHT_FILE):  # told with the rest
        shutil.copyfile(given / name, folder / name)
    network, choices = _factorise(pruned, parameters)
    sha256 = save_network(network, folder / "model.safetensors", {"shrunk_by": "pruning and low rank"}, networks)
    metadata = input_metadata(parameters.taxonomy)
    exports = {
        "model": export_onnx(fold_batchnorm(network), folder / "model.onnx", *size, metadata=metadata),
        "dense": export_onnx(fold_batchnorm(dense), folder / "dense.onnx", *size, metadata=metadata),
    }
    frames = read_frames(inputs)
    if parameters.precision == "int8":
        exports["model"] = _quantised(exports["model"], frames, parameters)
    device, measured = _measured({name: export.path for name, export in exports.items()}, parameters)
    latency = [item for item in measured if item.batch_frames == 1]
    trained = read_record(inputs.one("network") / "network.json", TrainedNetworks)
    origin = {name: getattr(trained, name) for name in _ORIGIN}
    miou = _miou(folder / "model.onnx", deciding_frames(frames), parameters)
    card = _model_card(network, dense, exports, parameters) | origin
    card |= {
        "layers": choices,
        "weights_sha256": sha256,
        "miou": miou,
        "precision": parameters.precision,
        "device": device,
        "latency_ms_by_batch": latency_by_batch(measured),
        "neurons_removed_percent": neurons_removed_percent([vars(layer) for layer in trained.layers]),
        "closed_branches": trained.closed_branches,
    }
    write_json(folder / "card.json", card)
    (folder / "card.md").write_text(card_markdown(card))
    times = {item.model: {"median_ms": item.median_ms, "spread_ms": item.spread_ms} for item in latency}
    write_json(folder / "latency.json", times)
    latency_ms = {item.model: item.median_ms for item in latency}
    _gate_rows(card, latency_ms, trained.miou_pruned, parameters).to_parquet(folder / "gate.parquet", index=False)
    log(
        f"{card['parameters']:,} parameters, mIoU {miou:.3f}, {card['contracted_layers']} layers contracted with a largest "
        f"difference of {card['contraction_max_abs_error']:.1e}; "
        + ", ".join(f"{name} {ms:.1f} ms" for name, ms in latency_ms.items())
    )


def _factorise(network: Any, parameters: CompressParameters) -> tuple[Any, list[dict[str, Any]]]:
    import torch

    from perception.compression.low_rank import factorise_by_energy, factorise_by_latency

    example = torch.zeros(1, 3, parameters.height_px, parameters.width_px)
    network.eval()
    if parameters.choose_by == "latency":
        found = factorise_by_latency(network, example, parameters.energy)
    else:
        found = factorise_by_energy(network, parameters.energy, least_saving=parameters.least_saving)
    return found.network.eval(), [dataclasses.asdict(choice) for choice in found.layers]


def _quantised(report: "ExportReport", frames: "pd.DataFrame", parameters: CompressParameters) -> "ExportReport":
    """Write the exported network in int8, its ranges by frames spread evenly over the val part, or over the pool."""
    import numpy as np

    from perception.compression.quantise import quantise
    from perception.data.loading import image_batches

    shown = frames[frames.split == ("val" if (frames.split == "val").any() else "pool")]
    picked = np.unique(np.linspace(0, len(shown) - 1, parameters.calibration_frames).round().astype(int))
    opened = open_frames(shown.iloc[picked], parameters, labels_required=False)
    return quantise(report, (images.numpy() for _, images in image_batches(opened, 8)))


def _miou(model: Path, test: "pd.DataFrame", parameters: CompressParameters) -> float:
    """Return the mIoU of the exported network, which is what ships."""
    from perception.compression.export import onnx_predictor
    from perception.metrics.confusion import mean_iou
    from perception.metrics.segmentation import evaluate_frames

    predict, classes = onnx_predictor(model, parameters.threads), len(class_names(parameters.taxonomy))
    score = evaluate_frames(open_frames(test, parameters), test, predict, classes, columns=())
    return mean_iou(score.confusion)


def _measured(paths: dict[str, Path], parameters: CompressParameters) -> "tuple[str, list[Latency]]":
    """Return the device that measured, and a row for each network and batch size."""
    from perception.compression.cost import measure_latency_ms
    from perception.compression.target import measure_on_target

    batches, threads = sorted({1, parameters.latency_batch_frames}), parameters.latency_threads
    if parameters.latency_command:
        return measure_on_target(parameters.latency_command, paths, batch_sizes=batches)
    rows = measure_latency_ms(paths, batch_sizes=batches, repeats=parameters.latency_repeats, threads=threads)
    return f"where the night ran, onnxruntime, threads: {threads}", rows


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
        "contracted_layers": exports["model"].contracted_layers,
        "contraction_max_abs_error": exports["model"].contraction_error,
        "export_max_abs_error": exports["model"].max_abs_error,
        "export_relative_error": exports["model"].relative_error,
        "onnx_sha256": exports["model"].sha256,
    }


def _gate_rows(
    card: dict[str, Any], latency_ms: dict[str, float], miou_pruned: float, parameters: CompressParameters
) -> "pd.DataFrame":
    """Return the figures that the gate judges: the export says what the network says, and compression cost little."""
    slowest_ms = parameters.max_latency_ratio * latency_ms["dense"]
    least_miou = max(0.0, miou_pruned - parameters.max_miou_loss)
    return gate_rows(
        "compress",
        ("export_error", card["export_relative_error"], 0, 1e-4),
        ("parameters_compressed", card["parameters"], 1, card["parameters_dense"]),
        ("latency_ms_compressed", latency_ms["model"], 0, slowest_ms),
        ("miou_compressed", card["miou"], least_miou, 1),
    )


STAGE = Stage(
    name="compress",
    summary="Factorise, export to ONNX and measure the network that ships.",
    inputs=(
        Port(name="frames", about="the night's frames, for those that decide"),
        Port(name="network", about="dense and pruned weights"),
    ),
    outputs=(
        Port(name="compressed", about="model.onnx, dense.onnx, weights, model card and latency", gate_table=True),
    ),
    parameters=CompressParameters,
    needs=Needs(image="torch", loads="torch", cpu_cores=2, memory_gib=4),
    run=run,
)
