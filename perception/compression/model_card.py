"""The model card: what a person wants to know of a network file before using it."""

from collections.abc import Mapping, Sequence
from typing import Any

from perception.compression.cost import Latency


def latency_by_batch(rows: Sequence[Latency]) -> dict[str, dict[str, dict[str, float]]]:
    """Arrange latencies as batch size → model → median_ms, spread_ms, and frames_per_second at the median."""
    arranged: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        arranged.setdefault(str(row.batch_frames), {})[row.model] = {
            "median_ms": row.median_ms,
            "spread_ms": row.spread_ms,
            "frames_per_second": 1e3 * row.batch_frames / row.median_ms,
        }
    return arranged


def neurons_removed_percent(layers: Sequence[Mapping[str, Any]]) -> float:
    """Give the share of output channels that left: layers have `before` and `after`; 0 where there is none."""
    before = sum(int(layer["before"]) for layer in layers)
    return 100 * (1 - sum(int(layer["after"]) for layer in layers) / before) if before else 0.0


def card_markdown(card: Mapping[str, Any]) -> str:
    """Write the card of components/compress.py as a page of Markdown.

    card: input [channel, height_px, width_px], opset, parameters, macs and bytes, each with its `_dense` counterpart,
    miou, precision, neurons_removed_percent, closed_branches (names), layers (of low_rank.LayerChoice), contracted_layers,
    contraction_max_abs_error, export_max_abs_error, latency_ms_by_batch, device (where it was measured), the sha256 of
    both files, data_manifest_sha256, code_commit and image.
    """
    channels, height, width = card["input"]
    sizes = [
        f"| {what} | {card[f'{name}_dense']:,} | {card[name]:,} | {card[f'{name}_dense'] / card[name]:.2f} |"
        for what, name in (
            ("parameters", "parameters"),
            ("multiply-accumulates", "macs"),
            ("bytes of the ONNX file", "bytes"),
        )
    ]
    times = [
        f"| ms a batch of {batch} | {each['dense']['median_ms']:.2f} | {each['model']['median_ms']:.2f} | "
        f"{each['dense']['median_ms'] / each['model']['median_ms']:.2f} |"
        for batch, each in sorted(card["latency_ms_by_batch"].items(), key=lambda item: int(item[0]))
    ]
    facts = {
        "input": f"{channels} x {height} x {width} float32 in [0, 1], any number of frames; opset {card['opset']}",
        "precision": card["precision"],
        "mIoU on the frozen test set": f"{card['miou']:.4f}",
        "latency": f"measured {card['device']}",
        "data": f"manifest sha256 {card['data_manifest_sha256']}",
        "code": card["code_commit"] or "unknown",
        "image": card["image"] or "none: a local run",
        "neurons removed": f"{card['neurons_removed_percent']:.1f} %",
        "residual branches closed": ", ".join(card["closed_branches"]) or "none",
        "low-rank layers": _ranks(card["layers"]),
        "contracted layers": f"{card['contracted_layers']}, largest difference {card['contraction_max_abs_error']:.1e}",
        "ONNX against torch": f"largest difference {card['export_max_abs_error']:.1e}",
        "model.onnx": f"sha256 {card['onnx_sha256']}",
        "model.safetensors": f"sha256 {card['weights_sha256']}",
    }
    lines = ["# Model card", "", *[f"- {name}: {value}" for name, value in facts.items()], ""]
    lines += ["| | dense | this network | ratio |", "|---|---:|---:|---:|", *sizes, *times, ""]
    return "\n".join(lines)


def _ranks(layers: Sequence[Mapping[str, Any]]) -> str:
    pairs = [layer for layer in layers if layer["choice"] != "dense"]
    named = ", ".join(f"{each['layer']} {each['choice']} {each['rank']}/{each['full_rank']}" for each in pairs)
    return named or f"none of {len(layers)}"
