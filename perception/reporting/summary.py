"""summary.json: a night in figures that machines can read, with stable keys."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from perception.data.files import replace_file
from perception.errors import InputError

STATUSES = ("done", "nothing_new", "refused", "failed")  # of a night


@dataclass(frozen=True, kw_only=True)
class StageFigures:
    """What one stage cost."""

    name: str
    status: str  # done, failed, refused, warned, waived, reused (not run again) or not run
    seconds: float | None = None
    peak_rss_mib: float | None = None


@dataclass(frozen=True, kw_only=True)
class PoolFigures:
    """What has arrived and waits, and what is labelled of it."""

    frames: int | None = None  # that wait unlabelled
    new: int | None = None  # files that arrived since the last night
    repeated: int | None = None  # of bytes that are a frame already
    rejected: int | None = None
    denied: int | None = None  # files that the deny list turned away
    labelled: int | None = None  # training frames with a label by people
    open_at_annotators: int | None = None


@dataclass(frozen=True, kw_only=True)
class SelectionFigures:
    """What was chosen out of the pool, and whether it taught more than a random choice of the same size."""

    strategy: str | None = None
    budget_frames: int | None = None
    selected_frames: int | None = None
    pool_frames: int | None = None
    miou_selected: float | None = None  # mean over seeds
    miou_random: float | None = None
    miou_selected_by_seed: tuple[float, ...] | None = None
    miou_random_by_seed: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DataFigures:
    """The curated data version that the night made."""

    version: str | None = None
    manifest_sha256: str | None = None
    parent: str | None = None
    frames: int | None = None
    added: int | None = None
    removed: int | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptationFigures:
    """What the simulator taught: IoU on labelled real frames, and the quality of the pseudo-labels.

    source_only: the segmenter alone; fused: with the detector's instances; pseudo: the network that learned from
    pseudo-labels.
    """

    miou_source_only: float | None = None
    miou_fused: float | None = None
    miou_pseudo: float | None = None
    foreground_miou_source_only: float | None = None
    foreground_miou_fused: float | None = None
    foreground_miou_pseudo: float | None = None
    background_miou_source_only: float | None = None
    background_miou_fused: float | None = None
    background_miou_pseudo: float | None = None
    # source_only, fused, pseudo: class: IoU
    iou_by_class: Mapping[str, Mapping[str, float | None] | None] | None = None
    pseudo_coverage: float | None = None  # share of pixels that got a pseudo-label
    pseudo_precision: float | None = None  # share of those that are right


@dataclass(frozen=True, kw_only=True)
class ModelFigures:
    """The network as it shrank: dense, pruned, compressed."""

    started_from: str | None = None  # champion, pretrained or scratch: the weights before training
    miou_start: float | None = None  # with them
    parameters_dense: int | None = None
    parameters_pruned: int | None = None
    parameters_compressed: int | None = None
    macs_dense: int | None = None
    macs_compressed: int | None = None
    latency_ms_dense: float | None = None
    latency_ms_compressed: float | None = None
    miou_dense: float | None = None
    miou_pruned: float | None = None
    miou_compressed: float | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationFigures:
    """What the shipped network does on the frozen test set."""

    miou: float | None = None
    iou_by_class: Mapping[str, float | None] | None = None  # class name: IoU
    miou_by_condition: Mapping[str, float | None] | None = None  # "time_of_day=night": mIoU
    frames: int | None = None
    failures: int | None = None
    failure_rate_upper_95: float | None = None


@dataclass(frozen=True, kw_only=True)
class GateFigures:
    """What one gate said."""

    name: str
    verdict: str  # passed, warned, waived or refused
    failed_expectations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromotionFigures:
    """Whether the network replaces the champion."""

    decision: str | None = None
    reason: str | None = None
    judged: tuple[str, ...] | None = None  # overall, conditions and classes that were compared with the champion
    not_judged: tuple[str, ...] | None = None  # of which too little was seen
    reference: str | None = None  # release that only people move
    miou_since_reference: float | None = None
    miou_since_reference_lower_95: float | None = None


@dataclass(frozen=True, kw_only=True)
class NightSummary:
    """Every figure of a night; None means that it was not measured."""

    run: str
    night: str | None = None  # its name among all nights of the registry
    status: str  # one of STATUSES
    profile: str
    seconds: float | None = None  # of all tasks' work
    cost: float | None = None  # of the same, by the price table
    currency: str | None = None  # of cost
    stages: tuple[StageFigures, ...] = ()
    pool: PoolFigures = field(default_factory=PoolFigures)
    selection: SelectionFigures = field(default_factory=SelectionFigures)
    data: DataFigures = field(default_factory=DataFigures)
    adaptation: AdaptationFigures = field(default_factory=AdaptationFigures)
    model: ModelFigures = field(default_factory=ModelFigures)
    evaluation: EvaluationFigures = field(default_factory=EvaluationFigures)
    gates: tuple[GateFigures, ...] = ()
    promotion: PromotionFigures = field(default_factory=PromotionFigures)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(f"night status is {self.status!r}; use {', '.join(STATUSES)}")


def _names(section: Any) -> tuple[str, ...]:
    kind = next(iter(get_args(section)), section)
    return tuple(each.name for each in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


# The contract with whoever reads summary.json. Top-level key: the keys inside it (of each entry, where it is a list).
SUMMARY_KEYS = {name: _names(section) for name, section in get_type_hints(NightSummary).items()}


def summary_dict(summary: NightSummary) -> dict[str, Any]:
    """Turn a night's figures into plain JSON values with the keys of SUMMARY_KEYS, in that order.

    None and NaN (a class that does not occur has no IoU) both become None. Raises InputError on an infinite figure,
    naming its key.
    """
    return {name: _plain(getattr(summary, name), name) for name in SUMMARY_KEYS}


def _plain(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            each.name: _plain(getattr(value, each.name), f"{where}.{each.name}") for each in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each, f"{where}[{index}]") for index, each in enumerate(value)]
    return _scalar(value, where)


def _scalar(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        raise InputError(f"summary figure {where} is {value}; give a finite number, or None when it was not measured")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"summary figure {where} is a {type(value).__name__}; give a number, a text or None")


def write_summary(summary: NightSummary, path: Path) -> None:
    """Write summary.json whole or not at all: UTF-8, keys in the order of SUMMARY_KEYS, never NaN.

    Equal summaries give equal bytes. Raises InputError as summary_dict does.
    """
    text = json.dumps(summary_dict(summary), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    replace_file(path, text.encode())
