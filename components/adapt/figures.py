"""What the adaptation tells: figures for the report, the gate's table, and in plain words whether fusion was worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from components.stage.records import log
from perception.adaptation.detector_quality import DetectorQuality
from perception.adaptation.judging import Judged
from perception.adaptation.pseudo import (
    PseudoQuality,
    class_prior,
    collapsed_classes,
    precision_interval,
    prior_drift,
    quality_of_counts,
)
from perception.adaptation.trust import ClassTrust
from perception.data.loading import FrameSet
from perception.metrics.figures import named
from perception.training.losses import pixel_counts

COLLAPSED_RATIO = 0.1  # a class has collapsed when its share falls below this part of the source's
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LabelEvidence:
    """Hold how good pseudo-labels are on frames whose labels are known, and what was decided from it.

    by_drive: pixels of the val frames as count_by_drive gives them, of the segmenter's own pseudo-labels, of the paper's and of what
    the night uses: (3, drive, class, class + 1).
    """

    thresholds: np.ndarray  # (class,) least confidence of the segmenter
    detector: (
        PseudoQuality  # of the paper's pseudo-ground-truth, all foreground from masks, on the frames that decide trust
    )
    by_drive: np.ndarray
    trust: tuple[ClassTrust, ...]  # one a foreground class


def all_figures(
    judged: Mapping[str, Judged | None],
    evidence: LabelEvidence,
    detector: Json,
    table: pd.DataFrame,
    shares: Mapping[str, float],
    names: Sequence[str],
) -> Json:
    """Return the content of adaptation.json but the trainings' own figures.

    judged: source_only, fused and pseudo (the student) on the val frames; detector: what there is to tell of it, empty without
    one; table: what label_frames counted; shares: of the classes in the simulator's labels. Not measured is None.
    """
    figures = judged_figures(judged, names) | _label_figures(evidence, names)
    trust = [asdict(each) | {"class": names[each.class_id]} for each in evidence.trust]
    figures |= {"detector": detector or None, "trust": trust}
    figures |= _prior_figures(table, shares)
    return figures | {"fusion_verdict": fusion_in_words(judged["source_only"], judged["fused"])}


def judged_figures(judged: Mapping[str, Judged | None], names: Sequence[str]) -> Json:
    """Return mIoU, its foreground and background mean, and IoU by class of each way to see the val frames."""
    figures: Json = {"iou_by_class": {}}
    for name, each in judged.items():
        for mean in ("miou", "foreground_miou", "background_miou"):
            figures[f"{mean}_{name}"] = None if each is None else _number(getattr(each, mean)())
        figures["iou_by_class"][name] = None if each is None else each.iou_by_class(names)
    return figures


def fusion_in_words(alone: Judged | None, fused: Judged | None) -> str:
    """Say plainly whether fusing the detector in helped the foreground on the val frames."""
    if alone is None or fused is None:
        return "No detector was trained, so nothing was fused."
    before, after = alone.foreground_miou(), fused.foreground_miou()
    better = "is better than" if after > before else "does not beat"
    return (
        f"Fusion {better} the simulator's segmentation in the foreground: mean IoU {after:.1%} against {before:.1%}; "
        f"background {fused.background_miou():.1%} against {alone.background_miou():.1%}."
    )


def precision_figures(quality: DetectorQuality | None, names: Sequence[str]) -> Json:
    """Return the detector's AP at IoU 0.5 of boxes and masks, and by class; None where no instances are known."""
    if quality is None:
        return {"ap50_boxes": None, "ap50_masks": None, "ap50_masks_by_class": None, "judged_frames": 0}
    return {
        "ap50_boxes": _number(quality.boxes.ap50),
        "ap50_masks": _number(quality.masks.ap50),
        "ap50_masks_by_class": named(names, quality.masks.by_class[0]),
        "judged_frames": quality.frames,
    }


def class_shares(simulator: FrameSet, names: Sequence[str]) -> dict[str, float]:
    """Return the share of every class in the simulator's labels, which taught the networks that give pseudo-labels."""
    return dict(zip(names, class_prior(pixel_counts(simulator)).tolist(), strict=True))


def gate_table(
    table: pd.DataFrame, evidence: LabelEvidence, names: Sequence[str], foreground: Sequence[bool]
) -> pd.DataFrame:
    """Return the table that the gate judges: what label_frames counted, and how many detected pixels are likely right.

    detected_right_px_<class> is detected_px_<class> times the precision of the detector's masks of the class on frames
    whose labels are known; where the class was not found there, times the precision of all masks. Columns of detected
    background, which there is none of, are left out.
    """
    precision = _mask_precision(evidence.detector, foreground)
    background = [name for name, each in zip(names, foreground, strict=True) if not each]
    judged = table.drop(columns=[f"detected_px_{name}" for name in background])
    right = {
        f"detected_right_px_{names[class_id]}": table[f"detected_px_{names[class_id]}"] * precision[class_id]
        for class_id in np.flatnonzero(foreground).tolist()
    }
    return judged.assign(**right)


def _mask_precision(quality: PseudoQuality, foreground: Sequence[bool]) -> np.ndarray:
    by_class = quality.precision_by_class.copy()
    said, right = quality.said_px[list(foreground)].sum(), quality.right_px[list(foreground)].sum()
    overall = right / said if said else float("nan")
    return np.where(np.isnan(by_class), overall, by_class)


def log_outcome(figures: Json) -> None:
    """Print the figures that a person looks for first."""
    said = {name: figures[f"miou_{name}"] for name in ("source_only", "fused", "pseudo")}
    words = ", ".join(
        f"{name.replace('_', ' ')} {'-' if value is None else f'{value:.3f}'}" for name, value in said.items()
    )
    log(f"mIoU on the val frames: {words}")
    log(figures["fusion_verdict"])
    by_reason: dict[tuple[bool, str], list[str]] = {}
    for row in figures["trust"]:
        by_reason.setdefault((row["trusted"], row["reason"]), []).append(row["class"])
    for (trusted, reason), classes in by_reason.items():
        taken = "from the detector" if trusted else "from the segmentation"
        log(f"  pseudo-labels of {', '.join(classes)} {taken}: {reason}")


def _label_figures(evidence: LabelEvidence, names: Sequence[str]) -> Json:
    plain, detector, chosen = (quality_of_counts(each.sum(axis=0)) for each in evidence.by_drive)
    return {
        "pseudo_coverage": _number(chosen.coverage),
        "pseudo_precision": _number(chosen.precision),
        "pseudo_precision_interval": precision_interval(evidence.by_drive[2]),
        "coverage_by_class": named(names, chosen.coverage_by_class),
        "precision_by_class": named(names, chosen.precision_by_class),
        "threshold_by_class": named(names, evidence.thresholds),
        "labelling": {
            way: {"coverage": _number(quality.coverage), "precision": _number(quality.precision)}
            for way, quality in (("plain", plain), ("detector", detector), ("chosen", chosen))
        },
    }


def _prior_figures(table: pd.DataFrame, shares: Mapping[str, float]) -> Json:
    """Name the classes that the source labels hold and the pseudo-labels have all but lost, and how far shares moved."""
    names = list(shares)
    counts = [int(table[f"px_{name}"].sum()) for name in names]
    if not sum(counts):
        return {"collapsed_classes": [name for name in names if shares[name] > 0], "prior_drift": None}
    reference, found = [shares[name] for name in names], class_prior(counts)
    lost = collapsed_classes(reference, found, COLLAPSED_RATIO)
    return {"collapsed_classes": [names[index] for index in lost], "prior_drift": prior_drift(reference, found)}


def _number(value: float) -> float | None:
    return None if value != value else float(value)
