"""What a night found out about its data version, as plain values that the registry keeps with it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from components.stage.declaration import Paths
from components.stage.records import own_work, read_records, work_seconds
from perception.data.tables import read_record, read_table
from perception.quality.gate import Verdict
from perception.reporting import records

Json = dict[str, Any]
Record = TypeVar("Record")
SHOWN_ROWS = 8  # offending rows of a broken rule that are kept
_NETWORK_FILES = ("model.onnx", "model.safetensors", "dense.safetensors", "card.json", "latency.json")
_EVALUATION = (
    *("miou", "iou_by_class", "miou_by_condition", "frames", "frames_by_condition", "miou_champion", "comparison"),
    *("promotion", "failures", "failure_rule", "failure_rate_upper_95"),
)
_ORIGIN = ("code_commit", "image", "onnx_sha256", "started_from_model")
_VERDICT = ("suite", "suite_sha256", "decision", "rows", "checked")


def gather_evidence(inputs: Paths, run: str, profile: str) -> Json:
    """Return gates, evaluation, network, selection story, doubted labels, cost and lineage of the night so far."""
    card = _read(inputs, "compressed", "card.json", records.Card)
    origin = {name: getattr(card, name) for name in _ORIGIN} if card else {}
    return {
        "run": run,
        "profile": profile,
        "gates": _verdicts(inputs),
        "evaluation": _evaluation(inputs),
        "model": _network(inputs, card),
        "selection": _selection(inputs),
        "labels": _doubts(inputs),
        "cost": _cost(),
        "lineage": {name: value for name, value in origin.items() if value},
    }


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


def _read(inputs: Paths, port: str, file: str, kind: type[Record]) -> Record | None:
    folder = inputs.maybe(port)
    return read_record(folder / file, kind) if folder else None


def _verdicts(inputs: Paths) -> list[Json]:
    found = []
    for folder in inputs.many("verdicts"):
        verdict = read_record(folder / "verdict.json", Verdict)
        failed = [asdict(failure) | {"frames": failure.frames[:SHOWN_ROWS]} for failure in verdict.failed]
        found.append({name: getattr(verdict, name) for name in _VERDICT} | {"failed": failed})
    return found


def _evaluation(inputs: Paths) -> Json | None:
    figures = _read(inputs, "evaluation", "evaluation.json", records.Evaluation)
    return {name: value for name, value in figures.items() if name in _EVALUATION} if figures else None


def _network(inputs: Paths, card: records.Card | None) -> Json | None:
    if card is None:
        return None
    latency = read_record(inputs.one("compressed") / "latency.json", records.Latencies)
    names = ("parameters", "macs", "bytes")
    return {
        **{f"{name}_dense": getattr(card, f"{name}_dense") for name in names},
        **{f"{name}_compressed": getattr(card, name) for name in names},
        "latency_ms_dense": latency.dense.median_ms,
        "latency_ms_compressed": latency.model.median_ms,
    }


def _selection(inputs: Paths) -> Json | None:
    story = _read(inputs, "selection", "selection.json", records.Selection)
    if story is None:
        return None
    selected = read_table(inputs.one("selection") / "selected.parquet", {"frame_id": "text", "measure": "text"})
    comparison = _read(inputs, "comparison", "comparison.json", records.Comparison)
    return {
        **asdict(story),
        "selected_frames": len(selected),
        "measure": selected.measure.iloc[0] if len(selected) else None,
        "miou_selected": comparison.miou_selected if comparison else None,
        "miou_random": comparison.miou_random if comparison else None,
    }


def _doubts(inputs: Paths) -> Json | None:
    """Return which labels the ensemble doubts; None where compare had none to judge."""
    folder = inputs.maybe("comparison")
    path = folder / "labels.json" if folder else None
    return read_record(path, dict[str, Any]) if path and path.exists() else None


def _cost() -> Json:
    tasks = own_work(read_records())
    if not tasks:
        return {}
    stages = sorted(tasks, key=lambda record: -record["seconds"])
    return {
        "seconds": work_seconds(tasks),
        "stages": [{"name": record["name"], "seconds": record["seconds"]} for record in stages],
    }
