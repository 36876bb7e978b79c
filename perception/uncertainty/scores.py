"""Say how unsure a committee of networks is about each pixel, each image and each frame of a pool."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

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
def uncertainty(member_logits: Iterable[Tensor]) -> Uncertainty:
    """Measure the disagreement and doubt of members that choose one class a pixel.

    member_logits: one tensor a member, (frame, class, *space) float; consumed one by one, so that memory does not
    grow with the number of members (a stacked (member, frame, class, *space) tensor will do as well).

    With p_e the softmax of member e and p their mean over E members: ensemble_entropy H(p); mean_entropy
    (1/E) sum_e H(p_e); mutual_information, their difference (BALD); variance sum_c (1/E) sum_e (p_ec - p_c)^2;
    variation_ratio 1 - (votes of the modal class) / E. Source: Chitta et al., arXiv 1811.03575.
    """
    return _summarise(member_logits, _from_logits)


@torch.no_grad()
def uncertainty_from_probabilities(member_probabilities: Iterable[Tensor]) -> Uncertainty:
    """Do as `uncertainty` does, from probabilities.

    member_probabilities: one tensor a member, (frame, class, *space), sums to 1 over class; left as they are.
    """
    return _summarise(member_probabilities, lambda values, buffers: (values, _entropy(values, buffers[0])))


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


# On a processor, pixels are taken in blocks whose buffers stay in its cache and are made once a batch: main memory and
# the making of large tensors cost as much as the logarithms. Each thread takes blocks of its own from first to last;
# threads that wait for each other after every operation lose most of their time as soon as a core is shared.
BLOCK_VALUES = 262_144


def _apply(function: np.ufunc, values: Tensor, out: Tensor) -> Tensor:
    """Take np.log or np.exp of every value; on a processor by numpy, in half to a third of torch's time on a core."""
    if values.device.type != "cpu":
        return torch.log(values, out=out) if function is np.log else torch.exp(values, out=out)
    with np.errstate(all="ignore"):  # log 0 and exp(-inf) are as meant
        function(values.detach().numpy(), out=out.numpy())
    return out


Buffers = tuple[Tensor, Tensor]  # both of a block's shape
Convert = Callable[[Tensor, Buffers], tuple[Tensor, Tensor]]


def _from_logits(logits: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """Return softmax and its entropy, log S - sum_c p_c z_c: both terms at least 0, one logarithm a pixel."""
    shifted = torch.sub(logits, logits.amax(1, keepdim=True), out=buffers[0])
    # exp(-inf) is 0, but 0 * -inf would be NaN.
    shifted.clamp_min_(math.log(torch.finfo(logits.dtype).tiny))
    probabilities = _apply(np.exp, shifted, buffers[1])
    total = probabilities.sum(1, keepdim=True)
    probabilities /= total
    return probabilities, total.log_().squeeze(1) - shifted.mul_(probabilities).sum(1)


def _entropy(probabilities: Tensor, buffer: Tensor) -> Tensor:
    """Return -sum_c p_c log p_c; p log p is 0 at p = 0."""
    entropy = _apply(np.log, probabilities, buffer).mul_(probabilities).sum(1).neg_()
    # Zeros are rare, and looking for their NaN in the sum costs less than guarding every logarithm.
    if math.isnan(entropy.sum()):
        guarded = torch.clamp_min(probabilities, torch.finfo(probabilities.dtype).tiny, out=buffer)
        entropy = _apply(np.log, guarded, guarded).mul_(probabilities).sum(1).neg_()
    return entropy


@dataclass(frozen=True)
class _Totals:
    """Hold what is accumulated over members, for a batch or, as views of it, for a block of it.

    mean: (frame, class, pixel). entropy, spread: (frame, pixel). votes: (frame, class, pixel) int16.
    """

    mean: Tensor
    entropy: Tensor
    spread: Tensor
    votes: Tensor

    def block(self, part: tuple[slice, slice, slice]) -> "_Totals":
        pixels = (part[0], part[2])
        return _Totals(self.mean[part], self.entropy[pixels], self.spread[pixels], self.votes[part])

    def add(self, probabilities: Tensor, entropy: Tensor, count: int, buffer: Tensor) -> None:
        """Add the member number `count` by Welford's update, which is exact for equal members."""
        if count > 1:
            squares = torch.sub(probabilities, self.mean, out=buffer).square_().sum(1)
            self.spread.add_(squares, alpha=(count - 1) / count)
            self.mean.lerp_(probabilities, 1 / count)
            self.entropy.lerp_(entropy, 1 / count)
        else:
            self.mean.copy_(probabilities)
            self.entropy.copy_(entropy)
        winners = probabilities.argmax(1, keepdim=True)
        self.votes.scatter_add_(1, winners, torch.ones_like(winners, dtype=torch.int16))


Part = tuple[slice, slice, slice]


def _parts(values: Tensor) -> list[Part]:
    """Divide (frame, class, pixel) into blocks of about BLOCK_VALUES; an accelerator gets all in one.

    A block is a part of one frame or, where frames are small, several whole ones: a classifier's have one pixel.
    """
    frames, classes, pixels = values.shape
    whole, most = slice(None), max(1, BLOCK_VALUES // classes)
    if values.device.type != "cpu" or frames * pixels <= most:
        return [(whole, whole, whole)]
    together = max(1, most // pixels)
    return [
        (slice(first, first + together), whole, slice(start, start + most))
        for first in range(0, frames, together)
        for start in range(0, pixels, most)
    ]


@dataclass(frozen=True)
class _Share:
    """Hold the blocks that one thread works on, and its buffers by the shape of a block."""

    parts: list[Part]
    blocks: list[_Totals]
    buffers: dict[torch.Size, Buffers]

    def add(self, members: Sequence[Tensor], before: int, convert: Convert) -> None:
        """Add members, (frame, class, pixel) each, to the blocks, `before` of which were added already."""
        for part, block in zip(self.parts, self.blocks, strict=True):
            buffers = self.buffers[block.mean.shape]
            for count, values in enumerate(members, before + 1):
                numbers = values[part] if values.dtype == torch.float64 else values[part].float()
                block.add(*convert(numbers, buffers), count, buffers[0])

    def write_entropy(self, ensemble_entropy: Tensor) -> None:
        """Write the entropy of the mean, (frame, pixel)."""
        for part, block in zip(self.parts, self.blocks, strict=True):
            ensemble_entropy[part[0], part[2]] = _entropy(block.mean, self.buffers[block.mean.shape][0])


def _shares(totals: _Totals, threads: int) -> list[_Share]:
    parts = _parts(totals.mean)
    shares = []
    for number in range(min(threads, len(parts))):
        own = parts[number::threads]
        blocks = [totals.block(part) for part in own]
        means = {block.mean.shape: block.mean for block in blocks}
        buffers = {shape: (torch.empty_like(mean), torch.empty_like(mean)) for shape, mean in means.items()}
        shares.append(_Share(own, blocks, buffers))
    return shares


Run = Callable[[Callable[[_Share], None], list[_Share]], None]


@contextmanager
def _threads() -> Iterator[tuple[int, Run]]:
    """Give torch's number of threads, and what runs work on shares in as many; torch keeps to one in each meanwhile.

    After an operation in several threads, torch's others wait for the next one at full speed, some milliseconds long:
    they would take the cores that the shares are worked on.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def in_this_mode(work: Callable[[_Share], None], share: _Share) -> None:
        with torch.inference_mode(inference), torch.no_grad():  # a new thread knows nothing of its maker's
            work(share)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def run(work: Callable[[_Share], None], shares: list[_Share]) -> None:
            if len(shares) == 1:
                work(shares[0])
                return
            torch.set_num_threads(1)
            try:
                list(pool.map(partial(in_this_mode, work), shares))
            finally:
                torch.set_num_threads(threads)  # what a thread of the pool said holds for threads to come, too

        yield threads, run


def _summarise(members: Iterable[Tensor], convert: Convert) -> Uncertainty:
    # The members of a stacked tensor are there already, so a block can meet them all while it is in the cache.
    together = isinstance(members, Tensor) and len(members) > 0 and members[0].is_contiguous()
    groups: Iterable[Iterable[Tensor]] = [members] if together else ([values] for values in members)
    count, shape = 0, torch.Size()
    with _threads() as (threads, run):
        for group in groups:
            flat = [values.reshape(*values.shape[:2], -1) for values in group]
            if count == 0:
                shape = next(iter(group)).shape
                totals = _no_totals(flat[0])
                shares = _shares(totals, threads)
            run(partial(_Share.add, members=flat, before=count, convert=convert), shares)
            count += len(flat)
        if count == 0:
            raise InputError("no member gave logits; uncertainty needs at least 1 member: pass a tensor for each")
        ensemble_entropy = torch.empty_like(totals.entropy)
        run(partial(_Share.write_entropy, ensemble_entropy=ensemble_entropy), shares)
        maps = _maps_of(totals, ensemble_entropy, count)
    maps = {name: values.reshape(shape[0], *shape[2:]) for name, values in maps.items()}
    return Uncertainty(maps, totals.mean.reshape(shape), measure_bounds(count, shape[1]))


def _no_totals(values: Tensor) -> _Totals:
    mean = torch.empty_like(values, dtype=torch.float64 if values.dtype == torch.float64 else torch.float32)
    votes = torch.zeros_like(values, dtype=torch.int16)
    return _Totals(mean, torch.empty_like(mean[:, 0]), torch.zeros_like(mean[:, 0]), votes)


def _maps_of(totals: _Totals, ensemble_entropy: Tensor, count: int) -> dict[str, Tensor]:
    return {
        "ensemble_entropy": ensemble_entropy,
        "mean_entropy": totals.entropy,
        # Jensen's inequality makes the difference at least 0; rounding alone can take it below.
        "mutual_information": (ensemble_entropy - totals.entropy).clamp_min_(0),
        "variance": totals.spread / count,
        "variation_ratio": 1 - totals.votes.amax(1).to(totals.mean) / count,
    }


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
