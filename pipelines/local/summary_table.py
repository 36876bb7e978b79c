"""The short table of a night that `make run` prints at its end."""

import json
from pathlib import Path
from typing import Any

from perception.metrics.differences import difference_in_words

ADAPTED = ("source_only", "fused", "pseudo")  # the segmenter alone, with the detector, taught with pseudo-labels


def night_table(run: Path, seconds: float) -> str:
    """Return the night in a dozen lines: what was chosen, learned, shrunk and decided, and where the report is."""
    summary = json.loads((run / "summary.json").read_text())
    selection, model, evaluation, adaptation = (
        summary[name] for name in ("selection", "model", "evaluation", "adaptation")
    )
    parameters, latency = (
        [model[f"{name}_{of}"] for of in ("dense", "compressed")] for name in ("parameters", "latency_ms")
    )
    promotion = [summary["promotion"][name] for name in ("decision", "reason")]
    rows = [
        ("night", f"{summary['run']} ({summary['profile']}): {summary['status']} in {seconds:.0f} s"),
        ("selected", f"{_or_dash(selection['selected_frames'])} of {_or_dash(selection['pool_frames'])} frames"),
        ("mIoU, chosen / random frames", _compared(selection)),
        ("mIoU, simulator / fused / taught", _figures(*(adaptation[f"miou_{name}"] for name in ADAPTED))),
        ("mIoU, dense / shipped", _figures(model["miou_dense"], model["miou_compressed"])),
        ("mIoU, shipped, on the test set", _figures(evaluation["miou"])),
        ("parameters, dense / shipped", _figures(*parameters, form="{:,}")),
        ("latency, dense / shipped", _figures(*latency, form="{:.1f} ms")),
        ("data version", _or_dash(summary["data"]["version"])),
        ("gates", ", ".join(f"{gate['name']} {gate['verdict']}" for gate in summary["gates"]) or "-"),
        ("decision", ": ".join(filter(None, promotion)) or "-"),
        ("report", str(run / "report.html")),
        *([("review", str(run / "review.html"))] if (run / "review.html").exists() else []),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _compared(selection: dict[str, Any]) -> str:
    """Write both arms and, over seeds, what lies between them."""
    means = _figures(selection["miou_selected"], selection["miou_random"])
    chosen, random = (selection[f"miou_{arm}_by_seed"] or () for arm in ("selected", "random"))
    if not chosen or not random:
        return means
    return f"{means}; {difference_in_words(chosen, random)}"


def _figures(*values: float | None, form: str = "{:.3f}") -> str:
    return " / ".join("not measured" if value is None else form.format(value) for value in values)


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)
