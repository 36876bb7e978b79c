"""Load frames as batches: decode, resize, augment; the same seed gives the same batches on any machine."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from perception.data.decoding import decode_stored_image, decode_stored_label, image_size
from perception.data.store import Store
from perception.data.taxonomies import IGNORE, load_taxonomy
from perception.errors import InputError
from perception.parameters import Count, CountOrZero, Range, ShareFromZero, checked, within

Result = TypeVar("Result")
# Rec. 601 luma, the grey that colour jitter keeps or moves.
_LUMA = (0.299, 0.587, 0.114)
# Parts of an affine map of a colour, (3, 4): the colour itself and its grey; the last column is a constant.
_COLOR, _GREY = np.eye(3, 4), np.outer(np.ones(3), np.append(_LUMA, 0))
# Streams of random numbers that must never coincide.
_ORDER_STREAM, _AUGMENT_STREAM = 1, 2
_WHOLE = slice(None)


# Threads beside a GPU's training loop, which wants some of the cores itself: on 16 cores eight feed an H100 to 95 % of
# its bound and sixteen to 90 % (docs/data.md).
MOST_WORKERS = 8


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the cores that this process may use: those it may run on, and no more than its container's share of time.

    quota: where Linux's control groups (version 2) say "MICROSECONDS PERIOD" or "max PERIOD" of this container.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if allowed == "max" else max(1, min(cores, round(int(allowed) / int(period))))


@checked
class LoadSettings:
    """Say how frames are to be loaded."""

    height_px: Count  # height that every image and label is resized to
    width_px: Count  # width that every image and label is resized to
    taxonomy: str  # taxonomy whose class ids the labels get
    cache_mib: CountOrZero = 1024  # memory for decoded and resized frames; 0 keeps none
    # Threads that load ahead of the training step; 0 loads in its own thread. Batches are the same whatever their number.
    workers: CountOrZero = Field(default_factory=lambda: min(usable_cores(), MOST_WORKERS))

    def __post_init__(self) -> None:
        load_taxonomy(self.taxonomy)


@checked
class Augment:
    """Say how training frames are varied; the defaults suit street scenes."""

    flip: bool = True  # mirror half of the frames left to right
    # zoom, log-uniform; below 1 the frame is padded, above 1 cropped
    scale_range: Annotated[Range, within(0.1, 10)] = (0.75, 1.5)
    color_jitter: ShareFromZero = 0.2  # brightness, contrast and saturation are each multiplied by 1 ± this at most


@dataclass(frozen=True, eq=False)
class Batch:
    """Hold frames as a network takes them.

    images: (frame, 3, height, width) float32 in [0, 1]. labels: (frame, height, width) int64 class ids, 255 = ignore.
    Both are uint8, images 0..255, where bytes were asked for: a fourth of the memory on the way to a device.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def on(self, device: torch.device | str) -> "Batch":
        """Bring the batch to a device, where bytes become what a network takes; a GPU copies while it computes."""
        images, labels = (_copied(tensor, torch.device(device)) for tensor in (self.images, self.labels))
        if images.dtype == torch.uint8:
            images = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return Batch(images, labels.long())


class FrameSet:
    """Give random access to the frames of a manifest, decoded and resized; the first ones to fill the cache stay in it.

    A frame without a label gets a label that is 255 everywhere, but only with labels_required=False.
    Raises InputError for a manifest that lacks a column or, with labels_required, a label.
    """

    def __init__(
        self, frames: pd.DataFrame, store: Store, settings: LoadSettings, *, labels_required: bool = True
    ) -> None:
        columns = ("frame_id", "image_uri", "label_uri", "label_taxonomy")
        absent = [name for name in columns if name not in frames.columns]
        if absent:
            raise InputError(f"frames to load have no column {absent[0]}; read it from the manifest")
        unlabelled = frames["frame_id"][frames["label_uri"].isna()]
        if labels_required and len(unlabelled):
            raise InputError(
                f"frame_id {unlabelled.iloc[0]} has no label ({len(unlabelled)} of {len(frames)} frames have none); "
                "leave these out or load them with labels_required=False"
            )
        self.frame_ids: list[str] = frames["frame_id"].tolist()
        self.settings = settings
        self._store = store
        self._image_uris: list[str] = frames["image_uri"].tolist()
        labels = frames["label_uri"].astype(object).where(frames["label_uri"].notna(), None)
        self._label_uris: list[str | None] = labels.tolist()
        self._taxonomies: list[str] = frames["label_taxonomy"].tolist()
        self._cache: dict[int, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
        self._cache_frames = settings.cache_mib * 2**20 // (settings.height_px * settings.width_px * 4)

    def __len__(self) -> int:
        return len(self.frame_ids)

    def load(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Load one frame: image (3, height, width) uint8 RGB, label (height, width) uint8 class ids, 255 = ignore.

        A smaller image averages the pixels under each of its own, a larger one is bilinear; the label takes its nearest
        pixel. Raises InputError for a blob that is missing or corrupt and BadFrame for one that cannot be decoded.
        """
        image, label = self._resized(index)
        return np.ascontiguousarray(image.transpose(2, 0, 1)), label.copy()

    def full_label(self, index: int) -> NDArray[np.uint8]:
        """Load one frame's label at its own size: (label height, label width) uint8 class ids, 255 = ignore."""
        return self._decode_label(index, image_size(*self._image(index)))

    def full_image(self, index: int) -> NDArray[np.uint8]:
        """Load one frame's image at its own size: (height, width, 3) uint8 RGB."""
        return decode_stored_image(*self._image(index))

    def _resized(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the frame from the cache or the store: image (height, width, 3), label (height, width)."""
        if index in self._cache:
            return self._cache[index]
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        frame = self._decode(index)
        if len(self._cache) < self._cache_frames:
            self._cache[index] = frame
        return frame

    def _decode(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        shown = (self.settings.height_px, self.settings.width_px)
        data, name = self._image(index)
        image = resize_image(decode_stored_image(data, name, shown), shown)
        return image, self._decode_label(index, image_size(data, name), shown)

    def _decode_label(
        self, index: int, size: tuple[int, ...], shown: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        uri, own = self._label_uris[index], (size[0], size[1])
        if uri is None:
            return np.full(shown or own, IGNORE, np.uint8)
        source = load_taxonomy(self._taxonomies[index])
        name = f"label of frame {self.frame_ids[index]}"
        return decode_stored_label(self._store.get(uri), name, source, own, shown or own, self.settings.taxonomy)

    def _image(self, index: int) -> tuple[bytes, str]:
        """Return an image's bytes, whose sha256 the store checks, so they are those that were admitted; and its name."""
        return self._store.get(self._image_uris[index]), f"image of frame {self.frame_ids[index]}"


def shuffled_batches(
    frames: FrameSet,
    batch_frames: int,
    seed: int,
    epoch: int,
    augment: Augment | None,
    epoch_frames: int | None = None,
    *,
    as_bytes: bool = False,
    share: slice = _WHOLE,
) -> Iterator[Batch]:
    """Yield one epoch of training batches in an order drawn from (seed, epoch), as bytes for a device where asked.

    share: of several processes, the part of each batch that this one loads and yields.

    Each frame comes once; with `epoch_frames` that many are drawn, going on where the epoch before stopped in a
    sequence of permutations, so that every frame is seen equally often. The last batch may be shorter; a last batch of
    one frame joins the one before, because batch normalisation needs two. Augmentation of a frame depends on the seed,
    the permutation (the epoch, without `epoch_frames`) and the frame alone.
    Raises InputError for a set without frames or numbers out of range.
    """
    for name, value, low in (("batch_frames", batch_frames, 1), ("seed", seed, 0), ("epoch", epoch, 0)):
        if value < low:
            raise InputError(f"{name} is {value}, must be at least {low}; change it")
    if epoch_frames is not None and epoch_frames < 1:
        raise InputError(f"epoch_frames is {epoch_frames}, must be at least 1; change it or leave it out")
    if len(frames) == 0:
        raise InputError("there are no frames to train on; select some or correct the split")
    batches = _split(_draws(len(frames), seed, epoch, epoch_frames or len(frames)), batch_frames)
    # A batch's random numbers are drawn together: among decoded frames each generator would find a cold cache.
    varied = ([_variation(seed, *draw, augment) for draw in batch[share]] for batch in batches)
    yield from _batches(varied, batch_frames, frames, as_bytes)


def count_batches(frames: int, batch_frames: int, epoch_frames: int | None = None) -> int:
    """Count the batches of an epoch of shuffled_batches without loading any."""
    drawn = epoch_frames or frames
    return len(_split([(0, index) for index in range(drawn)], batch_frames))


def ordered_batches(frames: FrameSet, batch_frames: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
    """Yield all frames, or those that are named, in their order, without augmentation; the last batch may be shorter."""
    if batch_frames < 1:
        raise InputError(f"batch_frames is {batch_frames}, must be at least 1; change it")
    every = [_Variation(index) for index in (range(len(frames)) if indices is None else indices)]
    batches = (every[start : start + batch_frames] for start in range(0, len(every), batch_frames))
    yield from _batches(batches, batch_frames, frames, as_bytes=False)


def image_batches(
    frames: FrameSet, batch_frames: int, indices: Sequence[int] | None = None
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield frames as ordered_batches does: (frame_ids, images), images (frame, 3, height, width) float32 in [0, 1]."""
    ids = iter(frames.frame_ids if indices is None else [frames.frame_ids[index] for index in indices])
    for batch in ordered_batches(frames, batch_frames, indices):
        yield list(islice(ids, len(batch.images))), batch.images


@dataclass
class WaitingTime:
    """Measure how long a training loop waits for its batches; above a few percent the loader starves it.

    waited_seconds: spent on getting batches. total_seconds: that and what the loop did with them.
    """

    waited_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def share(self) -> float:
        """Give the share of the loop's time that went on waiting; 0 where nothing was measured."""
        return self.waited_seconds / self.total_seconds if self.total_seconds else 0.0

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches and measure; several epochs add up."""
        iterator = iter(batches)
        start = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited_seconds += time.perf_counter() - asked
            self.total_seconds += time.perf_counter() - start
            if batch is None:
                return
            start = time.perf_counter()
            yield batch


def resize_image(image: NDArray[np.uint8], shown: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (height, width, 3) uint8 to `shown`, (height, width).

    Where it shrinks, each new pixel averages those under it; where it grows, it is bilinear.
    """
    height, width = (min(own, wanted) for own, wanted in zip(image.shape, shown, strict=False))
    for size, method in (((height, width), cv2.INTER_AREA), (shown, cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)
    return image


def resize_label(label: NDArray[np.uint8], shown: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (height, width) uint8 to `shown`, (height, width); each new pixel takes the nearest one."""
    if label.shape == shown:
        return label
    return np.asarray(cv2.resize(label, shown[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def frame_pixel_counts(frames: FrameSet, indices: Iterable[int] | None = None) -> NDArray[np.int64]:
    """Count the label pixels of every class in every frame: (frame, class) int64; ignored pixels are left out.

    indices: count these frames alone; the others get zeros.
    """
    counts = np.zeros((len(frames), len(load_taxonomy(frames.settings.taxonomy).classes)), np.int64)
    for index in range(len(frames)) if indices is None else indices:
        counts[index] = np.bincount(frames.load(index)[1].ravel(), minlength=256)[: counts.shape[1]]
    return counts


# --- order


def _draws(count: int, seed: int, epoch: int, epoch_frames: int) -> list[tuple[int, int]]:
    """Cut an epoch out of the endless sequence of permutations: (number of the permutation, frame)."""
    start, stop = epoch * epoch_frames, (epoch + 1) * epoch_frames
    draws: list[tuple[int, int]] = []
    for cycle in range(start // count, (stop - 1) // count + 1):
        order = np.random.default_rng([_ORDER_STREAM, seed, cycle]).permutation(count)
        draws += [(cycle, int(index)) for index in order[max(start - cycle * count, 0) : stop - cycle * count]]
    return draws


def _split(draws: Sequence[tuple[int, int]], batch_frames: int) -> list[Sequence[tuple[int, int]]]:
    batches = [draws[start : start + batch_frames] for start in range(0, len(draws), batch_frames)]
    if batch_frames > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [[*batches[-2], *batches[-1]]]
    return batches


# --- frames as a network takes them

_Frame = tuple[NDArray[np.uint8], NDArray[np.uint8]]
# Puts an image into its place in a batch, its colours changed by an affine map, (3, 4), on the way where there is one.
_Fill = Callable[[NDArray[Any], NDArray[np.uint8], NDArray[np.float64] | None], None]


@dataclass(frozen=True)
class _Variation:
    """Say how one frame is augmented."""

    index: int  # of the frame
    mirrored: bool = False
    scale: float = 1.0  # zoom: above 1 crops, below 1 pads
    left: float = 0.0  # in [0, 1): where in the room that there is the crop or the frame lies
    top: float = 0.0
    # Factors of brightness, contrast and saturation; None leaves the colours as they are.
    jitter: tuple[float, float, float] | None = None


def _batches(
    batches: Iterable[Sequence[_Variation]], batch_frames: int, frames: FrameSet, as_bytes: bool
) -> Iterator[Batch]:
    """Load batches in their order, each frame by whichever worker is free, ahead of who takes them.

    Two batches ahead, or as many as give every worker a frame while the last frame of the first batch is waited for.
    """
    settings, fill = frames.settings, _fill_bytes if as_bytes else _fill_floats
    filled: deque[Batch] = deque()

    def calls(batch: Sequence[_Variation]) -> list[Callable[[], None]]:
        filled.append(_empty_batch(len(batch), settings, as_bytes))
        return [partial(_load_into, filled[-1], slot, frames, each, fill) for slot, each in enumerate(batch)]

    ahead = max(2, 1 + -(-settings.workers // batch_frames))
    with closing(worked_ahead(map(calls, batches), settings.workers, ahead)) as done:
        for _ in done:
            yield filled.popleft()


def worked_ahead(
    parts: Iterable[Sequence[Callable[[], Result]]], workers: int, ahead: int
) -> Generator[list[Result], None, None]:
    """Yield what the calls of each part return, in order; threads make `ahead` parts before they are asked for.

    workers: threads; 0 makes the calls here. What a call raises is raised, the first one's first.
    """
    if workers == 0:
        yield from ([call() for call in part] for part in parts)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    waiting: deque[list[Future[Result]]] = deque()
    try:
        for part in parts:
            waiting.append([pool.submit(call) for call in part])
            if len(waiting) > ahead:
                yield _results(waiting.popleft())
        while waiting:
            yield _results(waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(calls: list[Future[Result]]) -> list[Result]:
    wait(calls, return_when=FIRST_EXCEPTION)  # wakes this thread once a part, not once a call
    return [call.result() for call in calls]


def _empty_batch(count: int, settings: LoadSettings, as_bytes: bool) -> Batch:
    height, width = settings.height_px, settings.width_px
    if as_bytes:
        # Loaded straight into memory that a GPU can fetch from by itself, the training loop need not copy anything.
        empty = partial(torch.empty, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        return Batch(empty((count, height, width, 3)).permute(0, 3, 1, 2), empty((count, height, width)))
    images = torch.empty((count, 3, height, width), dtype=torch.float32)
    return Batch(images, torch.empty((count, height, width), dtype=torch.int64))


def _load_into(batch: Batch, slot: int, frames: FrameSet, variation: _Variation, fill: _Fill) -> None:
    image, label = frames._resized(variation.index)
    colors = None
    if variation.jitter is not None:
        image, label = _moved(image, label, variation.scale, variation.left, variation.top, variation.mirrored)
        colors = _color_map(image, *variation.jitter)
    fill(batch.images[slot].numpy(), image, colors)
    batch.labels[slot].numpy()[:] = label


def _fill_bytes(target: NDArray[Any], image: NDArray[np.uint8], colors: NDArray[np.float64] | None) -> None:
    room = target.transpose(1, 2, 0)
    if colors is not None:
        image = np.asarray(cv2.transform(image, colors, dst=room), np.uint8)
    if image is not room:
        room[:] = image


def _fill_floats(target: NDArray[Any], image: NDArray[np.uint8], colors: NDArray[np.float64] | None) -> None:
    for channel, plane in enumerate(cv2.split(image if colors is None else cv2.transform(image, colors))):
        np.divide(plane, np.float32(255), out=target[channel], dtype=np.float32)


def _copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def _variation(seed: int, cycle: int, index: int, augment: Augment | None) -> _Variation:
    if augment is None:
        return _Variation(index)
    generator = np.random.default_rng([_AUGMENT_STREAM, seed, cycle, index])
    # Every number is drawn whatever the settings, so that one setting never changes what another one does.
    mirror, scale, left, top = generator.random(4).tolist()
    brightness, contrast, saturation = (generator.uniform(-1, 1, 3) * augment.color_jitter + 1).tolist()
    # Zooming in and out by the same factor are equally likely.
    low, high = (math.log(bound) for bound in augment.scale_range)
    zoom = math.exp(low + scale * (high - low))
    return _Variation(index, augment.flip and mirror < 0.5, zoom, left, top, (brightness, contrast, saturation))


def _moved(
    image: NDArray[np.uint8], label: NDArray[np.uint8], scale: float, left: float, top: float, mirrored: bool
) -> _Frame:
    """Zoom by a factor at equal size and mirror: above 1 crops, below 1 pads with reflected pixels and label 255.

    left, top in [0, 1): where in the room that there is the crop or the frame lies.
    """
    height, width = label.shape
    # A window of whole pixels, resized: several times faster than a warp to a place between pixels.
    rows, columns = (max(round(size / scale), 1) for size in (height, width))
    if scale >= 1:
        y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        window = (slice(y, y + rows), slice(x, x + columns))
        return _scaled(image[window], label[window], (height, width), mirrored)
    rows, columns = (max(round(size * scale), 1) for size in (height, width))
    y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    small, ground = _scaled(image, label, (rows, columns), mirrored)
    x = width - columns - x if mirrored else x
    borders = (y, height - rows - y, x, width - columns - x)
    padded = cv2.copyMakeBorder(small, *borders, cv2.BORDER_REFLECT)
    unknown = cv2.copyMakeBorder(ground, *borders, cv2.BORDER_CONSTANT, value=IGNORE)
    return np.asarray(padded, np.uint8), np.asarray(unknown, np.uint8)


def _scaled(image: NDArray[np.uint8], label: NDArray[np.uint8], size: tuple[int, int], mirrored: bool) -> _Frame:
    """Resize the image bilinearly and the label to its nearest pixels, and mirror both."""
    if label.shape != size:
        image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
        label = resize_label(label, size)
    if mirrored:
        return np.asarray(cv2.flip(image, 1), np.uint8), np.asarray(cv2.flip(label, 1), np.uint8)
    return image, label


def _color_map(image: NDArray[np.uint8], brightness: float, contrast: float, saturation: float) -> NDArray[np.float64]:
    """Multiply brightness, contrast about the image's mean grey and saturation: (height, width, 3) uint8 → (3, 4).

    All three are affine in the colour, so one matrix does them together and rounds once.
    """
    red, green, blue, _ = cv2.mean(image)
    gain = brightness * contrast
    matrix: NDArray[np.float64] = gain * saturation * _COLOR + gain * (1 - saturation) * _GREY
    matrix[:, 3] = brightness * (1 - contrast) * (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)
    return matrix
