"""Say how unsure a committee of networks is about each pixel, each image and each frame of a pool."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from perception.errors import InputError
from perception.uncertainty.ensemble import Committee
from perception.uncertainty.settings import MEASURES, ScoreSettings


@dataclass(frozen=True)
class Uncertainty:
    """Hold what a committee says about a batch.

    maps: by measure, (frame, *space) float, at least 0, in nats where it is an entropy; space is (height, width), or
    empty for classifiers. mean_probabilities: (frame, class, *space), the members' mean. bounds: by measure, the
    greatest value that it can take with these members and classes.
    """

    maps: dict[str, Tensor]
    mean_probabilities: Tensor
    bounds: dict[str, float]

    @property
    def predicted(self) -> Tensor:
        """Return the most probable class: (frame, *space) int64."""
        return self.mean_probabilities.argmax(1)


@dataclass(frozen=True)
class FrameScore:
    """Hold one frame's score.

    means: by measure, the mean over the image. class_share: (class,) float32, share of the pixels predicted as each
    class. embedding: (dimension,) float32, or None where none was asked for.
    """

    frame_id: str
    score: float
    means: dict[str, float]
    class_share: np.ndarray
    embedding: np.ndarray | None


@torch.no_grad()
def uncertainty(member_logits: Iterable[Tensor], measures: Sequence[str] = MEASURES) -> Uncertainty:
    """Measure the disagreement and doubt of members that choose one class a pixel.

    member_logits: one tensor a member, (frame, class, *space) float; consumed one by one, so that memory does not
    grow with the number of members (a stacked (member, frame, class, *space) tensor will do as well).
    measures: of which maps are made.

    With p_e the softmax of member e and p their mean over E members: ensemble_entropy H(p); mean_entropy
    (1/E) sum_e H(p_e); mutual_information, their difference (BALD); variance sum_c (1/E) sum_e (p_ec - p_c)^2;
    variation_ratio 1 - (votes of the modal class) / E. Source: Chitta et al., arXiv 1811.03575.
    """
    return _summarise(member_logits, True, measures)


@torch.no_grad()
def uncertainty_from_probabilities(
    member_probabilities: Iterable[Tensor], measures: Sequence[str] = MEASURES
) -> Uncertainty:
    """Do as `uncertainty` does, from probabilities.

    member_probabilities: one tensor a member, (frame, class, *space), sums to 1 over class; left as they are.
    """
    return _summarise(member_probabilities, False, measures)


@torch.no_grad()
def detection_uncertainty(member_logits: Iterable[Tensor]) -> Uncertainty:
    """Measure the doubt of detectors that give each class a probability of its own at each cell.

    member_logits: one tensor a member, (frame, class, height, width); sigmoid gives the probability of a box there.
    Each map is the maximum over classes of the binary measure, (frame, height, width). Source: Haussmann et al.,
    arXiv 2004.04699.
    """
    stream = iter(member_logits)
    first = next(stream, None)
    if first is None:
        raise InputError("no member gave logits; uncertainty needs at least 1 member: pass a tensor for each")
    frames_classes = first.shape[:2]
    # sigmoid(z) is the first of softmax([z, 0]): each class of each frame becomes a choice between two.
    pairs = (torch.stack([logits, torch.zeros_like(logits)], 2).flatten(0, 1) for logits in chain([first], stream))
    binary = uncertainty(pairs)
    maps = {name: values.reshape(*frames_classes, *values.shape[1:]).amax(1) for name, values in binary.maps.items()}
    return Uncertainty(maps, binary.mean_probabilities[:, 0].reshape(first.shape), binary.bounds)


FEW_PIXELS = 1024  # smaller frames, and a classifier's single answers, are laid side by side as one
BLOCK_PIXELS = 8192  # of a frame: all members that are there are added to them while they are in a core's cache
Part = tuple[int, int, int]  # frame, first pixel, one past the last


@dataclass
class _Totals:
    """Hold what is accumulated over members.

    mean: (frame, class, pixel). entropy: (frame, pixel), the mean of the members'. spread: (frame, pixel), the sum of
    squares. votes: (frame, class, pixel) int16. The last two have no element where no measure needs them.
    """

    mean: Tensor
    entropy: Tensor
    spread: Tensor
    votes: Tensor
    count: int = 0

    @classmethod
    def like(cls, values: Tensor, measures: Sequence[str]) -> Self:
        mean = torch.zeros_like(values, memory_format=torch.contiguous_format)
        entropy = torch.zeros_like(mean[:, 0])
        spread = torch.zeros_like(entropy if "variance" in measures else entropy[:0])
        votes = torch.zeros_like(mean if "variation_ratio" in measures else mean[:0], dtype=torch.int16)
        return cls(mean, entropy, spread, votes)

    def add(self, members: Sequence[Tensor], logits: bool) -> None:
        """Add members, (frame, class, pixel) each, by Welford's update, which is exact for equal members."""
        for values in members:
            self.count += 1
            probabilities = values.softmax(1) if logits else values
            if self.spread.numel():
                squares = (probabilities - self.mean).square_().sum(1)
                self.spread.add_(squares, alpha=(self.count - 1) / self.count)
            self.mean.lerp_(probabilities, 1 / self.count)
            self.entropy.lerp_(_entropy(probabilities), 1 / self.count)
            if self.votes.numel():
                winners = probabilities.argmax(1, keepdim=True)
                self.votes.scatter_add_(1, winners, torch.ones_like(winners, dtype=torch.int16))

    def ensemble_entropy(self) -> Tensor:
        """Return the entropy of the members' mean, (frame, pixel)."""
        return _entropy(self.mean)

    def maps(self, measures: Sequence[str]) -> dict[str, Tensor]:
        """Return the maps asked for, (frame, pixel) each."""
        needed = {"ensemble_entropy", "mutual_information"} & set(measures)
        of_mean = self.ensemble_entropy() if needed else self.entropy
        make: dict[str, Callable[[], Tensor]] = {
            "ensemble_entropy": lambda: of_mean,
            "mean_entropy": lambda: self.entropy,
            # Jensen's inequality makes the difference at least 0; rounding alone can take it below.
            "mutual_information": lambda: (of_mean - self.entropy).clamp_min_(0),
            "variance": lambda: self.spread / self.count,
            "variation_ratio": lambda: 1 - self.votes.amax(1).to(self.mean) / self.count,
        }
        return {name: make[name]() for name in measures}


def _entropy(probabilities: Tensor) -> Tensor:
    """Return -sum_c p_c log p_c; p log p is 0 at p = 0."""
    return torch.special.entr(probabilities).sum(1)


class _CompiledTotals(_Totals):
    """Hold the same in float32 on a processor, and add to it by compiled code in as many threads as torch has."""

    def add(self, members: Sequence[Tensor], logits: bool) -> None:
        from perception.uncertainty import kernel  # its compiler takes half a second to load

        arrays = [values.contiguous().numpy() for values in members]
        mean, entropy = self.mean.numpy(), self.entropy.numpy()
        spread, votes = self.spread.numpy(), self.votes.numpy()

        def work(part: Part) -> None:
            for count, values in enumerate(arrays, self.count + 1):
                kernel.add(logits, values, mean, entropy, spread, votes, part, count)

        self._in_threads(work)
        self.count += len(members)

    def ensemble_entropy(self) -> Tensor:
        from perception.uncertainty import kernel

        entropy = torch.empty_like(self.entropy)
        self._in_threads(partial(kernel.write_entropy, self.mean.numpy(), entropy.numpy()))
        return entropy

    def _in_threads(self, work: Callable[[Part], None]) -> None:
        frames, _, pixels = self.mean.shape
        starts = range(0, pixels, BLOCK_PIXELS)
        parts = [(frame, start, min(start + BLOCK_PIXELS, pixels)) for frame in range(frames) for start in starts]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for _ in pool.map(work, parts):
                pass


def _summarise(members: Iterable[Tensor], logits: bool, measures: Sequence[str]) -> Uncertainty:
    # The members of a stacked tensor are there already, so that a block can meet them all while it is in the cache.
    groups: Iterable[Any] = [members] if isinstance(members, Tensor) else ([each] for each in members)
    totals, shape = None, torch.Size()
    for group in groups:
        flat = [_by_pixel(values) for values in group]
        if totals is None and flat:
            compiled = flat[0].device.type == "cpu" and flat[0].dtype == torch.float32
            totals = (_CompiledTotals if compiled else _Totals).like(flat[0], measures)
            shape = group[0].shape
        if totals is not None:
            totals.add(flat, logits)
    if totals is None:
        raise InputError("no member gave logits; uncertainty needs at least 1 member: pass a tensor for each")
    maps = {name: values.reshape(shape[0], *shape[2:]) for name, values in totals.maps(measures).items()}
    mean = totals.mean.reshape(totals.mean.shape[0], shape[1], -1, math.prod(shape[2:]))
    mean = mean.transpose(1, 2).reshape(shape)
    return Uncertainty(maps, mean, measure_bounds(totals.count, shape[1]))


def _by_pixel(values: Tensor) -> Tensor:
    """Return (frame, class, *space) as (frame, class, pixel), float32 or float64; small frames side by side as one."""
    flat = values.detach().reshape(*values.shape[:2], -1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    return flat if flat.shape[2] >= FEW_PIXELS else flat.transpose(0, 1).reshape(1, flat.shape[1], -1)


def measure_bounds(members: int, classes: int) -> dict[str, float]:
    """Return the greatest value that each measure can take."""
    smaller = min(members, classes)
    return {
        "ensemble_entropy": math.log(classes),
        "mean_entropy": math.log(classes),
        "mutual_information": math.log(smaller),
        "variance": 1 - 1 / smaller,
        "variation_ratio": 1 - 1 / smaller,
    }


def reduce_maps(found: Uncertainty, settings: ScoreSettings, valid: Tensor | None = None) -> Tensor:
    """Reduce each image's map of settings.measure to one number by settings.reduction.

    valid: (frame, height, width) bool, pixels that count (all, when None). Returns (frame,) float64.

    mean: average. max: greatest. top_share: average of the most uncertain share of the pixels. region: of the
    connected regions (8 neighbours) above region_threshold times the measure's bound, the greatest sum of the
    measure over a region, divided by the number of valid pixels: a large uncertain region beats a very uncertain
    pixel. class_weighted: sum of weight[predicted class] * measure over the number of valid pixels; not over the sum
    of weights, or a frame with one heavy pixel would equal a frame full of them.
    """
    values = found.maps[settings.measure]
    values = values.reshape(values.shape[0], *(values.shape[1:] or (1, 1)))
    counted = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    if not counted.flatten(1).any(1).all():
        raise InputError("a frame has no valid pixel; its score would be undefined: leave the frame out of the pool")
    if settings.reduction == "class_weighted":
        values = values * _weights_of_predicted(found, settings).reshape(values.shape)
    if settings.reduction == "region":
        threshold = settings.region_threshold * found.bounds[settings.measure]
        pairs = zip(values.cpu().numpy(), counted.cpu().numpy(), strict=True)
        return torch.tensor([largest_region(*pair, threshold) for pair in pairs], dtype=torch.float64)
    values, counted = values.flatten(1).double(), counted.flatten(1)
    if settings.reduction == "max":
        return values.masked_fill(~counted, -math.inf).amax(1)
    if settings.reduction == "top_share":
        return _top_share_mean(values, counted, settings.top_share)
    return (values * counted).sum(1) / counted.sum(1)


def _weights_of_predicted(found: Uncertainty, settings: ScoreSettings) -> Tensor:
    weights = torch.tensor(settings.class_weights, device=found.mean_probabilities.device)
    classes = found.mean_probabilities.shape[1]
    if len(weights) != classes:
        raise InputError(f"class_weights has {len(weights)} weights, the network {classes} classes: give one for each")
    return weights[found.predicted]


def _top_share_mean(values: Tensor, counted: Tensor, share: float) -> Tensor:
    valid = [row[mask] for row, mask in zip(values, counted, strict=True)]
    return torch.stack([each.topk(math.ceil(share * each.numel() - 1e-9)).values.mean() for each in valid])


def largest_region(values: np.ndarray, counted: np.ndarray, threshold: float) -> float:
    """Return the greatest sum of values over a connected region above the threshold, over the counted pixels.

    values: (height, width) float; counted: (height, width) bool. Regions join over 8 neighbours. 0 where nothing is
    above the threshold.
    """
    inside = (values > threshold) & counted
    _, regions = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
    sums = np.bincount(regions[inside], weights=values[inside])
    return float(sums.max(initial=0.0) / counted.sum())


@torch.no_grad()
def score_frames(
    committee: Committee,
    batches: Iterable[tuple[list[str], Tensor]],
    settings: ScoreSettings,
    *,
    device: str = "cpu",
    embeddings: bool = True,
    on_maps: Callable[[str, dict[str, np.ndarray], dict[str, float]], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    total_frames: int = 0,
) -> Iterator[FrameScore]:
    """Score a stream of frames, holding one batch of images and one member's outputs at a time.

    batches: (frame_ids, images) with images (frame, 3, height, width) float32 in [0, 1].
    on_maps: called for each frame with (frame_id, maps by measure as (height, width) float32, bounds by measure).
    total_frames: what `progress` is told as the total.
    Raises InputError when a network's output for a frame is not finite.
    """
    measure = uncertainty if settings.outputs == "softmax" else detection_uncertainty
    committee.to(device).eval()
    done = 0
    for frame_ids, images in batches:
        images = images.to(device)
        found = measure(committee.member_logits(images))
        yield from _rows(frame_ids, found, settings, committee.embed(images) if embeddings else None)
        if on_maps is not None:
            for index, frame_id in enumerate(frame_ids):
                maps = {name: values[index].float().cpu().numpy() for name, values in found.maps.items()}
                on_maps(frame_id, maps, found.bounds)
        done += len(frame_ids)
        if progress is not None:
            progress(done, total_frames)


def _rows(
    frame_ids: list[str], found: Uncertainty, settings: ScoreSettings, embeddings: Tensor | None
) -> Iterator[FrameScore]:
    scores = reduce_maps(found, settings).tolist()
    means = {name: values.reshape(len(frame_ids), -1).double().mean(1) for name, values in found.maps.items()}
    vectors = None if embeddings is None else embeddings.cpu().numpy()
    predicted = found.predicted.reshape(len(frame_ids), -1).cpu().numpy()
    classes = found.mean_probabilities.shape[1]
    for index, frame_id in enumerate(frame_ids):
        row = FrameScore(
            frame_id=frame_id,
            score=scores[index],
            means={name: float(values[index]) for name, values in means.items()},
            class_share=(np.bincount(predicted[index], minlength=classes) / predicted.shape[1]).astype(np.float32),
            embedding=None if vectors is None else vectors[index],
        )
        finite = all(math.isfinite(value) for value in (row.score, *row.means.values()))
        if not finite or (row.embedding is not None and not np.isfinite(row.embedding).all()):
            raise InputError(
                f"frame {frame_id}: the network's output is not finite and cannot be ranked; "
                "look at the ensemble's training (learning rate, gradient norm) and train it again"
            )
        yield row


def score_table(rows: Iterable[FrameScore], settings: ScoreSettings, model_sha256: str) -> pd.DataFrame:
    """Collect scores into a table: one row a frame, with what made it.

    Columns: frame_id str, score float64, every measure's mean over the image float32, class_share list of float32,
    embedding list of float32 (absent when none was asked for), model_sha256, measure, reduction str.
    """
    kept = list(rows)
    columns: dict[str, list[Any]] = {
        "frame_id": [row.frame_id for row in kept],
        "score": [row.score for row in kept],
        **{name: [row.means[name] for row in kept] for name in MEASURES},
        "class_share": [row.class_share for row in kept],
    }
    if all(row.embedding is not None for row in kept):
        columns["embedding"] = [row.embedding for row in kept]
    table = pd.DataFrame(columns, dtype=None if kept else object)  # a shard without frames says nothing of its types
    table = table.astype({"score": "float64", **dict.fromkeys(MEASURES, "float32")})
    return table.assign(model_sha256=model_sha256, measure=settings.measure, reduction=settings.reduction)


def heat_picture(values: np.ndarray, bound: float) -> np.ndarray:
    """Paint an uncertainty map from dark (0) to bright (bound).

    values: (height, width) float. Returns (height, width, 3) uint8 RGB.
    """
    levels = np.clip(values * (255.0 / bound if bound > 0 else 0.0), 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
