"""The morning page: everything a person wants to know of a night, in one HTML file that needs nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from perception.data.taxonomies import Taxonomy
from perception.errors import InputError
from perception.quality.gate import Verdict
from perception.reporting import charts, evaluation_panel, pictures
from perception.reporting.records import Adaptation, Evaluation, LayerNeurons
from perception.reporting.summary import NightSummary, SelectionFigures

MAX_PAGE_BYTES = 3_000_000
# Pictures shrink together, level by level, until the page fits: (share of the picture width, bytes a picture).
PICTURE_LEVELS = ((1.0, 24_000), (0.75, 13_000), (0.5, 7_000), (0.3, 3_000))
MAX_CHOSEN, MAX_ADAPTED, MAX_TESTED, MAX_OFFENDERS, MAX_REJECTED, MAX_LAYERS = 24, 4, 8, 8, 100, 60
MAX_TEXT_CHARACTERS = 400
LIMITS = evaluation_panel.LIMITS | {
    "chosen": MAX_CHOSEN, "adapted": MAX_ADAPTED, "tested": MAX_TESTED,
    "offenders": MAX_OFFENDERS, "rejected": MAX_REJECTED, "layers": MAX_LAYERS,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ChosenFrame:
    """A frame that goes to annotation, and why."""

    frame_id: str
    rank: int
    score: float
    reason: str
    image: np.ndarray  # (height, width, 3) uint8
    uncertainty: np.ndarray | None = None  # (height, width) float
    conditions: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectionPanel:
    """The choice of the night."""

    frames: tuple[ChosenFrame, ...]  # in order of rank
    seeds: int | None = None  # trainings behind each figure of the A/B comparison
    comparison: str = ""  # the two arms' spread over seeds and their difference, in words
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

    frames: tuple[AdaptedFrame, ...]
    record: Adaptation


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
class ModelPanel:
    """The network: its sizes, its speed, its training."""

    variants: tuple[ModelVariant, ...]
    loss_curves: tuple[charts.Series, ...] = ()  # points (epoch, loss)
    layers: tuple[LayerNeurons, ...] = ()
    start_reason: str = ""  # why its weights came from where they came from


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
class EvaluationPanel:
    """How good the shipped network is, and where it is not."""

    figures: Evaluation
    frames: tuple[TestedFrame, ...] = ()
    # of regions that went wrong alike: name (what was taken for what), share, regions, frames, and crops of the largest
    clusters: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class GatePanel:
    """What a gate found."""

    name: str
    verdict: Verdict
    images: Mapping[str, np.ndarray] = field(default_factory=dict)  # frame_id: (height, width, 3) uint8


@dataclass(frozen=True, kw_only=True)
class RejectedFrame:
    """A file that ingest could not use."""

    path: str
    rule: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """All that the page shows; a panel that is None says that its stage did not get that far."""

    summary: NightSummary
    taxonomy: Taxonomy  # of every label map on the page
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
    parameters: Mapping[str, object] = field(default_factory=dict)  # dotted name: value
    lineage: Mapping[str, str | None] = field(default_factory=dict)  # code commit, parameters sha256, package versions

    at_annotators: int | None = None  # frames, once the night had published
    overdue: int | None = None  # of these, frames whose label should have come

    def __post_init__(self) -> None:
        if self.summary.status == "refused" and not self.refused_gate:
            raise InputError("a refused night needs refused_gate; name the gate that refused it")
        if self.summary.status == "failed" and not self.failed_stage:
            raise InputError("a failed night needs failed_stage; name the stage that failed")


def render_report(night: NightReport) -> str:
    """Render a night as one HTML file: styles, pictures and charts inline, no script, below 3 MB.

    Pictures shrink together until the page fits. What was not measured is shown as "not measured", never as 0.
    """
    environment = template_environment()
    shown = {"night": night, "s": night.summary, "taxonomy": night.taxonomy, "ratio": ratio, "limits": LIMITS}
    shown |= {"chart": _charts(night), "worst_condition": _worst_condition(night)}
    shown |= {"longest_stage_seconds": max((each.seconds or 0.0 for each in night.summary.stages), default=0.0)}

    def render(width_share: float, picture_bytes: int) -> str:
        environment.filters |= picture_filters(night.taxonomy, width_share, picture_bytes)
        environment.filters["heat"] = _heat_filter(night.selection, environment.filters["photo"])
        return environment.get_template("report.html").render(**shown)

    return fitting(render, f"report of run {night.summary.run}")


def fitting(render: Callable[[float, int], str], what: str) -> str:
    """Return the page with the largest pictures that is below 3 MB.

    render: writes it for a share of the pictures' width and the bytes of each. Raises InputError, naming `what`, where
    none is small enough.
    """
    for level in PICTURE_LEVELS:
        html = render(*level)
        if len(html.encode()) <= MAX_PAGE_BYTES:
            return html
    raise InputError(f"{what} is above {MAX_PAGE_BYTES} bytes with the smallest pictures; shorten its texts")


def template_environment() -> jinja2.Environment:
    """Return the environment that renders the pages' templates, with the filters that write numbers."""
    environment = charts.page_environment()
    environment.filters |= {
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
        "facts": lambda row: ", ".join(f"{name} {row[name]}" for name in row if name not in ("frame_id", "gate_id")),
        "clip": lambda text: text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 1] + "…",
    }
    return environment


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


def _heat_filter(panel: SelectionPanel | None, photo: Any) -> Any:
    """Return the filter that paints a map of uncertainty; one scale for all maps of the panel."""
    maps = [each.uncertainty for each in panel.frames[:MAX_CHOSEN]] if panel else []
    high = max([float(np.nanmax(each)) for each in maps if each is not None] + [1e-9])
    return lambda values, width_px: photo(pictures.heat_map(values, 0.0, high), width_px)


def picture_filters(taxonomy: Taxonomy, width_share: float, picture_bytes: int) -> dict[str, Any]:
    """Return the filters that turn arrays into data URIs: photo, classes, errors; each takes a width in pixels."""
    colors = taxonomy.colors
    return {
        "photo": lambda pixels, width_px: pictures.jpeg_data_uri(pixels, int(width_px * width_share), picture_bytes),
        "classes": lambda label, width_px: pictures.indexed_png_data_uri(label, colors, int(width_px * width_share)),
        "errors": lambda frame, width_px: pictures.indexed_png_data_uri(
            pictures.error_codes(frame.label, frame.prediction), pictures.ERROR_COLORS, int(width_px * width_share)
        ),
    }


def _charts(night: NightReport) -> dict[str, Any]:
    """Draw the charts of every panel that the night got to, by name; an empty text where there is nothing to draw."""
    drawn: dict[str, Any] = dict.fromkeys(("ab", "loss", "layers", "classes", "conditions"), "")
    if night.selection:
        drawn["ab"] = _selection_chart(night.summary.selection)
    if night.model and night.model.loss_curves:
        drawn["loss"] = charts.line_chart(night.model.loss_curves, title="Training loss", x_label="epoch")
    if night.model and night.model.layers:
        drawn["layers"] = _layer_chart(night.model.layers[:MAX_LAYERS])
    if night.adaptation:
        drawn |= _adaptation_charts(night.adaptation.record)
    if night.evaluation:
        figures = night.evaluation.figures
        drawn |= {"classes": evaluation_panel.class_chart(figures), "conditions": _condition_chart(figures)}
        drawn["evaluation"] = evaluation_panel.evaluation_charts(figures)
    return drawn


def _worst_condition(night: NightReport) -> tuple[str, float] | None:
    """Return the worst condition with enough frames and drives to be judged, else the worst of all; None where none is."""
    if night.evaluation is None:
        return None
    figures = night.evaluation.figures
    known = {row["name"]: row["miou"] for row in figures["slices"] if row["known"] and not row["cell"]}
    for values in (known, figures["miou_by_condition"]):
        measured = [(value, name) for name, value in values.items() if value is not None]
        if measured:
            value, name = min(measured)
            return name, value
    return None


def _selection_chart(figures: SelectionFigures) -> Markup:
    bars = [
        charts.Bar(label="chosen", value=figures.miou_selected),
        charts.Bar(label="random", value=figures.miou_random, tone=1),
    ]
    return charts.horizontal_bars(bars, title="mIoU, % – the same network, the same budget", maximum=1.0)


def _adaptation_charts(record: Adaptation) -> dict[str, Markup]:
    titles = {
        "adaptation": ("miou", "mIoU on real frames, %"),
        "foreground": ("foreground_miou", "mIoU of the foreground classes, %"),
        "background": ("background_miou", "mIoU of the background classes, %"),
    }
    drawn = {}
    for chart, (figure, title) in titles.items():
        bars = [
            charts.Bar(label=label, value=getattr(record, f"{figure}_{way}"), tone=tone)
            for way, label, tone in (
                ("source_only", "source only", 1),
                ("fused", "fused", 2),
                ("pseudo", "pseudo-labels", 0),
            )
        ]
        drawn[chart] = charts.horizontal_bars(bars, title=title, maximum=1.0)
    return drawn


def _layer_chart(layers: tuple[LayerNeurons, ...]) -> Markup:
    return charts.horizontal_bars(
        [charts.Bar(label=each.layer, value=each.after, whole=each.before) for each in layers],
        title="Neurons by layer, after / before",
        maximum=max(each.before for each in layers),
        number="{:.0f}".format,
    )


def _condition_chart(figures: Evaluation) -> Markup:
    measured = {row["name"]: row for row in figures["slices"]}
    champion = (figures["comparison"] or {}).get("champion_miou_by_condition", {})
    bars = []
    for name, value in evaluation_panel.worst_first(figures["miou_by_condition"]):
        frames = figures["frames_by_condition"][name]
        bars.append(
            charts.Bar(
                label=evaluation_panel.in_words(name),
                value=value,
                note=f"{frames} frame{'' if frames == 1 else 's'}",
                reference=champion.get(name),
                interval=evaluation_panel.ends(measured.get(name, {}).get("interval")),
            )
        )
    return charts.horizontal_bars(bars, title="mIoU by condition, %", maximum=1.0, reference_name="champion")
