"""The JSON records in which stages say what they found, as far as another stage reads them."""

from dataclasses import dataclass
from typing import Any, Literal

from typing_extensions import TypedDict

ByClass = dict[str, float | None]
ByCondition = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Hold selection.json."""

    strategy: str
    budget_frames: int
    pool_frames: int
    model_sha256: str  # of the ensemble that scored
    annotation_batch: str  # name of the batch that goes to the annotators


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Hold comparison.json: mIoU of each arm by seed, None for an arm whose labels are not there."""

    seeds: int
    miou_selected: tuple[float, ...] | None
    miou_random: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class PublishedVersion:
    """Hold version.json."""

    tag: str
    manifest_sha256: str
    parent: str | None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What was measured of the detector; None where no test frame has instances."""

    instances: dict[str, int]  # by class name, that it learned from
    judged_frames: int
    ap50_boxes: float | None
    ap50_masks: float | None


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Say which of the detector's instances are kept."""

    score_threshold: float
    class_score_thresholds: dict[str, float]


# Whether pseudo-labels take a foreground class from the detector, and why.
Trust = TypedDict("Trust", {"class": str, "trusted": bool, "reason": str})


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Hold adaptation.json; figures are IoU on labelled real frames, None where not measured.

    source_only: the segmenter alone; fused: with the detector's instances; pseudo: the network that learned from
    pseudo-labels.
    """

    miou_source_only: float | None
    miou_fused: float | None
    miou_pseudo: float | None
    foreground_miou_source_only: float | None
    foreground_miou_fused: float | None
    foreground_miou_pseudo: float | None
    background_miou_source_only: float | None
    background_miou_fused: float | None
    background_miou_pseudo: float | None
    iou_by_class: dict[str, ByClass | None]  # source_only, fused, pseudo: class: IoU
    pseudo_coverage: float | None  # share of pixels that got a pseudo-label
    pseudo_precision: float | None  # share of those that are right, on frames that decided nothing about them
    pseudo_precision_interval: list[float] | None  # 95 %, over drives; None where too few are known
    coverage_by_class: ByClass  # share of the class's pixels that got a pseudo-label
    precision_by_class: ByClass
    threshold_by_class: dict[str, float]
    collapsed_classes: tuple[str, ...]
    fusion_verdict: str  # whether fusion was worth it, in words
    started_from: Literal["pretrained", "scratch"]  # the segmenter, before the simulator taught it
    fusion: Fusion
    detector: Detector | None
    trust: tuple[Trust, ...]


@dataclass(frozen=True, kw_only=True)
class LayerNeurons:
    """Output channels of a layer before and after pruning."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks:
    """Hold network.json: the dense and the pruned network."""

    parameters_dense: int
    parameters_pruned: int
    macs_dense: int
    macs_pruned: int
    started_from: Literal["champion", "pretrained", "scratch"]  # the weights before training
    start_reason: str
    started_from_model: str | None  # model_sha256 of the champion
    miou_start: float  # with them
    miou_dense: float
    miou_pruned: float
    loss: dict[str, tuple[float, ...]]  # dense, pruned: of every epoch
    layers: tuple[LayerNeurons, ...]
    closed_branches: tuple[str, ...]
    data_manifest_sha256: str
    code_commit: str | None
    image: str | None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Hold card.json, of the network that ships."""

    parameters: int
    parameters_dense: int
    macs: int
    macs_dense: int
    bytes: int
    bytes_dense: int
    miou: float
    onnx_sha256: str
    started_from_model: str | None  # model_sha256 of the champion that its training went on from
    data_manifest_sha256: str
    code_commit: str | None
    image: str | None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Hold milliseconds of a network for one frame."""

    median_ms: float


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Hold latency.json."""

    dense: Latency
    model: Latency  # the one that ships


class Promotion(TypedDict):
    """Whether the network replaces the champion, and by what it was judged."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]  # noqa: RUF012 - how pydantic is told

    decision: str
    reason: str
    reasons: list[str]  # weightiest first


class Evaluation(TypedDict):
    """Hold evaluation.json, with keys beside these; figures are of the shipped network on the frozen test set."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]  # noqa: RUF012 - how pydantic is told

    miou: float | None
    miou_interval: list[float] | None
    iou_by_class: ByClass
    iou_interval_by_class: dict[str, list[float] | None]
    iou_by_category: ByClass
    miou_by_condition: ByCondition  # "time_of_day=night": mIoU
    frames_by_condition: dict[str, int]
    frames: int
    drives: int
    confidence: float
    frequency_weighted_iou: float | None
    pixel_accuracy: float | None
    boundary_iou: dict[str, Any] | None
    calibration: dict[str, Any] | None
    failures: int
    failure_rule: str  # when a frame counts as failed, in plain words
    failure_rate_upper_95: float
    objects: dict[str, Any]  # of the contract's classes and sizes: how many there are, and how many were missed
    failure_clusters: list[dict[str, Any]]
    miou_champion: float | None
    comparison: dict[str, Any] | None
    fresh: dict[str, Any] | None  # on footage that no network has learned from; None outside a night
    promotion: Promotion
    slices: list[dict[str, Any]]
    domain: list[dict[str, Any]]
    evidence: dict[str, Any]
    shift: list[dict[str, Any]]
    latency: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    test_set_sha256: str
