"""The morning page: everything a person wants to know of a night, in one HTML file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from perception.data.taxonomies import Taxonomy
from perception.errors import InputError
from perception.reporting import charts, evaluation_panel, pictures
from perception.reporting.summary import NightSummary

TEMPLATES = Path(__file__).parent / "templates"
MAX_PAGE_BYTES = 3_000_000
# Pictures shrink together, level by level, until the page fits: (share of the picture width, bytes a picture).
PICTURE_LEVELS = ((1.0, 24_000), (0.75, 13_000), (0.5, 7_000), (0.3, 3_000))
MAX_CHOSEN, MAX_ADAPTED, MAX_TESTED, MAX_OFFENDERS, MAX_REJECTED, MAX_LAYERS = 24, 4, 8, 8, 100, 60
MAX_TEXT_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class ChosenFrame:
    """A frame that goes to annotation, and why."""

    frame_id: str
    rank: int
    score: float | None
    reason: str
    image: np.ndarray | None  # (height, width, 3) uint8
    uncertainty: np.ndarray | None = None  # (height, width) float
    conditions: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectionPanel:
    """The choice of the night."""

    frames: tuple[ChosenFrame, ...]  # in order of rank
    miou_labeled_so_far: float | None = None  # the same network on what was labelled before tonight
    seeds: int | None = None  # trainings behind each figure of the A/B comparison
    comparison: str = ""  # the two arms' spread over seeds and their difference, in words
    uncertainty_high: float | None = None  # value painted lightest; None: the highest of the maps shown
    model_sha256: str | None = None  # the ensemble that scored


@dataclass(frozen=True, kw_only=True)
class AdaptedFrame:
    """One real frame as source-only network, fusion, pseudo-label and the network that learned from those see it."""

    frame_id: str
    image: np.ndarray  # (height, width, 3) uint8
    source_only: np.ndarray | None = None  # (height, width) uint8 class ids, as the next four
    fused: np.ndarray | None = None
    pseudo: np.ndarray | None = None  # 255 = no pseudo-label
    student: np.ndarray | None = None
    label: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptationPanel:
    """What the simulator taught."""

    frames: tuple[AdaptedFrame, ...] = ()
    coverage_by_class: Mapping[str, float | None] = field(
        default_factory=dict
    )  # share of the class's pixels that got a pseudo-label
    precision_by_class: Mapping[str, float | None] = field(default_factory=dict)
    threshold_by_class: Mapping[str, float | None] = field(default_factory=dict)
    collapsed_classes: tuple[str, ...] = ()
    verdict: str = ""  # whether fusion was worth it, in words
    detector: Mapping[str, Any] = field(
        default_factory=dict
    )  # ap50_boxes, ap50_masks, judged_frames, instances by class
    trust: Mapping[str, tuple[bool, str]] = field(default_factory=dict)  # foreground class: from the detector? why


@dataclass(frozen=True, kw_only=True)
class ModelVariant:
    """One stage of the network's shrinking."""

    name: str  # dense, pruned, compressed
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    miou: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerNeurons:
    """Output channels of a layer before and after pruning."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class ModelPanel:
    """The network: its sizes, its speed, its training."""

    variants: tuple[ModelVariant, ...]
    miou_full_labels: float | None = None  # the same network trained on every label there is: the upper bound
    loss_curves: tuple[charts.Series, ...] = ()  # points (epoch, loss)
    layers: tuple[LayerNeurons, ...] = ()
    latency_note: str = ""  # where and how latency was measured


@dataclass(frozen=True, kw_only=True)
class TestedFrame:
    """A test frame with what the shipped network made of it."""

    frame_id: str
    note: str  # worst, median, best
    image: np.ndarray  # (height, width, 3) uint8
    label: np.ndarray  # (height, width) uint8 class ids, 255 = ignore
    prediction: np.ndarray  # (height, width) uint8 class ids
    miou: float | None = None
    conditions: str = ""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A wrong region cut out of its frame, with its outline."""

    frame_id: str
    image: np.ndarray  # (height, width, 3) uint8


@dataclass(frozen=True, kw_only=True)
class FailureCluster:
    """Regions that went wrong alike."""

    name: str  # what was taken for what
    share: float  # of the wrong pixels in the regions found
    regions: int
    frames: int
    crops: tuple[Crop, ...]  # the largest regions


@dataclass(frozen=True, kw_only=True)
class EvaluationPanel:
    """How good the shipped network is, and where it is not."""

    frames_by_condition: Mapping[str, int] = field(default_factory=dict)  # the keys of miou_by_condition
    failure_rule: str = ""  # when a frame counts as failed, in plain words
    champion_miou: float | None = None
    champion_iou_by_class: Mapping[str, float | None] = field(default_factory=dict)
    champion_miou_by_condition: Mapping[str, float | None] = field(default_factory=dict)
    frames: tuple[TestedFrame, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)  # all that was measured: the content of evaluation.json
    clusters: tuple[FailureCluster, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OffendingFrame:
    """A frame (or another row) that broke an expectation."""

    frame_id: str
    value: str
    image: np.ndarray | None = None  # (height, width, 3) uint8


@dataclass(frozen=True, kw_only=True)
class FailedExpectation:
    """A rule of a gate that did not hold."""

    name: str
    rule: str  # in plain words
    bound: str
    observed: str
    offenders: tuple[OffendingFrame, ...] = ()
    offenders_total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A written, dated permission to go on although an expectation failed."""

    expectation: str
    reason: str
    who: str
    expires: str  # ISO date


@dataclass(frozen=True, kw_only=True)
class GatePanel:
    """What a gate found."""

    name: str
    verdict: str  # passed, waived or refused
    expectations: int | None = None  # rules checked
    failed: tuple[FailedExpectation, ...] = ()
    waivers: tuple[Waiver, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RejectedFrame:
    """A file that ingest could not use."""

    path: str
    rule: str
    remedy: str
    frame_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """All that the page shows; a panel that is None says that its stage did not get that far."""

    summary: NightSummary
    taxonomy: Taxonomy  # of every label map on the page
    started_utc: str | None = None
    failed_stage: str | None = None  # with status failed
    refused_gate: str | None = None  # with status refused
    error_lines: tuple[str, ...] = ()  # the last lines of what went wrong
    selection: SelectionPanel | None = None
    adaptation: AdaptationPanel | None = None
    model: ModelPanel | None = None
    evaluation: EvaluationPanel | None = None
    reproduce_command: str | None = None  # gives the data version of this night again
    gates: tuple[GatePanel, ...] = ()
    rejected: tuple[RejectedFrame, ...] = ()
    rejected_total: int = 0
    parameters: Mapping[str, object] = field(default_factory=dict)  # dotted name: value
    lineage: Mapping[str, str | None] = field(default_factory=dict)  # code commit, parameters sha256, package versions

    def __post_init__(self) -> None:
        if self.summary.status == "refused" and not self.refused_gate:
            raise InputError("a refused night needs refused_gate; name the gate that refused it")
        if self.summary.status == "failed" and not self.failed_stage:
            raise InputError("a failed night needs failed_stage; name the stage that failed")


def render_report(night: NightReport) -> str:
    """Render a night as one HTML file: styles, pictures and charts inline, no script, below 3 MB.

    Pictures shrink together until the page fits. What was not measured is shown as "not measured", never as 0.
    """
    for width_share, picture_bytes in PICTURE_LEVELS:
        html = _render(night, width_share, picture_bytes)
        if len(html.encode()) <= MAX_PAGE_BYTES:
            return html
    raise InputError(
        f"report of run {night.summary.run} is above {MAX_PAGE_BYTES} bytes without its pictures; shorten its texts"
    )


def _render(night: NightReport, width_share: float, picture_bytes: int) -> str:
    environment = template_environment()
    environment.filters.update(_picture_filters(night, width_share, picture_bytes))
    return environment.get_template("report.html").render(
        night=night, s=night.summary, taxonomy=night.taxonomy, **_views(night)
    )


def template_environment() -> jinja2.Environment:
    """Return the environment that renders the pages' templates, with the filters that write numbers."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number_filters())
    return environment


def number_filters() -> dict[str, Any]:
    return {
        "percent": _or_unmeasured(charts.percent),
        "count": _or_unmeasured(lambda value: f"{value:,}".replace(",", " ")),
        "short": _or_unmeasured(short_count),
        "milliseconds": _or_unmeasured(lambda value: f"{value:.2f}" if value < 10 else f"{value:.1f}"),
        "seconds": _or_unmeasured(duration),
        "decimal": _or_unmeasured(lambda value: f"{value:.3f}"),
        "mebibytes": _or_unmeasured(lambda value: f"{value:.0f}"),
        "condition": lambda name: name.replace("=", ": ").replace("_", " "),
        "plain": lambda name: name.replace("_", " "),
        "spoken": evaluation_panel.in_words,
        "clip": lambda text: text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 1] + "…",
    }


def _or_unmeasured(number: Any) -> Any:
    absent = Markup('<span class="unmeasured">{}</span>').format(charts.NOT_MEASURED)
    return lambda value: absent if value is None or value != value else number(value)


def short_count(value: float) -> str:
    """Write a count with three figures and a unit sign: 2064191 is "2.06 M"."""
    for sign, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.3g} {sign}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Write seconds as "7 h 02 min", "8 min 05 s" or "4.2 s"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ratio(before: float | None, after: float | None) -> float | None:
    """Give before / after, or None when one of them is missing or after is 0."""
    return before / after if before is not None and after else None


def _picture_filters(night: NightReport, width_share: float, picture_bytes: int) -> dict[str, Any]:
    maps = (
        [each.uncertainty for each in night.selection.frames[:MAX_CHOSEN] if each.uncertainty is not None]
        if night.selection
        else []
    )
    high = night.selection.uncertainty_high if night.selection else None
    high = high or max([float(np.nanmax(each)) for each in maps] + [1e-9])
    painted = picture_filters(night.taxonomy, width_share, picture_bytes)
    photo = painted["photo"]
    return painted | {"heat": lambda values, width_px: photo(pictures.heat_map(values, 0.0, high), width_px)}


def picture_filters(taxonomy: Taxonomy, width_share: float, picture_bytes: int) -> dict[str, Any]:
    """Return the filters that turn arrays into data URIs: photo, classes, errors; each takes a width in pixels."""
    colors = taxonomy.colors
    return {
        "photo": lambda pixels, width_px: pictures.jpeg_data_uri(pixels, int(width_px * width_share), picture_bytes),
        "classes": lambda label, width_px: pictures.indexed_png_data_uri(label, colors, int(width_px * width_share)),
        "errors": lambda frame, width_px: pictures.indexed_png_data_uri(
            pictures.error_codes(frame.label, frame.prediction), pictures.error_palette(), int(width_px * width_share)
        ),
    }


def _views(night: NightReport) -> dict[str, Any]:
    """Compute what the template shows but the report does not hold as such: ratios, charts, what is cut off."""
    return {
        "ratio": ratio,
        "limits": {
            "chosen": MAX_CHOSEN, "adapted": MAX_ADAPTED, "tested": MAX_TESTED,
            **evaluation_panel.LIMITS, "offenders": MAX_OFFENDERS, "rejected": MAX_REJECTED, "layers": MAX_LAYERS,
        },
        "longest_stage_seconds": max((each.seconds or 0.0 for each in night.summary.stages), default=0.0),
        "worst_condition": _worst_known(night) or _worst(night.summary.evaluation.miou_by_condition),
        "chart": {
            "ab": _ab_chart(night),
            "adaptation": _adaptation_chart(night),
            "foreground": _part_chart(night, "foreground"),
            "background": _part_chart(night, "background"),
            "loss": _loss_chart(night),
            "layers": _layer_chart(night),
            "classes": _class_chart(night),
            "conditions": _condition_chart(night),
            "evaluation": evaluation_panel.evaluation_charts(night.evaluation.figures if night.evaluation else {}),
        },
    }  # fmt: skip


def _worst_known(night: NightReport) -> tuple[str, float] | None:
    """Return the worst single condition that has enough frames and drives to be judged; None where none has."""
    slices = night.evaluation.figures.get("slices", []) if night.evaluation else []
    known = {row["name"]: row["miou"] for row in slices if row["known"] and not row["cell"]}
    return _worst(known)


def _worst(figures: Mapping[str, float | None] | None) -> tuple[str, float] | None:
    measured = [(value, name) for name, value in (figures or {}).items() if value is not None and value == value]
    return (min(measured)[1], min(measured)[0]) if measured else None


def _ab_chart(night: NightReport) -> Any:
    panel = night.selection
    if panel is None:
        return ""
    figures = night.summary.selection
    bars = [
        charts.Bar(label="chosen", value=figures.miou_selected),
        charts.Bar(label="random", value=figures.miou_random, tone=1),
        charts.Bar(label="labelled so far", value=panel.miou_labeled_so_far, tone=2),
    ]
    return charts.horizontal_bars(bars, title="mIoU, % – the same network, the same budget", maximum=1.0)


def _adaptation_chart(night: NightReport) -> Any:
    return _ways_chart(night, "miou", "mIoU on real frames, %")


def _part_chart(night: NightReport, part: str) -> Any:
    return _ways_chart(night, f"{part}_miou", f"mIoU of the {part} classes, %")


def _ways_chart(night: NightReport, figure: str, title: str) -> Any:
    values = {
        name: getattr(night.summary.adaptation, f"{figure}_{name}") for name in ("source_only", "fused", "pseudo")
    }
    bars = [
        charts.Bar(label="source only", value=values["source_only"], tone=1),
        charts.Bar(label="fused", value=values["fused"], tone=2),
        charts.Bar(label="pseudo-labels", value=values["pseudo"]),
    ]
    return charts.horizontal_bars(bars, title=title, maximum=1.0)


def _loss_chart(night: NightReport) -> Any:
    if night.model is None or not night.model.loss_curves:
        return ""
    return charts.line_chart(night.model.loss_curves, title="Training loss", x_label="epoch")


def _layer_chart(night: NightReport) -> Any:
    if night.model is None or not night.model.layers:
        return ""
    layers = night.model.layers[:MAX_LAYERS]
    bars = [charts.Bar(label=each.name, value=each.after, whole=each.before) for each in layers]
    return charts.horizontal_bars(
        bars,
        title="Neurons by layer, after / before",
        maximum=max(each.before for each in layers),
        number="{:.0f}".format,
    )


def _class_chart(night: NightReport) -> Any:
    panel = night.evaluation or EvaluationPanel()
    intervals = panel.figures.get("iou_interval_by_class", {})
    return evaluation_panel.class_chart(
        night.summary.evaluation.iou_by_class or {}, intervals, panel.champion_iou_by_class
    )


def _condition_chart(night: NightReport) -> Any:
    panel = night.evaluation or EvaluationPanel()
    measured = {row["name"]: row for row in panel.figures.get("slices", [])}
    bars = []
    for name, value in evaluation_panel.worst_first(night.summary.evaluation.miou_by_condition or {}):
        frames = panel.frames_by_condition.get(name)
        note = "" if frames is None else f"{frames} frame{'' if frames == 1 else 's'}"
        label = name.partition("=")[2] or name
        reference = panel.champion_miou_by_condition.get(name)
        ends = measured.get(name, {}).get("interval")
        bars.append(
            charts.Bar(
                label=label.replace("_", " "),
                value=value,
                note=note,
                reference=reference,
                interval=ends and tuple(ends),
            )
        )
    return charts.horizontal_bars(bars, title="mIoU by condition, %", maximum=1.0, reference_name="champion")
