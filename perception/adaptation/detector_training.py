"""Teach the detector on the simulator's instances: batches, targets, loss.

Centres, the region that trains a box, and its weights follow Liu et al., "Training-Time-Friendly Network for Real-Time
Object Detection", AAAI 2020 (arXiv 1909.00700), which needs a fraction of the iterations of training at centres alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn

from perception.adaptation.detector import STRIDE_PX, DetectorOutput, mask_logits, sample_features
from perception.data.loading import Augment, worked_ahead
from perception.errors import InputError
from perception.metrics.detection import Objects
from perception.parameters import Fraction, ShareFromZero, checked
from perception.training.distributed import share_of_mean

INSTANCES_PER_CLASS = 1000  # instance maps hold class_id * 1000 + number
_GAUSSIAN_SHARE = 0.54  # of a box's half-size is the region that trains it (the paper's alpha)
_GRID = 20  # a mask is trained at this many points along each side of its box
_MARGIN = 1.25  # and the grid is this much larger than the box
_WHOLE = slice(None)
_AUGMENT_STREAM = 3  # of random numbers; the loader's own streams are 1 and 2

Target = dict[str, NDArray[Any]]
InstanceFrame = tuple[NDArray[np.uint8], NDArray[np.uint16]]
_Sample = tuple[NDArray[np.uint8], Target]


@checked
class DetectionAugment(Augment):
    """Say how training frames are varied."""

    color_jitter: ShareFromZero = 0.3  # brightness, contrast and saturation are each multiplied by 1 ± this at most
    # strength of blur and noise, 0 for none: no camera is as clean as a simulator
    sensor: Annotated[float, Field(ge=0, le=10)] = 1.0
    texture_share: Fraction = 0.5  # share of instances that get a random texture, so that only their shape tells them


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Say which instances are learnt."""

    smallest_area_px: int = 12  # visible pixels; smaller ones are neither learnt nor counted as background
    most_instances: int = 48  # in a frame; the largest ones


@dataclass(frozen=True, eq=False)
class DetectionBatch:
    """Hold frames with what the detector is to say about them; n instances at most, the rest of a row is padding.

    images: (frame, 3, h, w) float32 in [0, 1]. heat: (frame, class, h/4, w/4) float32, 1 at centres, falling off around
    them. judged: (frame, h/4, w/4) float32, 0 where an instance too small to learn lies. sides: (frame, 4, h/4, w/4)
    float32 pixels, weighted by side_weights: (frame, h/4, w/4) float32, which sum to 1 over an instance. numbers:
    (frame, h, w) int16, 1 + the row of the instance that a pixel belongs to, 0 = none. places: (frame, n) int64, index
    of the instance's centre in the flattened h/4, w/4 plane, -1 = padding. boxes: (frame, n, 4) float32 pixels.
    """

    images: Tensor
    heat: Tensor
    judged: Tensor
    sides: Tensor
    side_weights: Tensor
    numbers: Tensor
    places: Tensor
    boxes: Tensor


def class_channels(class_ids: Sequence[int]) -> NDArray[np.int64]:
    """Build the table from a class id in an instance map to the detector's class: (256,) int64, -1 = not detected."""
    channels = np.full(256, -1, dtype=np.int64)
    channels[list(class_ids)] = np.arange(len(class_ids))
    return channels


def encode_targets(
    instances: NDArray[np.uint16], channels: NDArray[np.int64], classes: int, settings: TargetSettings
) -> Target:
    """Encode one frame's instances as the fields of DetectionBatch, without the frame axis and the image.

    instances: (height, width) uint16, class_id * 1000 + number, 0 = none; height and width are multiples of 4;
    channels: (256,) int64 from class_channels.
    """
    learnt, small = _chosen(_instances_of(instances, channels), settings)
    return _encoded(learnt, small, instances.shape, classes, settings)


def encode_objects(objects: Objects, height_px: int, width_px: int, classes: int, settings: TargetSettings) -> Target:
    """Encode one frame's boxes as `encode_targets` does instances; what is marked as crowd is left out of the heat map.

    A mask is its whole box. height_px and width_px are multiples of 4; what lies outside of them is cut off.
    """
    limits = np.array([width_px, height_px, width_px, height_px])
    sides = np.clip(np.rint(objects.boxes), 0, limits).astype(int).reshape(-1, 4)
    crowd = np.zeros(len(sides), bool) if objects.crowd is None else objects.crowd
    found = []
    for (left, top, right, bottom), channel in zip(sides.tolist(), objects.class_ids.tolist(), strict=True):
        mask = np.ones((bottom - top, right - left), bool)
        found.append(_Found(channel, np.s_[top:bottom, left:right], mask, mask.size))
    learnt, small = _chosen([each for each, is_crowd in zip(found, crowd, strict=True) if not is_crowd], settings)
    excused = [each for each, is_crowd in zip(found, crowd, strict=True) if is_crowd]
    return _encoded(learnt, [*small, *excused], (height_px, width_px), classes, settings)


def _encoded(
    learnt: Sequence[_Found], left_out: Sequence[_Found], size: tuple[int, ...], classes: int, settings: TargetSettings
) -> Target:
    height, width = size
    rows, columns = height // STRIDE_PX, width // STRIDE_PX
    target: Target = {
        "heat": np.zeros((classes, rows, columns), np.float32),
        "judged": np.ones((rows, columns), np.float32),
        "sides": np.zeros((4, rows, columns), np.float32),
        "side_weights": np.zeros((rows, columns), np.float32),
        "numbers": np.zeros((height, width), np.int16),
        "places": np.full(settings.most_instances, -1, np.int64),
        "boxes": np.zeros((settings.most_instances, 4), np.float32),
    }
    for y, x in (found.window for found in left_out):
        covered = np.s_[y.start // STRIDE_PX : -(-y.stop // STRIDE_PX), x.start // STRIDE_PX : -(-x.stop // STRIDE_PX)]
        target["judged"][covered] = 0.0
    # Largest first: where regions or centres meet, the smaller thing, which has less room, comes out on top.
    for index, found in enumerate(learnt):
        _encode_instance(target, index, found)
    return target


@dataclass(frozen=True)
class _Found:
    """An instance in its frame: its class, its window of the frame, and its pixels in that window."""

    channel: int
    window: tuple[slice, slice]
    mask: NDArray[np.bool_]
    area_px: int

    @property
    def box(self) -> NDArray[np.float32]:
        y, x = self.window
        return np.array([x.start, y.start, x.stop, y.stop], np.float32)


def _instances_of(instances: NDArray[np.uint16], channels: NDArray[np.int64]) -> list[_Found]:
    found = []
    for value, window in _windows(instances):
        channel = int(channels[value // INSTANCES_PER_CLASS])
        if channel >= 0:
            mask = instances[window] == value
            found.append(_Found(channel, window, mask, int(mask.sum())))
    return found


def _chosen(found: list[_Found], settings: TargetSettings) -> tuple[list[_Found], list[_Found]]:
    """Give the instances to learn, largest first, and those that are too small or too many."""
    found = sorted(found, key=lambda each: -each.area_px)
    learnt = [each for each in found if each.area_px >= settings.smallest_area_px][: settings.most_instances]
    return learnt, found[len(learnt) :]


def _windows(instances: NDArray[np.uint16]) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Give each value of an instance map but 0, ascending, with the smallest window that holds its pixels."""
    present = np.bincount(instances.ravel(), minlength=1 << 16) > 0
    present[0] = False
    numbers = np.cumsum(present, dtype=np.int32) * present  # a table is several times faster than sorting the pixels
    yield from zip(np.flatnonzero(present).tolist(), ndimage.find_objects(numbers[instances]), strict=True)


def _encode_instance(target: Target, index: int, found: _Found) -> None:
    rows, columns = target["judged"].shape
    left, top, right, bottom = found.box
    row = min(int((top + bottom) / 2 / STRIDE_PX), rows - 1)
    column = min(int((left + right) / 2 / STRIDE_PX), columns - 1)
    place = row * columns + column
    target["places"][target["places"] == place] = -1
    target["places"][index], target["boxes"][index] = place, found.box
    target["numbers"][found.window][found.mask] = index + 1
    region, bump = _bump(row, column, (bottom - top) / STRIDE_PX, (right - left) / STRIDE_PX, rows, columns)
    heat = target["heat"][found.channel][region]
    np.maximum(heat, bump, out=heat)
    y = (np.arange(region[0].start, region[0].stop, dtype=np.float32) + 0.5) * STRIDE_PX
    x = (np.arange(region[1].start, region[1].stop, dtype=np.float32) + 0.5) * STRIDE_PX
    target["sides"][:, region[0], region[1]] = np.stack(
        np.broadcast_arrays(x - left, (y - top)[:, None], right - x, (bottom - y)[:, None])
    )
    target["side_weights"][region] = bump / bump.sum()


def _bump(
    row: int, column: int, height: float, width: float, rows: int, columns: int
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """Give the region around a centre that trains its instance, and a Gaussian on it that is 1 at the centre."""
    radius_y, radius_x = int(height / 2 * _GAUSSIAN_SHARE), int(width / 2 * _GAUSSIAN_SHARE)
    y = np.arange(max(row - radius_y, 0), min(row + radius_y + 1, rows))
    x = np.arange(max(column - radius_x, 0), min(column + radius_x + 1, columns))
    sigma_y, sigma_x = (2 * radius_y + 1) / 6, (2 * radius_x + 1) / 6
    bump: NDArray[np.float64] = np.exp(
        -((y[:, None] - row) ** 2) / (2 * sigma_y**2) - (x - column) ** 2 / (2 * sigma_x**2)
    )
    return (slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)), bump.astype(np.float32)


def detection_batches(
    load: Callable[[int], InstanceFrame],
    frames: Sequence[int],
    class_ids: Sequence[int],
    batch_frames: int,
    *,
    seed: int,
    epoch: int,
    augment: DetectionAugment | None,
    workers: int = 0,
    share: slice = _WHOLE,
) -> Iterator[DetectionBatch]:
    """Yield one epoch of batches in an order drawn from (seed, epoch); share: the part of each that this process gives.

    load: gives, for a number of `frames`, the image (height, width, 3) uint8 and its instances (height, width) uint16;
    class_ids: the foreground class ids, in the order of the detector's classes. workers: threads that prepare frames
    ahead of the training step, 0 for none; batches are the same. A last batch of one frame joins the one before. Raises
    InputError for no frames or a size that is not a multiple of 8.
    """
    if not frames:
        raise InputError("there are no frames with instances to train on; ingest simulator frames")
    channels = class_channels(class_ids)
    order = np.random.default_rng([_AUGMENT_STREAM, seed, epoch]).permutation(len(frames))
    cuts = list(range(batch_frames, len(order), batch_frames))
    if batch_frames > 1 and cuts and len(order) - cuts[-1] == 1:
        cuts.pop()

    def sample(index: int) -> _Sample:
        image, instances = load(frames[index])
        if augment is not None:
            generator = np.random.default_rng([_AUGMENT_STREAM, seed, epoch, index])
            image, instances = augmented(image, instances, augment, generator)
        return image, encode_targets(instances, channels, len(class_ids), TargetSettings())

    parts = [part.tolist() for part in np.split(order, cuts)]
    shares = [part[share] for part in parts]
    # A batch without a frame has its shapes of one that is loaded and left out.
    loaded = [[partial(sample, index) for index in own or part[:1]] for own, part in zip(shares, parts, strict=True)]
    with closing(worked_ahead(loaded, workers, ahead=2)) as prepared:
        for own, samples in zip(shares, prepared, strict=True):
            yield _batch(samples, len(own))


def _batch(samples: Sequence[_Sample], count: int) -> DetectionBatch:
    """Put the first `count` samples into a batch."""
    images = np.stack([image for image, _ in samples])
    if images.shape[1] % 8 or images.shape[2] % 8:
        raise InputError(f"frames are {images.shape[1]}x{images.shape[2]} pixels; the detector needs multiples of 8")
    names = samples[0][1]
    fields = {name: torch.from_numpy(np.stack([target[name] for _, target in samples]))[:count] for name in names}
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))[:count].float() / 255.0
    return DetectionBatch(images=pixels, **fields)


def augmented(
    image: NDArray[np.uint8], instances: NDArray[np.uint16], augment: DetectionAugment, generator: np.random.Generator
) -> InstanceFrame:
    """Vary one frame: texture, zoom, flip, colours, sensor.

    image: (height, width, 3) uint8; instances: (height, width) uint16. Returns both at the same size.
    """
    if augment.texture_share > 0:
        image = randomize_textures(image, instances, augment.texture_share, generator)
    low, high = np.log(augment.scale_range)
    image, instances = _zoomed(image, instances, float(np.exp(generator.uniform(low, high))), generator)
    if augment.flip and generator.random() < 0.5:
        image, instances = image[:, ::-1], instances[:, ::-1]
    pixels: NDArray[Any] = _recolored(image.astype(np.float32), augment.color_jitter, generator)
    if augment.sensor > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), max(0.01, 0.7 * augment.sensor * generator.random()))
        noise = generator.standard_normal(pixels.shape, dtype=np.float32)
        pixels = pixels + 6.0 * augment.sensor * np.float32(generator.random()) * noise
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), np.ascontiguousarray(instances)


def randomize_textures(
    image: NDArray[np.uint8], instances: NDArray[np.uint16], share: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Give a share of the instances a random texture and leave their shape and shading.

    image: (height, width, 3) uint8; instances: (height, width) uint16, 0 = none. Returns the image's shape. What is
    left to tell a thing by is its outline (Tobin et al., "Domain Randomization", IROS 2017, arXiv 1703.06907).
    """
    painted = image.astype(np.float32)
    for value, window in _windows(instances):
        if generator.random() >= share:
            continue
        mask = instances[window] == value
        texture = _texture(mask.shape, generator)
        shading = painted[window][mask].mean(axis=1, keepdims=True) / 128.0
        strength = np.float32(generator.uniform(0.4, 1.0))
        painted[window][mask] *= 1 - strength
        painted[window][mask] += strength * np.clip(texture[mask] * np.clip(shading, 0.3, 1.6), 0, 255)
    return np.clip(np.rint(painted), 0, 255).astype(np.uint8)


def _texture(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
    """Draw a colour with patches, stripes or gradients of a random size and contrast: (height, width, 3) float32."""
    cells = generator.integers(1, 7, 2)
    coarse = generator.standard_normal((cells[0], cells[1], 3), dtype=np.float32)
    method = cv2.INTER_NEAREST if generator.random() < 0.5 else cv2.INTER_LINEAR
    patches = cv2.resize(coarse, (shape[1], shape[0]), interpolation=method).reshape(*shape, 3)
    color = generator.uniform(20, 235, 3).astype(np.float32)
    grey = generator.random() < 0.5  # real things are mostly dull
    color = color.mean() + (color - color.mean()) * (0.25 if grey else 1.0)
    return color + np.float32(generator.uniform(0, 60)) * patches


def _zoomed(
    image: NDArray[np.uint8], instances: NDArray[np.uint16], scale: float, generator: np.random.Generator
) -> InstanceFrame:
    """Zoom about a random point at the same size; what lies outside the frame is black and no instance."""
    height, width = instances.shape
    left, top = generator.random(2) * np.array([width, height]) * (1 - scale)
    matrix = np.array([[scale, 0, left], [0, scale, top]], np.float32)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    zoomed = cv2.warpAffine(image, matrix, (width, height), flags=method)
    nearest = cv2.warpAffine(instances, matrix, (width, height), flags=cv2.INTER_NEAREST)
    return zoomed.astype(np.uint8, copy=False), nearest.astype(np.uint16, copy=False)


def _recolored(pixels: NDArray[np.float32], color_jitter: float, generator: np.random.Generator) -> NDArray[Any]:
    brightness, contrast, saturation = 1 + color_jitter * generator.uniform(-1, 1, 3).astype(np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + saturation * (pixels - grey)
    return brightness * (grey.mean() + contrast * (pixels - grey.mean()))


def detection_loss(network: nn.Module, batch: DetectionBatch) -> Tensor:
    """Give the detector's loss on a batch, ready for perception.training.loop.fit as its `loss`.

    The sum of the heat map's focal loss an instance, twice the boxes' 1 - GIoU, and the masks' cross-entropy and dice
    loss.
    """
    output: DetectorOutput = network(batch.images)
    return heat_loss(output.heat, batch) + 2.0 * box_loss(output.sides, batch) + mask_loss(output, batch)


def heat_loss(logits: Tensor, batch: DetectionBatch) -> Tensor:
    """Compute the penalty-reduced focal loss an instance; logits (frame, class, h/4, w/4).

    Law, Deng, "CornerNet", ECCV 2018 (arXiv 1808.01244), eq. 1 with alpha 2 and beta 4.
    """
    logits = logits.float()
    probability = logits.sigmoid()
    centers = batch.heat >= 1.0
    at_centers = (1 - probability).square() * F.softplus(-logits)
    elsewhere = (1 - batch.heat).pow(4) * probability.square() * F.softplus(logits) * batch.judged[:, None]
    count = (batch.places >= 0).sum().to(logits.dtype)
    return share_of_mean(torch.where(centers, at_centers, elsewhere).sum(), count.clamp(min=1))


def box_loss(sides: Tensor, batch: DetectionBatch) -> Tensor:
    """Average 1 - GIoU over the weighted places; sides (frame, 4, h/4, w/4) in pixels."""
    weights = batch.side_weights.flatten()
    first, second = (each.permute(0, 2, 3, 1).reshape(-1, 4) for each in (sides.float(), batch.sides))
    if not sides.is_cuda:  # a GPU would have to wait for the number of places, and is as fast with all of them
        used = weights > 0
        weights, first, second = weights[used], first[used], second[used]
    losses = 1 - _giou_from_sides(first, second)
    return share_of_mean((weights * losses).sum(), weights.sum())


def _giou_from_sides(first: Tensor, second: Tensor) -> Tensor:
    """Compute the generalised IoU of boxes given as distances (place, 4) from one place inside both."""
    areas = [(s[:, 0] + s[:, 2]) * (s[:, 1] + s[:, 3]) for s in (first, second)]
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    shared = (low[:, 0] + low[:, 2]).clamp(min=0) * (low[:, 1] + low[:, 3]).clamp(min=0)
    around = (high[:, 0] + high[:, 2]) * (high[:, 1] + high[:, 3])
    union = areas[0] + areas[1] - shared
    return shared / union.clamp(min=1e-6) - (around - union) / around.clamp(min=1e-6)


def mask_loss(output: DetectorOutput, batch: DetectionBatch, padded: bool | None = None) -> Tensor:
    """Average cross-entropy and dice loss of the masks over instances, each on a grid of points over its true box.

    padded: whether rows without an instance are computed, with weight 0; by default on a GPU, which would have to wait for
    the number of instances.
    """
    padded = batch.places.is_cuda if padded is None else padded
    learnt = batch.places >= 0
    every = torch.arange(learnt.numel(), device=learnt.device)
    width = learnt.shape[1]
    frames, rows = (every // width, every % width) if padded else torch.nonzero(learnt, as_tuple=True)
    if not len(frames):
        return share_of_mean(output.mask_features.sum() * 0, output.mask_features.new_zeros(()))
    boxes, weights = batch.boxes[frames, rows], learnt[frames, rows].float()
    points = grid_points(boxes)
    controllers = output.controllers.flatten(2)[frames, :, batch.places[frames, rows].clamp(min=0)]
    features = sample_features(output.mask_features, frames, points, rows_per_frame=width if padded else None)
    logits = mask_logits(features, boxes, controllers, points).float()
    truth = (_values_at(batch.numbers, frames, points) == (rows + 1)[:, None]).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=1)
    probability = logits.sigmoid()
    overlap = 2 * (probability * truth).sum(dim=1) + 1
    dice = 1 - overlap / (probability.square().sum(dim=1) + truth.sum(dim=1) + 1)
    return share_of_mean((weights * (entropy + dice)).sum(), weights.sum())


def grid_points(boxes: Tensor) -> Tensor:
    """Lay a grid of points over boxes (instance, 4) and a margin around: (instance, point, 2), x and y in pixels."""
    steps = (torch.arange(_GRID, device=boxes.device) + 0.5) / _GRID * 2 - 1
    offsets = torch.cartesian_prod(steps, steps).flip(-1) * _MARGIN
    middle, half_size = 0.5 * (boxes[:, :2] + boxes[:, 2:]), 0.5 * (boxes[:, 2:] - boxes[:, :2])
    return middle[:, None] + offsets * half_size[:, None]


def _values_at(numbers: Tensor, frames: Tensor, points: Tensor) -> Tensor:
    """Read a map (frame, h, w) at the pixels that points (instance, point, 2) lie in; 0 outside the frame."""
    height, width = numbers.shape[-2:]
    x, y = points.floor().long().unbind(dim=-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = numbers[frames[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return torch.where(inside, values, torch.zeros_like(values))
