"""A compact anchor-free detector of foreground with instance masks: class, box, mask and score.

Centres are peaks of one heat map a class (Zhou, Wang, Krähenbühl, "Objects as Points", 2019, arXiv 1904.07850), boxes
are distances to their four sides, and a mask is a tiny network whose weights the centre predicts (Tian, Shen, Chen,
"Conditional Convolutions for Instance Segmentation", ECCV 2020, arXiv 2003.05664). That network reads features and the
position inside the box at single points, so masks are trained on a grid of points and drawn at every pixel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.adaptation.fusion import Instances
from perception.errors import InputError
from perception.models.efficientnet_lite import PYRAMID_CHANNELS, EfficientNetLiteEncoder, PyramidDecoder
from perception.models.erfnet import Downsampler, NonBottleneck1D
from perception.models.modes import evaluation_mode
from perception.parameters import Count, Fraction, checked

STRIDE_PX = 4  # pixels between two neighbouring centres
MASK_STRIDE_PX = 2  # pixels between two neighbouring mask features
MASK_CHANNELS, HIDDEN_CHANNELS = 8, 8
# Weights and biases of the mask network: (features + 2 coordinates) → hidden → 1.
CONTROLLER_CHANNELS = (MASK_CHANNELS + 2) * HIDDEN_CHANNELS + HIDDEN_CHANNELS + HIDDEN_CHANNELS + 1
_BOX_UNIT_PX = 8.0  # a box output of 0 means this distance
_MAX_BOX_LOG = 4.5  # so no side is farther than 8 e^4.5 = 720 pixels
_PRIOR_LOGIT = -4.0  # centres are rare: training starts from a score of 2 %


class DetectorOutput(NamedTuple):
    """What the network says about every place of every frame.

    heat: (frame, class, h/4, w/4) logits; sides: (frame, 4, h/4, w/4) distances in pixels from the place to the box's
    left, top, right and bottom; controllers: (frame, 97, h/4, w/4); mask_features: (frame, 8, h/2, w/2).
    """

    heat: Tensor
    sides: Tensor
    controllers: Tensor
    mask_features: Tensor


class ForegroundDetector(nn.Module):
    """Find foreground instances; `width` multiplies the channels 12, 32 and 64 of its three resolutions.

    Raises InputError when a parameter is out of range.
    """

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        _check_classes(classes)
        if not 0.25 <= width <= 8:
            raise InputError(f"width {width}: the detector's width factor lies in [0.25, 8]; 1 is for one CPU core")
        self.arguments = {"classes": classes, "width": width}
        # A down-sampler adds channels to its three colours, so the first one gives at least four.
        half, quarter, eighth = (max(4, round(channels * width)) for channels in (12, 32, 64))
        self.at_half = nn.Sequential(Downsampler(3, half), NonBottleneck1D(half, 0.0, 1))
        self.at_quarter = nn.Sequential(Downsampler(half, quarter), *_blocks(quarter, (1, 1)))
        self.at_eighth = nn.Sequential(Downsampler(quarter, eighth), *_blocks(eighth, (1, 2, 4, 8)))
        self.down_eighth = nn.Conv2d(eighth, quarter, 1)
        self.merge = _convolution(quarter, quarter)
        self.heat = _head(quarter, classes, bias=_PRIOR_LOGIT)
        self.shape = _head(quarter, 4 + CONTROLLER_CHANNELS)
        self.down_quarter = nn.Conv2d(quarter, half, 1)
        self.mask = _head(half, MASK_CHANNELS)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Map images (frame, 3, h, w) float in [0, 1] to a DetectorOutput; h and w are multiples of 8."""
        half = self.at_half(images)
        quarter = self.at_quarter(half)
        merged = self.merge(quarter + _doubled(self.down_eighth(self.at_eighth(quarter))))
        mask_features = self.mask(half + _doubled(self.down_quarter(merged)))
        return _output(self.heat(merged), self.shape(merged), mask_features)


class PyramidDetector(nn.Module):
    """Find foreground instances with EfficientNet-Lite's encoder and pyramid, which may start from ImageNet's weights.

    Raises InputError when a parameter is out of range.
    """

    def __init__(self, classes: int, version: int = 0) -> None:
        super().__init__()
        _check_classes(classes)
        self.arguments = {"classes": classes, "version": version}
        self.encoder = EfficientNetLiteEncoder(version)
        half, *larger = self.encoder.channels
        self.decoder = PyramidDecoder(tuple(larger))
        self.heat = _head(PYRAMID_CHANNELS, classes, bias=_PRIOR_LOGIT)
        self.shape = _head(PYRAMID_CHANNELS, 4 + CONTROLLER_CHANNELS)
        self.down_quarter = nn.Conv2d(PYRAMID_CHANNELS, half, 1)
        self.mask = _head(half, MASK_CHANNELS)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Map images (frame, 3, h, w) float in [0, 1] to a DetectorOutput; h and w are multiples of 4."""
        half, *smaller = self.encoder(images)
        merged = self.decoder(smaller)
        mask_features = self.mask(half + _doubled(self.down_quarter(merged)))
        return _output(self.heat(merged), self.shape(merged), mask_features)


# What perception.models.checkpoint needs to save and load detectors.
DETECTOR_NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {kind.__name__: kind for kind in (ForegroundDetector, PyramidDetector)}
)


def _check_classes(classes: int) -> None:
    if not 1 <= classes <= 100:
        raise InputError(f"classes {classes}: the detector needs 1 to 100 foreground classes")


def _output(heat: Tensor, shape: Tensor, mask_features: Tensor) -> DetectorOutput:
    log_sides, controllers = torch.split(shape, [4, CONTROLLER_CHANNELS], dim=1)
    sides = _BOX_UNIT_PX * log_sides.clamp(max=_MAX_BOX_LOG).exp()
    return DetectorOutput(heat=heat, sides=sides, controllers=controllers, mask_features=mask_features)


def _blocks(channels: int, dilations: Sequence[int]) -> list[nn.Module]:
    return [NonBottleneck1D(channels, 0.0, dilation) for dilation in dilations]


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


def _head(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Sequential:
    out = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.constant_(out.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(OrderedDict(tower=_convolution(in_channels, in_channels), out=out))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def place_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Give the pixel position (x, y) of every place of the heat map: (2, height, width) float32."""
    x = (torch.arange(width, device=device) + 0.5) * STRIDE_PX
    y = (torch.arange(height, device=device) + 0.5) * STRIDE_PX
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def boxes_from_sides(sides: Tensor, places: Tensor) -> Tensor:
    """Turn distances (..., 4) from places (..., 2) in pixels into boxes (..., 4): x and y of two corners."""
    return torch.cat([places - sides[..., :2], places + sides[..., 2:]], dim=-1)


def mask_logits(features: Tensor, boxes: Tensor, controllers: Tensor, points: Tensor) -> Tensor:
    """Evaluate instances' mask networks at points.

    features: (instance, 8, point) mask features at the points; boxes: (instance, 4) in pixels; controllers:
    (instance, 97); points: (instance, point, 2) x and y in pixels. Returns (instance, point) logits. The network sees
    each point relative to the box, -1 to 1 from side to side, so the size of a thing does not matter.
    """
    middle, half_size = 0.5 * (boxes[:, :2] + boxes[:, 2:]), 0.5 * (boxes[:, 2:] - boxes[:, :2])
    relative = (points - middle[:, None]) / half_size.clamp(min=1.0)[:, None]
    inputs = torch.cat([features, relative.transpose(1, 2)], dim=1)
    sizes = [(MASK_CHANNELS + 2) * HIDDEN_CHANNELS, HIDDEN_CHANNELS, HIDDEN_CHANNELS, 1]
    weight_1, bias_1, weight_2, bias_2 = torch.split(controllers, sizes, dim=1)
    weight_1 = weight_1.reshape(-1, HIDDEN_CHANNELS, MASK_CHANNELS + 2)
    hidden = torch.relu(torch.baddbmm(bias_1[:, :, None], weight_1, inputs))
    return torch.baddbmm(bias_2[:, :, None], weight_2[:, None], hidden)[:, 0]


def sample_features(mask_features: Tensor, frames: Tensor, points: Tensor, rows_per_frame: int | None = None) -> Tensor:
    """Read mask features at points, bilinearly.

    mask_features: (frame, 8, h/2, w/2); frames: (instance,) int64; points: (instance, point, 2) x and y in pixels;
    rows_per_frame: so many instances has every frame, in the frames' order, where that is so. Returns
    (instance, 8, point).
    """
    height, width = mask_features.shape[-2:]
    sizes_px = (width * MASK_STRIDE_PX, height * MASK_STRIDE_PX)
    grid = torch.stack([2.0 * points[..., axis] / size_px - 1.0 for axis, size_px in enumerate(sizes_px)], dim=-1)
    if rows_per_frame is not None:
        by_frame = grid.unflatten(0, (-1, rows_per_frame))
        return _sampled(mask_features, by_frame).transpose(1, 2).flatten(0, 1)
    parts = []
    for frame in torch.unique_consecutive(frames).tolist():  # its instances share its features without a copy
        own = grid[frames == frame]
        parts.append(_sampled(mask_features[frame][None], own[None])[0].transpose(0, 1))
    return torch.cat(parts) if parts else mask_features.new_zeros((0, MASK_CHANNELS, points.shape[1]))


def _sampled(features: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)


@checked
class DetectSettings:
    """Say which peaks become instances."""

    lowest_score: Fraction = 0.05  # peaks below this are noise; fusion has thresholds of its own
    most_instances: Count = 64  # in a frame, best first
    same_box_iou: Fraction = 0.6  # of two boxes of one class that overlap more than this, the weaker one is dropped


@dataclass(frozen=True)
class Detections:
    """The instances of one frame with their boxes (instance, 4) float32: x and y of two corners in pixels."""

    instances: Instances
    boxes: NDArray[np.float32]


def detect(
    network: nn.Module, images: Tensor, class_ids: Sequence[int], settings: DetectSettings | None = None
) -> list[Detections]:
    """Find the instances of each frame, best score first.

    images: (frame, 3, height, width) float32 in [0, 1] on the network's device; class_ids: the class id of each of the
    network's classes. A score is the centre's score times the mask's mean probability. The network's mode is kept.
    """
    settings = settings or DetectSettings()
    with evaluation_mode(network):
        output: DetectorOutput = network(images)
        size = images.shape[-2:]
        return [_detect_in_frame(output, frame, size, class_ids, settings) for frame in range(len(images))]


def _detect_in_frame(
    output: DetectorOutput, frame: int, size: Sequence[int], class_ids: Sequence[int], settings: DetectSettings
) -> Detections:
    scores, channels, places = _peaks(output.heat[frame], settings)
    height, width = output.heat.shape[-2:]
    centers = place_centers(height, width, scores.device).flatten(1).T[places]
    boxes = boxes_from_sides(output.sides[frame].flatten(1).T[places], centers)
    kept = _distinct(boxes, channels, settings.same_box_iou)
    scores, channels, boxes = scores[kept], channels[kept], boxes[kept]
    controllers = output.controllers[frame].flatten(1).T[places[kept]]
    masks, certainty = _draw_masks(output.mask_features[frame][None], boxes, controllers, size)
    scores = scores * certainty
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[masks[order].flatten(1).any(dim=1)]
    ids = np.asarray(class_ids, dtype=np.uint8)[channels[order].cpu().numpy()]
    limits = torch.tensor([size[1], size[0], size[1], size[0]], device=boxes.device)
    inside = boxes[order].clamp(min=torch.zeros_like(limits), max=limits).float()
    found = Instances(masks[order].cpu().numpy(), ids, scores[order].float().cpu().numpy())
    return Detections(found, inside.cpu().numpy())


def _peaks(heat: Tensor, settings: DetectSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Give score, class and place of the local maxima of (class, h/4, w/4) logits, best first."""
    scores = heat.float().sigmoid()
    highest = F.max_pool2d(scores[None], 3, stride=1, padding=1)[0]
    flat = torch.where(scores == highest, scores, 0.0).flatten()
    best, index = flat.topk(min(settings.most_instances, flat.numel()))
    kept = best >= max(settings.lowest_score, 1e-9)
    places = heat.shape[1] * heat.shape[2]
    return best[kept], index[kept] // places, index[kept] % places


def _distinct(boxes: Tensor, channels: Tensor, same_box_iou: float) -> Tensor:
    """Drop boxes that overlap a better one of their class; boxes (instance, 4) come best first. Returns indices."""
    overlaps = box_iou(boxes, boxes).cpu().numpy()
    same_class = (channels[:, None] == channels[None]).cpu().numpy()
    repeated = same_class & (overlaps > same_box_iou)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not repeated[index, kept].any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Compute the IoU of every pair of boxes: (a, 4) and (b, 4) in, (a, b) out; empty boxes overlap nothing."""
    corner_low = torch.maximum(first[:, None, :2], second[None, :, :2])
    corner_high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (corner_high - corner_low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp(min=1e-9)


def _draw_masks(features: Tensor, boxes: Tensor, controllers: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Draw masks (instance, height, width) bool inside their boxes, with their mean probability (instance,).

    features: (1, 8, h/2, w/2). One instance at a time: the points of a box are few, of a frame with all boxes many.
    """
    height, width = size
    masks = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    certainty = boxes.new_zeros(len(boxes))
    frame = torch.zeros(1, dtype=torch.int64, device=boxes.device)
    for index, (left, top, right, bottom) in enumerate(_pixel_ranges(boxes, height, width)):
        if right <= left or bottom <= top:
            continue
        x = torch.arange(left, right, device=boxes.device) + 0.5
        y = torch.arange(top, bottom, device=boxes.device) + 0.5
        points = torch.cartesian_prod(y, x).flip(-1)[None]
        own = slice(index, index + 1)
        sampled = sample_features(features, frame, points)
        probability = mask_logits(sampled, boxes[own], controllers[own], points)[0].sigmoid()
        inside = probability > 0.5
        masks[index, top:bottom, left:right] = inside.reshape(bottom - top, right - left)
        certainty[index] = (probability * inside).sum() / inside.sum().clamp(min=1)
    return masks, certainty


def _pixel_ranges(boxes: Tensor, height: int, width: int) -> list[list[int]]:
    """Give the pixels whose centres lie in the boxes: first column, first row, and one past the last ones."""
    low = torch.ceil(boxes[:, :2] - 0.5).clamp(min=0)
    limit = torch.tensor([width, height], device=boxes.device)
    high = torch.minimum((torch.floor(boxes[:, 2:] - 0.5) + 1).clamp(min=0), limit)
    return torch.cat([low, high], dim=1).long().tolist()
