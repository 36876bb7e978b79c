"""Read a night's folders into the plain values that the report shows; what the night did not get to is left out."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import mean, stdev
from typing import Any, TypeVar

import pandas as pd

from components.report.parameters import ReportParameters
from components.report.pictures import Pictures
from components.stage.declaration import Paths
from components.stage.parameters import absolute
from components.stage.records import RUNNING, own_work, work_seconds
from perception.data.manifest import read_manifest
from perception.data.tables import read_record, read_table
from perception.data.taxonomies import load_taxonomy
from perception.metrics.differences import difference_in_words
from perception.quality.gate import Verdict
from perception.reporting import charts, page, records
from perception.reporting.evaluation_page import REGION_COLUMNS, TESTED_COLUMNS, failure_clusters
from perception.reporting.night_row import culprit, status_of, told_by, turned_away
from perception.reporting.summary import (
    AdaptationFigures,
    DataFigures,
    EvaluationFigures,
    GateFigures,
    ModelFigures,
    NightSummary,
    PoolFigures,
    PromotionFigures,
    SelectionFigures,
    StageFigures,
)

Json = dict[str, Any]
Record = TypeVar("Record")
_REJECTED = {"path": "text", "rule": "text", "remedy": "text"}
_SELECTED = {"frame_id": "text", "score": "number", "rank": "whole number", "reason": "text"}
_RECORDS = {
    "selection": "selection.json",
    "comparison": "comparison.json",
    "version": "version.json",
    "adaptation": "adaptation.json",
    "network": "network.json",
    "compressed": "card.json",
    "evaluation": "evaluation.json",
}


def gather_night(inputs: Paths, parameters: ReportParameters, tasks: list[Json]) -> page.NightReport:
    """Return everything that the report shows of the night; tasks: their records."""
    pictures = Pictures(inputs, parameters)
    verdicts = _verdicts(inputs)
    status, culprit, said = _outcome(tasks, parameters.final_status)
    told = told_by(tasks)
    version, card = _read(inputs, "version", records.PublishedVersion), _read(inputs, "compressed", records.Card)
    return page.NightReport(
        summary=_summary(inputs, parameters, tasks, verdicts, status),
        taxonomy=load_taxonomy(parameters.taxonomy),
        failed_stage=culprit if status == "failed" else None,
        refused_gate=culprit if status == "refused" else None,
        error_lines=said,
        selection=_selection_panel(inputs, pictures),
        adaptation=_adaptation_panel(inputs, pictures),
        model=_model_panel(inputs),
        evaluation=_evaluation_panel(inputs, pictures),
        reproduce_command=_reproduce_command(version, parameters),
        gates=tuple(_gate_panel(name, verdict, pictures) for name, verdict in verdicts.items()),
        rejected=_rejected(inputs),
        parameters=parameters.settings or _settings(tasks),
        lineage=_lineage(version, card),
        at_annotators=told.get("at_annotators"),
        overdue=told.get("overdue"),
    )


# ---------------------------------------------------------------- figures


def _summary(
    inputs: Paths, parameters: ReportParameters, tasks: list[Json], verdicts: Mapping[str, Verdict], status: str
) -> NightSummary:
    evaluation, told = _read(inputs, "evaluation", records.Evaluation), told_by(tasks)
    cost = _cost(tasks, parameters.price_per_hour)
    adaptation = vars(_read(inputs, "adaptation", records.Adaptation)) if inputs.maybe("adaptation") else {}
    return NightSummary(
        run=parameters.run,
        night=told.get("night"),
        status=status,
        profile=parameters.profile,
        seconds=work_seconds(tasks),
        cost=cost,
        currency=None if cost is None else parameters.currency,
        stages=tuple(_pick(StageFigures, record) for record in own_work(tasks)),
        pool=_pool_figures(told),
        selection=_selection_figures(inputs),
        data=_data_figures(inputs),
        adaptation=_pick(AdaptationFigures, adaptation),
        model=_model_figures(inputs),
        evaluation=_pick(EvaluationFigures, evaluation or {}),
        gates=_gate_figures(tasks, verdicts),
        promotion=_promotion_figures(evaluation),
    )


def _cost(tasks: list[Json], price_per_hour: Mapping[str, float]) -> float | None:
    """Return what the work of a night cost; None where no price is known."""
    if not price_per_hour or not tasks:
        return None
    hours = ((task["name"].partition("@")[0], task["seconds"] / 3600) for task in own_work(tasks))
    return round(sum(price_per_hour.get(name, 0.0) * spent for name, spent in hours), 4)


def _pool_figures(told: Mapping[str, Any]) -> PoolFigures:
    same = {name: told.get(name) for name in ("new", "repeated", "rejected")}
    stock = {"frames": "pool", "labelled": "human_labels", "open_at_annotators": "at_annotators"}
    return PoolFigures(**same, denied=turned_away(told), **{figure: told.get(name) for figure, name in stock.items()})


def _promotion_figures(evaluation: records.Evaluation | None) -> PromotionFigures:
    if evaluation is None:
        return PromotionFigures()
    return PromotionFigures(**_pick_dict(PromotionFigures, evaluation["promotion"]))


def _outcome(tasks: list[Json], final_status: Mapping[str, Any]) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the night's status, which task is to blame, and what it said."""
    guilty = culprit(tasks)
    if guilty is not None:
        killed = ("was killed before it was done",) if guilty["status"] == RUNNING else ()
        return status_of(tasks), guilty["name"], killed or (guilty["message"], *_rules(guilty))
    # Kubeflow says COMPLETE or RUNNING of a good night: nothing but FAILED tells anything.
    if final_status.get("state") == "FAILED":
        return "failed", "a step", ("it left no record: its pod never began; see the run's page",)
    return status_of(tasks), None, ()


def _settings(tasks: list[Json]) -> dict[str, str]:
    """Return every parameter as text by its dotted name, as the records of single tasks tell them."""
    single = [task for task in tasks if "@" not in task["name"]]
    named = {f"{task['name']}.{name}": value for task in single for name, value in task["parameters"].items()}
    return {name: str(value) for name, value in sorted(named.items()) if not name.endswith(".sources")}


def _rules(guilty: Mapping[str, Any]) -> list[str]:
    """Say every rule that a gate refused by."""
    return [f"{each['id']}: {each['rule']}; observed {each['observed']}" for each in guilty["failed"]]


def _gate_figures(tasks: list[Json], verdicts: Mapping[str, Verdict]) -> tuple[GateFigures, ...]:
    """Return what each gate said, by its verdict or, where that did not reach the report, by its record."""
    said = {name: (verdict.outcome, [failure.id for failure in verdict.failed]) for name, verdict in verdicts.items()}
    refused = (task for task in tasks if task["status"] == "refused")
    told = {
        task["name"].removeprefix("gate_"): (task["status"], [each["id"] for each in task["failed"]])
        for task in refused
    }
    return tuple(
        GateFigures(name=name, verdict=outcome, failed_expectations=tuple(failed))
        for name, (outcome, failed) in (told | said).items()
    )


def _selection_figures(inputs: Paths) -> SelectionFigures:
    story = _read(inputs, "selection", records.Selection)
    if story is None:
        return SelectionFigures()
    comparison = _read(inputs, "comparison", records.Comparison)
    selected, random = (comparison.miou_selected, comparison.miou_random) if comparison else (None, None)
    return SelectionFigures(
        strategy=story.strategy,
        budget_frames=story.budget_frames,
        selected_frames=len(_selected(inputs)),
        pool_frames=story.pool_frames,
        miou_selected=mean(selected) if selected else None,
        miou_random=mean(random) if random else None,
        miou_selected_by_seed=selected,
        miou_random_by_seed=random,
    )


def _data_figures(inputs: Paths) -> DataFigures:
    folder, version = inputs.maybe("curated"), _read(inputs, "version", records.PublishedVersion)
    if folder is None:
        return DataFigures()
    now = set(read_manifest(folder / "version" / "manifest.parquet", columns=["frame_id"]).frame_id)
    before = set(read_manifest(inputs.one("base") / "manifest.parquet", columns=["frame_id"]).frame_id)
    named = (
        {"version": version.tag, "manifest_sha256": version.manifest_sha256, "parent": version.parent}
        if version
        else {}
    )
    return DataFigures(**named, frames=len(now), added=len(now - before), removed=len(before - now))


def _model_figures(inputs: Paths) -> ModelFigures:
    trained, card = _read(inputs, "network", records.TrainedNetworks), _read(inputs, "compressed", records.Card)
    figures = _pick_dict(ModelFigures, vars(trained)) if trained else {}
    if card:
        latency = read_record(inputs.one("compressed") / "latency.json", records.Latencies)
        figures |= {f"{name}_compressed": getattr(card, name) for name in ("parameters", "macs", "miou")}
        figures |= {"latency_ms_dense": latency.dense.median_ms, "latency_ms_compressed": latency.model.median_ms}
    return ModelFigures(**figures)


# ---------------------------------------------------------------- panels


def _selection_panel(inputs: Paths, pictures: Pictures) -> page.SelectionPanel | None:
    story = _read(inputs, "selection", records.Selection)
    if story is None:
        return None
    selected = _selected(inputs).sort_values("rank").head(page.MAX_CHOSEN)
    maps = pictures.uncertainty(selected)
    frames = tuple(
        page.ChosenFrame(
            frame_id=row.frame_id,
            rank=row.rank,
            score=row.score,
            reason=row.reason,
            image=pictures.image(row.frame_id),
            uncertainty=maps.get(row.frame_id),
            conditions=pictures.conditions(row.frame_id),
        )
        for row in selected.itertuples()
    )
    comparison = _read(inputs, "comparison", records.Comparison)
    return page.SelectionPanel(
        frames=frames,
        seeds=comparison.seeds if comparison else None,
        comparison=_comparison_in_words(comparison.miou_selected, comparison.miou_random) if comparison else "",
        model_sha256=story.model_sha256,
    )


def _selected(inputs: Paths) -> pd.DataFrame:
    return read_table(inputs.one("selection") / "selected.parquet", _SELECTED)


def _comparison_in_words(selected: Sequence[float] | None, random: Sequence[float] | None) -> str:
    """Say how both arms of the A/B spread over seeds, and their paired difference; no spread for a single seed."""
    if not selected or not random:
        return ""
    said = difference_in_words(selected, random)
    if len(selected) == 1:
        return said
    arms = [f"{100 * mean(values):.1f} ± {100 * stdev(values):.1f} %" for values in (selected, random)]
    return f"mIoU {arms[0]} against {arms[1]}; {said}"


def _adaptation_panel(inputs: Paths, pictures: Pictures) -> page.AdaptationPanel | None:
    record = _read(inputs, "adaptation", records.Adaptation)
    return page.AdaptationPanel(frames=pictures.adapted(page.MAX_ADAPTED, record), record=record) if record else None


def _model_panel(inputs: Paths) -> page.ModelPanel | None:
    trained, card = _read(inputs, "network", records.TrainedNetworks), _read(inputs, "compressed", records.Card)
    if trained is None:
        return None
    figures = vars(_model_figures(inputs)) | {"macs_pruned": trained.macs_pruned}
    sizes = {"dense": card.bytes_dense, "compressed": card.bytes} if card else {}
    return page.ModelPanel(
        variants=tuple(
            page.ModelVariant(
                name=name,
                parameters=figures[f"parameters_{name}"],
                macs=figures[f"macs_{name}"],
                size_bytes=sizes.get(name),
                latency_ms=figures.get(f"latency_ms_{name}"),
                miou=figures[f"miou_{name}"],
            )
            for name in ("dense", "pruned", "compressed")
        ),
        loss_curves=tuple(
            charts.Series(name=name, points=tuple(enumerate(values, start=1))) for name, values in trained.loss.items()
        ),
        layers=trained.layers,
        start_reason=trained.start_reason,
    )


def _evaluation_panel(inputs: Paths, pictures: Pictures) -> page.EvaluationPanel | None:
    figures = _read(inputs, "evaluation", records.Evaluation)
    if figures is None:
        return None
    folder = inputs.one("evaluation")
    tested, regions = folder / "frames.parquet", folder / "regions.parquet"
    return page.EvaluationPanel(
        figures=figures,
        frames=pictures.tested(read_table(tested, TESTED_COLUMNS), folder / "predictions"),
        clusters=failure_clusters(read_table(regions, REGION_COLUMNS), figures["failure_clusters"], pictures.image),
    )


def _gate_panel(name: str, verdict: Verdict, pictures: Pictures) -> page.GatePanel:
    shown = [str(row.get("frame_id")) for failure in verdict.failed for row in failure.frames[: page.MAX_OFFENDERS]]
    images = {frame_id: pictures.image(frame_id) for frame_id in shown if frame_id in pictures}
    return page.GatePanel(name=name, verdict=verdict, images=images)


def _rejected(inputs: Paths) -> tuple[page.RejectedFrame, ...]:
    folder = inputs.maybe("frames")
    rows = read_table(folder / "rejected.parquet", _REJECTED) if folder else pd.DataFrame()
    return tuple(page.RejectedFrame(path=row.path, rule=row.rule, remedy=row.remedy) for row in rows.itertuples())


def _reproduce_command(version: records.PublishedVersion | None, parameters: ReportParameters) -> str | None:
    registry = shlex.quote(absolute(parameters.registry))
    return f"make reproduce VERSION={version.tag} OUT=folder REGISTRY={registry}" if version else None


def _lineage(version: records.PublishedVersion | None, card: records.Card | None) -> dict[str, str | None]:
    return {
        "data version": version.tag if version else None,
        "manifest sha256": version.manifest_sha256 if version else None,
        "shipped network sha256": card.onnx_sha256 if card else None,
        "training went on from network": card.started_from_model if card else None,
        "trained on manifest sha256": card.data_manifest_sha256 if card else None,
        "code commit": card.code_commit if card else None,
        "image": card.image if card else None,
    }


# ---------------------------------------------------------------- small things


def _read(inputs: Paths, port: str, kind: type[Record]) -> Record | None:
    folder = inputs.maybe(port)
    return read_record(folder / _RECORDS[port], kind) if folder else None


def _verdicts(inputs: Paths) -> dict[str, Verdict]:
    found = [read_record(folder / "verdict.json", Verdict) for folder in inputs.many("verdicts")]
    return {verdict.suite: verdict for verdict in found}


def _pick_dict(kind: type, figures: Mapping[str, Any]) -> Json:
    return {each.name: figures[each.name] for each in fields(kind) if each.name in figures}


def _pick(kind: type, figures: Mapping[str, Any]) -> Any:
    return kind(**_pick_dict(kind, figures))
