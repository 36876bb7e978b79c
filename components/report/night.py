"""Read a night's folders into the plain values that the report shows; what the night did not get to is left out."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from components.report.parameters import ReportParameters
from components.report.pictures import Pictures
from components.stage.declaration import Paths
from components.stage.parameters import absolute
from components.stage.records import read_records
from perception.data.manifest import read_manifest
from perception.data.taxonomies import load_taxonomy
from perception.metrics.differences import paired_difference
from perception.quality.waivers import load_waivers
from perception.reporting import charts, page
from perception.reporting.summary import (
    AdaptationFigures,
    DataFigures,
    EvaluationFigures,
    GateFigures,
    ModelFigures,
    NightSummary,
    PromotionFigures,
    SelectionFigures,
    StageFigures,
)

SHOWN_OFFENDERS = 8
Json = dict[str, Any]


def gather_night(inputs: Paths, parameters: ReportParameters) -> page.NightReport:
    """Return everything that the report shows of the night."""
    pictures = Pictures(inputs, parameters)
    records, verdicts = read_records(), _verdicts(inputs)
    status, culprit, message = _outcome(records, parameters.final_status)
    return page.NightReport(
        summary=_summary(inputs, parameters, records, verdicts, status),
        taxonomy=load_taxonomy(parameters.taxonomy),
        failed_stage=culprit if status == "failed" else None,
        refused_gate=culprit if status == "refused" else None,
        error_lines=(message,) if message else (),
        selection=_selection_panel(inputs, pictures),
        adaptation=_adaptation_panel(inputs, pictures),
        model=_model_panel(inputs),
        evaluation=_evaluation_panel(inputs, pictures),
        reproduce_command=_reproduce_command(inputs, parameters),
        gates=tuple(_gate_panel(name, verdict, pictures) for name, verdict in verdicts.items()),
        rejected=_rejected(inputs),
        rejected_total=len(_rejected(inputs)),
        parameters=parameters.settings,
        lineage=_lineage(inputs),
    )


# ---------------------------------------------------------------- figures


def _summary(
    inputs: Paths, parameters: ReportParameters, records: list[Json], verdicts: Mapping[str, Json], status: str
) -> NightSummary:
    return NightSummary(
        run=parameters.run,
        status=status,
        profile=parameters.profile,
        seconds=round(sum(record["seconds"] for record in records), 1) if records else None,
        stages=tuple(
            StageFigures(
                name=each["name"], status=each["status"], seconds=each["seconds"], peak_rss_mib=each["peak_rss_mib"]
            )
            for each in records
        ),
        selection=_selection_figures(inputs),
        data=_data_figures(inputs),
        adaptation=_pick(AdaptationFigures, _figures(inputs, "adaptation", "adaptation.json")),
        model=_model_figures(inputs),
        evaluation=_pick(EvaluationFigures, _figures(inputs, "evaluation", "evaluation.json")),
        gates=tuple(
            GateFigures(
                name=name,
                verdict=_verdict_word(verdict),
                failed_expectations=tuple(each["id"] for each in verdict["failed"]),
            )
            for name, verdict in verdicts.items()
        ),
        promotion=_pick(PromotionFigures, _figures(inputs, "evaluation", "evaluation.json").get("promotion", {})),
    )


def _outcome(records: list[Json], final_status: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Return the night's status, which task is to blame, and what it said."""
    for record in records:
        if record["status"] == "refused":
            return "refused", record["name"], record["message"]
        if record["status"] != "done":
            killed = "was killed before it was done" if record["status"] == "running" else record["message"]
            return "failed", record["name"], killed
    # Kubeflow says COMPLETE or RUNNING of a good night: nothing but FAILED tells anything.
    if final_status.get("state") == "FAILED":
        error = final_status.get("error") or {}
        return "failed", "a step", str(error.get("message") or "see the run's page")
    nothing = any(record["values"].get("news") == "nothing" for record in records)
    return "nothing_new" if nothing else "done", None, None


def _selection_figures(inputs: Paths) -> SelectionFigures:
    folder = inputs.maybe("selection")
    if folder is None:
        return SelectionFigures()
    comparison = _figures(inputs, "comparison", "comparison.json")
    story = _pick_dict(SelectionFigures, _read(folder / "selection.json"))
    arms: Json = {}
    for arm in ("selected", "random"):
        by_seed = comparison.get(f"miou_{arm}")
        arms |= {f"miou_{arm}": _mean(by_seed), f"miou_{arm}_by_seed": tuple(by_seed) if by_seed else None}
    return SelectionFigures(
        **story | arms | {"selected_frames": len(pd.read_parquet(folder / "selected.parquet", columns=["frame_id"]))}
    )


def _data_figures(inputs: Paths) -> DataFigures:
    folder, version = inputs.maybe("curated"), _figures(inputs, "version", "version.json")
    if folder is None:
        return DataFigures()
    now = set(read_manifest(folder / "version" / "manifest.parquet", columns=["frame_id"]).frame_id)
    before = set(read_manifest(inputs.one("base") / "manifest.parquet", columns=["frame_id"]).frame_id)
    return DataFigures(
        version=version.get("tag"),
        manifest_sha256=version.get("manifest_sha256"),
        parent=version.get("parent"),
        frames=len(now),
        added=len(now - before),
        removed=len(before - now),
    )


def _model_figures(inputs: Paths) -> ModelFigures:
    trained, card = _figures(inputs, "network", "network.json"), _figures(inputs, "compressed", "card.json")
    latency = _figures(inputs, "compressed", "latency.json")
    compressed = {f"{name}_compressed": card.get(name) for name in ("parameters", "macs", "miou")}
    times = {
        f"latency_ms_{ours}": latency.get(name, {}).get("median_ms")
        for ours, name in (("dense", "dense"), ("compressed", "model"))
    }
    return ModelFigures(**_pick_dict(ModelFigures, trained) | compressed | times)


# ---------------------------------------------------------------- panels


def _selection_panel(inputs: Paths, pictures: Pictures) -> page.SelectionPanel | None:
    folder = inputs.maybe("selection")
    if folder is None:
        return None
    selected = pd.read_parquet(folder / "selected.parquet").sort_values("rank").head(page.MAX_CHOSEN)
    maps = pictures.uncertainty(selected)
    frames = tuple(
        page.ChosenFrame(
            frame_id=row.frame_id,
            rank=int(row.rank),
            score=float(row.score),
            reason=row.reason,
            image=pictures.image(row.frame_id),
            uncertainty=maps.get(row.frame_id),
            conditions=pictures.conditions(row.frame_id),
        )
        for row in selected.itertuples()
    )
    comparison = _figures(inputs, "comparison", "comparison.json")
    return page.SelectionPanel(
        frames=frames,
        seeds=comparison.get("seeds"),
        comparison=_comparison_in_words(comparison.get("miou_selected"), comparison.get("miou_random")),
        model_sha256=_read(folder / "selection.json").get("model_sha256"),
    )


def _comparison_in_words(selected: list[float] | None, random: list[float] | None) -> str:
    """Say how both arms of the A/B spread over seeds, and their paired difference; nothing for a single seed."""
    if not selected or not random or len(selected) < 2:
        return ""
    chosen, control = ([100 * value for value in values] for values in (selected, random))
    arms = [f"{mean(values):.1f} ± {stdev(values):.1f} %" for values in (chosen, control)]
    return f"mIoU {arms[0]} against {arms[1]}; difference {paired_difference(chosen, control).words(1)} points"


def _adaptation_panel(inputs: Paths, pictures: Pictures) -> page.AdaptationPanel | None:
    if inputs.maybe("adaptation") is None:
        return None
    figures = _figures(inputs, "adaptation", "adaptation.json")
    by_class = {name: figures[name] for name in ("coverage_by_class", "precision_by_class", "threshold_by_class")}
    return page.AdaptationPanel(
        frames=pictures.adapted(page.MAX_ADAPTED, figures),
        collapsed_classes=tuple(figures["collapsed_classes"]),
        verdict=figures["fusion_verdict"],
        detector=figures["detector"] or {},
        trust={row["class"]: (row["trusted"], row["reason"]) for row in figures["trust"]},
        **by_class,
    )


def _model_panel(inputs: Paths) -> page.ModelPanel | None:
    if inputs.maybe("network") is None:
        return None
    trained, card = _figures(inputs, "network", "network.json"), _figures(inputs, "compressed", "card.json")
    figures = _model_figures(inputs)
    losses = trained["loss"]
    return page.ModelPanel(
        variants=(
            page.ModelVariant(
                name="dense",
                parameters=figures.parameters_dense,
                macs=figures.macs_dense,
                size_bytes=card.get("bytes_dense"),
                latency_ms=figures.latency_ms_dense,
                miou=figures.miou_dense,
            ),
            page.ModelVariant(
                name="pruned",
                parameters=figures.parameters_pruned,
                macs=trained["macs_pruned"],
                miou=figures.miou_pruned,
            ),
            page.ModelVariant(
                name="compressed",
                parameters=figures.parameters_compressed,
                macs=figures.macs_compressed,
                size_bytes=card.get("bytes"),
                latency_ms=figures.latency_ms_compressed,
                miou=figures.miou_compressed,
            ),
        ),
        loss_curves=tuple(
            charts.Series(name=name, points=tuple(enumerate(values, start=1))) for name, values in losses.items()
        ),
        layers=tuple(
            page.LayerNeurons(name=each["layer"], before=each["before"], after=each["after"])
            for each in trained["layers"]
        ),
        latency_note="onnxruntime on this machine's CPU, batch of 1; both networks measured in turns, medians",
    )


def _evaluation_panel(inputs: Paths, pictures: Pictures) -> page.EvaluationPanel | None:
    folder = inputs.maybe("evaluation")
    if folder is None:
        return None
    figures = _figures(inputs, "evaluation", "evaluation.json")
    return page.EvaluationPanel(
        frames_by_condition=figures["frames_by_condition"],
        failure_rule=figures["failure_rule"],
        champion_miou=figures["miou_champion"],
        champion_iou_by_class=(figures["comparison"] or {}).get("champion_iou_by_class", {}),
        champion_miou_by_condition=(figures["comparison"] or {}).get("champion_miou_by_condition", {}),
        frames=pictures.tested(pd.read_parquet(folder / "frames.parquet"), folder / "predictions"),
        figures=figures,
        clusters=pictures.failures(folder, figures["failure_clusters"]),
    )


def _gate_panel(name: str, verdict: Json, pictures: Pictures) -> page.GatePanel:
    return page.GatePanel(
        name=name,
        verdict=_verdict_word(verdict),
        expectations=verdict["checked"],
        failed=tuple(_failed_expectation(failure, pictures) for failure in verdict["failed"]),
        waivers=_waivers(verdict),
    )


def _waivers(verdict: Json) -> tuple[page.Waiver, ...]:
    given = {(waiver.suite, waiver.id, waiver.in_words()): waiver for waiver in load_waivers()}
    used = [
        given[key] for each in verdict["failed"] if (key := (verdict["suite"], each["id"], each["waived_by"])) in given
    ]
    return tuple(
        page.Waiver(expectation=each.id, reason=each.reason, who=each.who, expires=str(each.expires)) for each in used
    )


def _failed_expectation(failure: Json, pictures: Pictures) -> page.FailedExpectation:
    offenders = tuple(_offender(row, pictures) for row in failure["frames"][:SHOWN_OFFENDERS])
    return page.FailedExpectation(
        name=failure["id"],
        rule=failure["rule"],
        bound=", ".join(f"{name} = {value}" for name, value in failure["bound"].items()),
        observed=failure["observed"],
        offenders=offenders,
        offenders_total=failure["count"],
    )


def _offender(row: Json, pictures: Pictures) -> page.OffendingFrame:
    identity = str(row.get("frame_id") or row.get("gate_id"))
    values = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("frame_id", "gate_id"))
    return page.OffendingFrame(frame_id=identity, value=values, image=pictures.image(identity))


def _rejected(inputs: Paths) -> tuple[page.RejectedFrame, ...]:
    folder = inputs.maybe("frames")
    rows = pd.read_parquet(folder / "rejected.parquet") if folder else pd.DataFrame()
    return tuple(
        page.RejectedFrame(path=row.path, rule=row.rule, remedy=row.remedy, frame_id=row.frame_id)
        for row in rows.itertuples()
    )


def _reproduce_command(inputs: Paths, parameters: ReportParameters) -> str | None:
    tag = _figures(inputs, "version", "version.json").get("tag")
    return (
        f"make reproduce VERSION={tag} OUT=folder REGISTRY={shlex.quote(absolute(parameters.registry))}"
        if tag
        else None
    )


def _lineage(inputs: Paths) -> dict[str, str | None]:
    version, card = _figures(inputs, "version", "version.json"), _figures(inputs, "compressed", "card.json")
    return {
        "data version": version.get("tag"),
        "manifest sha256": version.get("manifest_sha256"),
        "shipped network sha256": card.get("onnx_sha256"),
        "trained on manifest sha256": card.get("data_manifest_sha256"),
        "code commit": card.get("code_commit"),
        "image": card.get("image"),
    }


# ---------------------------------------------------------------- small things


def _read(path: Path) -> Json:
    content: Json = json.loads(path.read_text())
    return content


def _figures(inputs: Paths, port: str, file: str) -> Json:
    folder = inputs.maybe(port)
    return _read(folder / file) if folder else {}


def _verdicts(inputs: Paths) -> dict[str, Json]:
    found = [_read(folder / "verdict.json") for folder in inputs.many("verdicts")]
    return {str(verdict["suite"]): verdict for verdict in found}


def _verdict_word(verdict: Json) -> str:
    if verdict["decision"] == "refuse":
        return "refused"
    return "waived" if any(failure["waived_by"] for failure in verdict["failed"]) else "passed"


def _pick_dict(kind: type, figures: Mapping[str, Any]) -> Json:
    return {name: figures[name] for name in kind.__dataclass_fields__ if name in figures}  # type: ignore[attr-defined]


def _pick(kind: type, figures: Mapping[str, Any]) -> Any:
    return kind(**_pick_dict(kind, figures))


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None
