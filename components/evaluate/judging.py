"""Judge an exported network on labelled frames: what the evaluate stage and `make evaluate` have in common."""

import dataclasses
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from components.evaluate.parameters import JudgeParameters
from components.stage.learning import class_names, write_json
from components.stage.parameters import plain_values, shared_fields
from components.stage.records import log, progress_line
from components.stage.results import reuse
from perception.compression.cost import measure_latency_ms
from perception.compression.export import best_provider, onnx_predictor
from perception.data.files import file_sha256
from perception.data.taxonomies import categories, load_taxonomy
from perception.errors import InputError
from perception.metrics import figures as measured
from perception.metrics.bounds import drives_failure_upper
from perception.metrics.calibration import calibration_error
from perception.metrics.comparison import Comparison, RegressionRule, compare, since
from perception.metrics.contract import CLASS, Clause
from perception.metrics.evidence import Evidence, gather_evidence
from perception.metrics.failures import Cluster, cluster_regions, failure_queries, wrong_regions
from perception.metrics.objects import count_objects
from perception.metrics.segmentation import (
    LabelledFrames,
    SegmentationScore,
    evaluate_frames,
    read_score,
    write_score,
)
from perception.metrics.shift import CORRUPTIONS, STRENGTHS, corrupt
from perception.metrics.slices import CONDITIONS, domain_grid
from perception.metrics.verdict import Verdict, decide
from perception.quality.metrics_table import metric_rows
from perception.reporting.evidence import what_it_does_not_support, what_it_supports
from perception.training.setup import best_device

Json = dict[str, Any]
CHAMPION, REFERENCE = "the champion", "the reference release"
Steering = tuple[LabelledFrames, pd.DataFrame]  # frames, and their manifest rows in their order
SINCE = ("miou_since_reference", "miou_since_reference_lower_95", "miou_since_reference_upper_95")


def judge(
    frames: LabelledFrames,
    about: pd.DataFrame,
    model: Path,
    parameters: JudgeParameters,
    folder: Path,
    *,
    champion: Path | None = None,
    reference: Path | None = None,
    night: date | None = None,
    left_out: Sequence[Json] = (),
    store: str = "",
    fresh: Steering | None = None,
    steering: Steering | None = None,
) -> Json:
    """Judge an exported network on labelled frames and write into `folder` what was found; return its figures.

    about: the frames' manifest rows in their order. champion, reference: networks that it must be no worse than, where the files
    are there. night: whose exemptions are in force, by default today's. left_out: path and rule of each frame that was found beside
    them and cannot be judged. store: where the others' counts on these frames are kept for other nights; empty: nowhere.
    fresh: frames of the latest footage that no network has learned from, with their manifest rows: they judge it apart.
    steering: frames whose failures say what is asked for tomorrow, likewise; by default those that are judged.
    Writes evaluation.json, frames.parquet, confusion.npy and .json, query.json, regions.parquet and
    predictions/FRAME_ID.png. Raises InputError for another test set than the pinned one.
    """
    about = by_unit(about, parameters.unit)
    identity, device = identity_of(about, parameters), best_device()
    provider = best_provider(device)
    log(f"networks run by onnxruntime's {provider} on a machine whose best device is {device}")
    score = _score(frames, about, model, parameters, "evaluate", folder)
    figures = _figures(score, parameters) | {"test_set_sha256": identity, "model_sha256": file_sha256(model)}
    figures["onnxruntime_provider"] = provider
    figures |= _coverage(score, about, left_out)
    figures |= _failures(score, parameters) | {"objects": _missed_objects(frames, about, score, parameters, folder)}
    figures |= {"latency": latency(model, parameters), "shift": _shift(frames, about, model, parameters)}
    there = {name: path for name, path in ((CHAMPION, champion), (REFERENCE, reference)) if path and path.exists()}
    figures |= _against(there, score, frames, about, parameters, night or datetime.now(UTC).date(), store)
    figures["fresh"] = _on_fresh_footage(fresh, model, there.get(CHAMPION), parameters) if fresh else None
    clusters = _failure_clusters(frames, score, parameters, folder)
    figures |= {"failure_clusters": _clusters_told(clusters, class_names(parameters.taxonomy), folder)}
    asked = _steering_queries(steering, model, parameters) if steering else _queries(clusters, score, parameters)
    write_json(folder / "query.json", {"about": "frames like these failures", "queries": asked})
    figures["queries"] = asked
    write_json(folder / "evaluation.json", figures)
    return figures


def by_unit(about: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Return manifest rows with drive_id as the unit of independence; raise InputError for a drive that does not tell its city."""
    if unit == "drive":
        return about
    named = about.drive_id.astype(str).str.rpartition("_")
    cities = named[0].where((named[0] != "") & (named[2] != ""))
    if cities.isna().any():
        raise InputError(
            f"unit = {unit}: drive {about.drive_id[cities.isna()].iloc[0]!r} must be named CITY_SEQUENCE; rename the drives, or say "
            "unit = drive where they are independent of each other"
        )
    return about.assign(drive_id=cities)


def identity_of(about: pd.DataFrame, parameters: JudgeParameters) -> str:
    """Return the sha256 of which frames are judged, with which pixels and labels; raise InputError if it is not the pinned one."""
    rows = sorted(about[["frame_id", "image_sha256", "label_sha256"]].astype(str).agg(" ".join, axis=1))
    found = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    if parameters.test_set_sha256 and found != parameters.test_set_sha256:
        raise InputError(
            f"test_set_sha256 = {parameters.test_set_sha256}: the test set at hand is {found} ({len(about)} frames); "
            "a frozen test set must not change: restore it, or pin the new one after people have agreed to it"
        )
    return found


def _score(
    frames: LabelledFrames,
    about: pd.DataFrame,
    model: Path,
    parameters: JudgeParameters,
    what: str,
    folder: Path | None = None,
) -> SegmentationScore:
    score = evaluate_frames(
        frames,
        about,
        onnx_predictor(model, parameters.threads),
        len(class_names(parameters.taxonomy)),
        network=str(model),
        batch_frames=parameters.batch_frames,
        columns=parameters.slice_columns,
        boundary=folder is not None,
        calibration=folder is not None,
        on_frame=_keeper(folder / "predictions") if folder else None,
        progress=progress_line(what),
    )
    if folder:
        np.save(folder / "confusion.npy", score.confusion)
        rows = {"classes": class_names(parameters.taxonomy), "rows": score.confusion.tolist()}
        write_json(folder / "confusion.json", rows)
        score.frames.to_parquet(folder / "frames.parquet", index=False)
    return score


def _keeper(folder: Path) -> Any:
    """Return the function that writes a frame's prediction into `folder`, for whoever wants to count again."""
    folder.mkdir()

    def keep(frame_id: str, prediction: NDArray[np.uint8]) -> None:
        Image.fromarray(prediction).save(folder / f"{frame_id}.png")

    return keep


def _figures(score: SegmentationScore, parameters: JudgeParameters) -> Json:
    classes, settings = class_names(parameters.taxonomy), parameters
    figures = measured.overall_figures(score, classes, categories(parameters.taxonomy), settings)
    grid = domain_grid(score.groups) if set(CONDITIONS) <= set(score.columns) else None
    return figures | {
        "boundary_iou": measured.boundary_figures(score, classes, settings),
        "calibration": measured.calibration_figures(score, settings),
        "slices": measured.slice_figures(score, settings),
        "miou_by_condition": {name: measured.plain(value) for name, value in score.miou_by_slice().items()},
        "frames_by_condition": score.frames_by_slice(),
        "domain": grid.to_dict("records") if grid is not None else [],
        "confidence": parameters.confidence,
    }


def _coverage(score: SegmentationScore, about: pd.DataFrame, left_out: Sequence[Json]) -> Json:
    """Count the frames that were found and judged, and name with its reason each that counts nowhere."""
    blank = about.image_uri[score.frames.pixel_accuracy.isna().to_numpy()]
    unjudged = [
        *left_out,
        *({"path": path, "rule": "no pixel of its label is of a class that counts"} for path in blank),
    ]
    return {"found": len(about) + len(left_out), "judged": len(about) - len(blank), "left_out": unjudged}


def failed_frames(score: SegmentationScore, parameters: JudgeParameters) -> np.ndarray[Any, Any]:
    """Return which of the score's frames have failed: (frame,) bool; a frame without any judged pixel has not."""
    failed: np.ndarray[Any, Any] = (score.frames.pixel_accuracy < parameters.failure_pixel_accuracy).to_numpy(bool)
    return failed


def _failures(score: SegmentationScore, parameters: JudgeParameters) -> Json:
    judged = score.frames.pixel_accuracy.notna().to_numpy()
    failed = failed_frames(score, parameters)[judged]
    evidence: Evidence = gather_evidence(
        score.frames[judged].reset_index(drop=True),
        failed,
        parameters.slice_columns,
        confidence=parameters.confidence,
        mix=parameters.operating_mix or None,
        claim_rate=parameters.claim_failure_rate,
        minimum_frames=parameters.minimum_frames,
        minimum_drives=parameters.minimum_drives,
        miles=parameters.miles,
        miles_failures=parameters.miles_failures,
    )
    words = {"supports": what_it_supports(evidence), "does_not_support": what_it_does_not_support(evidence)}
    return {
        "failures": evidence.failures,
        "failure_rule": f"fewer than {parameters.failure_pixel_accuracy:.0%} of the labelled pixels are right",
        "failure_rate_upper_95": evidence.upper_95,
        "evidence": dataclasses.asdict(evidence) | words,
    }


def _missed_objects(
    frames: LabelledFrames, about: pd.DataFrame, score: SegmentationScore, parameters: JudgeParameters, folder: Path
) -> Json:
    """Count objects of the classes that a release needs judged, and those that were missed, with a bound over drives.

    folder: with predictions/. The bound is null where no frame shows such an object.
    """
    names, rule = class_names(parameters.taxonomy), parameters.contract.objects
    required = [name for name, clause in contract_clauses(about, parameters).items() if clause.required]
    ids = [names.index(name.removeprefix(CLASS)) for name in required if name.startswith(CLASS)]
    drives, drive_of = np.unique(score.frames.drive_id.to_numpy(str), return_inverse=True)
    counts = np.zeros((len(drives), 2, len(names)), np.int64)
    for index, frame_id in enumerate(score.frames.frame_id):
        shown = np.asarray(Image.open(folder / "predictions" / f"{frame_id}.png"))
        counts[drive_of[index]] += count_objects(
            frames.full_label(index), shown, ids, len(names), least_share=rule.least_share, found_share=rule.found_share
        )
    by_drive, total = counts.sum(axis=2), counts.sum(axis=0)
    objects, missed = by_drive[by_drive[:, 0] > 0].T
    return {
        "objects": int(objects.sum()),
        "missed": int(missed.sum()),
        "missed_rate_upper_95": drives_failure_upper(missed, objects, 0.95) if len(objects) else None,
        "by_class": {names[each]: [int(total[1, each]), int(total[0, each])] for each in ids if total[0, each]},
        **dataclasses.asdict(rule),
    }


def latency(model: Path, parameters: JudgeParameters) -> list[Json]:
    """Measure milliseconds a batch and frames a second by batch size, in onnxruntime on this CPU."""
    if not parameters.latency_batch_frames:
        return []
    measured = measure_latency_ms(
        {"model": model},
        batch_sizes=parameters.latency_batch_frames,
        repeats=parameters.latency_repeats,
        threads=parameters.threads,
    )
    return [
        {
            "batch_frames": size,
            "median_ms": each.median_ms,
            "spread_ms": each.spread_ms,
            "frames_per_s": 1e3 * size / each.median_ms,
        }
        for size, each in zip(parameters.latency_batch_frames, measured, strict=True)
    ]


class _Part:
    """Keep some of the frames in memory, image and label at the network's size: they are judged many times over."""

    def __init__(self, frames: LabelledFrames, rows: Sequence[int]) -> None:
        self._kept = [frames.load(row) for row in rows]

    def __len__(self) -> int:
        return len(self._kept)

    def load(self, index: int) -> Any:
        return self._kept[index]

    def full_label(self, index: int) -> Any:
        return self._kept[index][1]


def _shift(frames: LabelledFrames, about: pd.DataFrame, model: Path, parameters: JudgeParameters) -> list[Json]:
    """Judge some frames, spread over the test set, as they are and under every corruption: mIoU and calibration.

    At the network's size, all cases alike, so that they compare with each other.
    """
    count = min(parameters.shift_frames, len(about))
    if not count:
        return []
    rows = np.linspace(0, len(about) - 1, count).round().astype(int).tolist()
    part, rows_about = _Part(frames, rows), about.iloc[rows].reset_index(drop=True)
    predict, classes = onnx_predictor(model, parameters.threads), len(class_names(parameters.taxonomy))
    cases: list[tuple[str, int]] = [("none", 0), *((kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS)]
    found = []
    for kind, strength in cases:
        change = (lambda images, k=kind, s=strength: corrupt(images, k, s)) if strength else None
        score = evaluate_frames(
            part,
            rows_about,
            predict,
            classes,
            network=f"{model} under {kind}",
            batch_frames=parameters.batch_frames,
            columns=(),
            calibration=True,
            change=change,
        )
        assert score.reliability is not None
        error = measured.plain(float(np.maximum(calibration_error(score.reliability), 0.0)))
        found.append({"kind": kind, "strength": strength, "miou": score.miou(), "calibration_error": error})
    return found


def _against(
    others: Mapping[str, Path],
    score: SegmentationScore,
    frames: LabelledFrames,
    about: pd.DataFrame,
    parameters: JudgeParameters,
    night: date,
    store: str,
) -> Json:
    """Compare with the champion and the reference release on the same frames; the first network of all has neither."""
    if CHAMPION not in others:
        first = {"decision": "promote", "reason": "there is no champion yet", "reasons": ["there is no champion yet"]}
        return {"miou_champion": None, "comparison": None, "promotion": first}
    hashes = {name: file_sha256(path) for name, path in others.items()}
    by_hash = {hashes[name]: path for name, path in others.items()}
    scores = {each: _kept_score(frames, about, path, parameters, store) for each, path in by_hash.items()}
    classes, clauses = class_names(parameters.taxonomy), contract_clauses(about, parameters)
    rule = shared_fields(RegressionRule, parameters)
    found = {name: compare(scores[hashes[name]], score, classes, clauses, rule) for name in others}
    verdict = decide(found, parameters.contract, night)
    theirs = scores[hashes[CHAMPION]]
    return {
        "miou_champion": theirs.miou(),
        "comparison": _comparison(found, theirs, hashes, parameters),
        "promotion": _promotion(verdict) | _since(scores.get(hashes.get(REFERENCE, "")), score, hashes),
    }


def _kept_score(
    frames: LabelledFrames, about: pd.DataFrame, champion: Path, parameters: JudgeParameters, store: str
) -> SegmentationScore:
    """Return what the champion did on these frames, from the store where a night judged it on the same ones already."""
    if not store:
        return _score(frames, about, champion, parameters, "champion")
    columns = ["frame_id", "image_sha256", "label_sha256", "label_taxonomy", "drive_id", *parameters.slice_columns]
    given = {name: value for name, value in plain_values(parameters).items() if name not in ("store", "contract")}
    depends_on = {
        "network": file_sha256(champion),
        "frames": hashlib.sha256(about[columns].to_csv(index=False).encode()).hexdigest(),
        "parameters": given,
        "provider": best_provider(best_device()),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def make() -> None:
            write_score(_score(frames, about, champion, parameters, "champion"), folder)

        reuse(store, "evaluate", "champion on the test set", depends_on, folder, make)
        return read_score(folder, parameters.slice_columns)


def contract_clauses(about: pd.DataFrame, parameters: JudgeParameters) -> dict[str, Clause]:
    """Return the clause of every figure that the contract names, of these frames and this taxonomy."""
    taxonomy = load_taxonomy(parameters.taxonomy)
    values = {column: sorted(about[column].dropna().astype(str).unique()) for column in parameters.slice_columns}
    return parameters.contract.named(values, dict(zip(taxonomy.classes, taxonomy.foreground, strict=True)))


def _promotion(verdict: Verdict) -> Json:
    names = ("decision", "reason", "reasons", "judged", "not_judged")
    return {name: getattr(verdict, name) for name in names}


def _since(reference: SegmentationScore | None, score: SegmentationScore, hashes: Mapping[str, str]) -> Json:
    """Say how far the network has come since the reference release; null where there is none."""
    if reference is None:
        return dict.fromkeys(("reference", *SINCE))
    come, half = since(reference, score, 0.95)
    figures = [measured.plain(each) for each in (come, come - half, come + half)]
    return {"reference": hashes[REFERENCE], **dict(zip(SINCE, figures, strict=True))}


def _on_fresh_footage(fresh: Steering, model: Path, champion: Path | None, parameters: JudgeParameters) -> Json:
    """Return how many frames of fresh footage there are, and which share of their pixels network and champion get right, frame by frame.

    Both are null without such frames, the champion's without one. A night has few of them: they add up over the nights.
    """
    frames, about = fresh
    networks = {"accuracy": model, "accuracy_champion": champion} if len(about) else {}
    scores = {
        name: _score(frames, about, path, parameters, "fresh footage").frames.pixel_accuracy.mean()
        for name, path in networks.items()
        if path
    }
    shares = {name: measured.plain(float(value)) for name, value in scores.items()}
    return {"frames": len(about)} | dict.fromkeys(("accuracy", "accuracy_champion")) | shares


def _comparison(
    found: Mapping[str, Comparison], theirs: SegmentationScore, hashes: Mapping[str, str], parameters: JudgeParameters
) -> Json:
    """Return every judgement against every other network, and what could not be judged."""
    champion = found[CHAMPION]
    against_reference = found[REFERENCE].judgements if REFERENCE in found else ()
    return {
        "champion_sha256": hashes[CHAMPION],
        "confidence": parameters.confidence,
        "champion_iou_by_class": theirs.iou_by_class(class_names(parameters.taxonomy)),
        "champion_miou_by_condition": {name: measured.plain(value) for name, value in theirs.miou_by_slice().items()},
        "judgements": [dataclasses.asdict(each) for each in champion.judgements],
        "reference_judgements": [dataclasses.asdict(each) for each in against_reference],
        "gaps": [dataclasses.asdict(each) for each in champion.gaps],
    }


def _failure_clusters(
    frames: Any, score: SegmentationScore, parameters: JudgeParameters, folder: Path
) -> list[Cluster]:
    """Look for the largest wrong regions in the worst frames and gather them into clusters; folder: with predictions/."""
    classes = class_names(parameters.taxonomy)
    table = score.frames.assign(row=np.arange(len(score.frames))).dropna(subset=["pixel_accuracy"])
    worst = table.sort_values(["pixel_accuracy", "frame_id"]).head(parameters.worst_frames)
    regions = []
    for row in worst.itertuples():
        label = frames.full_label(row.row)
        shown = np.asarray(Image.open(folder / "predictions" / f"{row.frame_id}.png"))
        regions += wrong_regions(row.frame_id, frames.full_image(row.row), label, shown, len(classes))
    return cluster_regions(regions, classes)


def _queries(clusters: Sequence[Cluster], score: SegmentationScore, parameters: JudgeParameters) -> list[Json]:
    return failure_queries(clusters, score.frames, parameters.slice_columns)


def _steering_queries(steering: Steering, model: Path, parameters: JudgeParameters) -> list[Json]:
    """Return what the failures in frames beside the test set ask for: were the test set asked, it would judge its own choice."""
    frames, about = steering
    if not len(about):
        log("no val frames and no fresh footage: tomorrow's choice asks for no frames like tonight's failures")
        return []
    with tempfile.TemporaryDirectory() as scratch:
        score = _score(frames, about, model, parameters, "val frames and fresh footage", Path(scratch))
        return _queries(_failure_clusters(frames, score, parameters, Path(scratch)), score, parameters)


def _clusters_told(clusters: Sequence[Cluster], classes: Sequence[str], folder: Path) -> list[Json]:
    """Write regions.parquet, a row for each region of each cluster; return what is told of the clusters."""
    columns = ["cluster", "name", "frame_id", "x", "y", "width", "height", "pixels", "share", "label", "predicted"]
    rows = [
        (number, each.name, region.frame_id, *region.box, region.pixels, region.share, classes[region.label], classes[region.predicted])
        for number, each in enumerate(clusters) for region in each.regions
    ]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "regions.parquet", index=False)
    return [
        {"name": each.name, "share": each.share, "regions": len(each.regions),
         "frames": len({region.frame_id for region in each.regions})}
        for each in clusters
    ]  # fmt: skip


def gate_rows(figures: Mapping[str, Any], least_miou: float, minimum_frames: int) -> pd.DataFrame:
    """Return the figures that the gate judges: mIoU overall and in every condition with enough frames, and the frames."""
    rows: list[Json] = [
        {"metric": "miou", "value": figures["miou"], "lower": least_miou, "upper": 1.0},
        {"metric": "frames", "value": float(figures["frames"]), "lower": float(minimum_frames)},
        {"metric": "failure_rate_upper_95", "value": figures["failure_rate_upper_95"], "lower": 0.0, "upper": 1.0},
    ]
    for name, value in figures["miou_by_condition"].items():
        if figures["frames_by_condition"][name] >= minimum_frames:
            rows.append({"metric": "miou", "slice": name, "value": value, "lower": least_miou, "upper": 1.0})
    return metric_rows([{"stage": "evaluate"} | row for row in rows])
