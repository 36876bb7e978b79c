"""What a night found out about its data version, as plain values that the registry keeps with it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from components.propose.parameters import ProposeParameters
from components.stage.declaration import Paths
from components.stage.records import read_records

Json = dict[str, Any]
SHOWN_ROWS = 8  # offending rows of a broken rule that are kept
_NETWORK_FILES = ("model.onnx", "model.safetensors", "card.json", "latency.json")
_EVALUATION = (
    *("miou", "iou_by_class", "miou_by_condition", "frames", "frames_by_condition", "miou_champion", "comparison"),
    *("promotion", "failures", "failure_rule", "failure_rate_upper_95"),
)
_MODEL_FIGURES = ("parameters", "parameters_dense", "macs", "macs_dense", "bytes", "bytes_dense")


def gather_evidence(inputs: Paths, parameters: ProposeParameters) -> Json:
    """Return gates, evaluation, network, selection story, doubted labels, cost and lineage of the night so far."""
    card = _figures(inputs, "compressed", "card.json")
    return {
        "run": parameters.run,
        "profile": parameters.profile,
        "gates": [_verdict(read_json(folder / "verdict.json")) for folder in inputs.many("verdicts")],
        "evaluation": _evaluation(inputs),
        "model": _network(inputs, card),
        "selection": _selection(inputs),
        "labels": _figures(inputs, "comparison", "labels.json") or None,
        "cost": _cost(),
        "lineage": {name: str(card[name]) for name in ("code_commit", "image", "onnx_sha256") if card.get(name)},
    }


def read_json(path: Path) -> Json:
    """Read a JSON file that a stage may have written; empty where it did not."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


@contextmanager
def network_files(inputs: Paths) -> Iterator[Path | None]:
    """Give a folder with the network that the night would release, and the failures that the next night looks for."""
    compressed, evaluation = inputs.maybe("compressed"), inputs.maybe("evaluation")
    if compressed is None:
        yield None
        return
    found = [compressed / name for name in _NETWORK_FILES]
    found += [evaluation / "query.json"] if evaluation else []
    with tempfile.TemporaryDirectory() as scratch:
        for path in found:
            if path.exists():
                shutil.copyfile(path, Path(scratch) / path.name)
        yield Path(scratch)


def _figures(inputs: Paths, port: str, file: str) -> Json:
    folder = inputs.maybe(port)
    return read_json(folder / file) if folder else {}


def _verdict(verdict: Json) -> Json:
    kept = ("suite", "suite_sha256", "decision", "rows", "checked")
    failed = [failure | {"frames": failure["frames"][:SHOWN_ROWS]} for failure in verdict["failed"]]
    return {name: verdict[name] for name in kept} | {"failed": failed}


def _evaluation(inputs: Paths) -> Json | None:
    figures = _figures(inputs, "evaluation", "evaluation.json")
    return {name: figures[name] for name in _EVALUATION if name in figures} or None


def _network(inputs: Paths, card: Json) -> Json | None:
    if not card:
        return None
    latency = _figures(inputs, "compressed", "latency.json")
    figures = {name: card.get(name) for name in _MODEL_FIGURES}
    return {
        **{name: value for name, value in figures.items() if name.endswith("_dense")},
        **{f"{name}_compressed": value for name, value in figures.items() if not name.endswith("_dense")},
        "latency_ms_dense": latency.get("dense", {}).get("median_ms"),
        "latency_ms_compressed": latency.get("model", {}).get("median_ms"),
    }


def _selection(inputs: Paths) -> Json | None:
    folder = inputs.maybe("selection")
    if folder is None:
        return None
    selected = pd.read_parquet(folder / "selected.parquet")
    comparison = _figures(inputs, "comparison", "comparison.json")
    story = read_json(folder / "selection.json")
    return {
        **{name: story.get(name) for name in ("strategy", "budget_frames", "pool_frames", "model_sha256")},
        "selected_frames": len(selected),
        "measure": str(selected.measure.iloc[0]) if "measure" in selected and len(selected) else None,
        "miou_selected": comparison.get("miou_selected"),
        "miou_random": comparison.get("miou_random"),
    }


def _cost() -> Json:
    records = read_records()
    if not records:
        return {}
    stages = sorted(records, key=lambda record: -record["seconds"])
    return {
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "stages": [{"name": record["name"], "seconds": record["seconds"]} for record in stages],
    }
