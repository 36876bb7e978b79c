"""What the tables share that train segmentation networks on frames in memory: where these are kept, how they learn and label."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables.data import Labelled
from benchmarks.tables.runner import Cell, Found, Request
from perception.adaptation.pseudo import class_thresholds, confidence_histogram
from perception.data.taxonomies import IGNORE
from perception.metrics.confusion import confusion_matrix, iou
from perception.models.checkpoint import load_network
from perception.training.loop import TrainSettings, class_weights, evaluation_mode


@dataclass(frozen=True)
class Kept:
    """Where frames and networks of one section are kept between cells, and on what device they are used."""

    request: Request

    @property
    def folder(self) -> Path:
        folder = self.request.folder / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def device(self) -> str:
        return self.request.device

    def network_path(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}-seed{seed}.safetensors"

    def segmenter(self, name: str, seed: int) -> nn.Module:
        """Load a segmentation network that an earlier cell kept."""
        return placed(load_network(self.network_path(name, seed)), self.device)


def placed(network: nn.Module, device: str) -> nn.Module:
    """Bring a network to a device, and there to the order in memory that a GPU's convolutions are fastest with."""
    if not device.startswith("cuda"):
        return network.to(device)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def training_settings(
    request: Request, batch_frames: int, rate: float, seed: int, *, epochs: int = 1, **changes: Any
) -> TrainSettings:
    """Return how networks learn: Adam with a rate that falls to zero; on a GPU in mixed precision, as a graph."""
    on_gpu = request.device.startswith("cuda")
    return TrainSettings(
        epochs=epochs, batch_frames=batch_frames, learning_rate=rate, weight_decay=1e-4, schedule="poly", seed=seed,
        device=request.device, mixed_precision=on_gpu, captured=on_gpu and not request.eager, **changes,
    )  # fmt: skip


def weights_of(sources: Sequence[Labelled], classes: int) -> np.ndarray:
    """Return ERFNet's class weights for the pixels of all sources: (class,)."""
    counts = sum(torch.bincount(source.labels.flatten().int(), minlength=256)[:classes].cpu() for source in sources)
    return class_weights(counts.numpy())  # type: ignore[union-attr]


def predictions(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Give class and confidence of every pixel: (frame, height, width) uint8 and float16, on the images' device."""
    classes, confidence = [], []
    for part in images.split(16):
        with evaluation_mode(network):
            probability, winner = network(part.float() / 255).float().softmax(1).max(1)
        classes.append(winner.to(torch.uint8))
        confidence.append(probability.half())
    return torch.cat(classes), torch.cat(confidence)


def numbered(images: Tensor, count: int) -> Iterator[tuple[list[str], Tensor]]:
    """Yield frames as score_frames takes them, `count` at a time, named by their numbers; images: uint8."""
    for start, part in zip(range(0, len(images), count), images.split(count), strict=True):
        yield [f"{row:06d}" for row in range(start, start + len(part))], part.float() / 255


def judged(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, Any]:
    """Give mIoU, and IoU by class, per cent; None for a class that is in neither. Both: (frame, height, width)."""
    ious = iou(confusion_matrix(labels, predicted, classes))
    by_class = [None if np.isnan(each) else 100 * float(each) for each in ious]
    return {"miou": 100 * float(np.nanmean(ious)), "iou": by_class}


def network_cells(
    work: Kept,
    first: Cell,
    computes: Mapping[str, tuple[Callable[..., Found], tuple[str, ...]]],
    settings: Callable[[str], Any],
) -> list[Cell]:
    """Return the cell of the frames, and for each seed one for every network; settings: what a cell by its name depends on.

    computes: what makes it of the work, the seed and the cells before, and the cells of its seed whose networks it takes.
    """
    return [first] + [
        Cell(
            name=f"{name}-seed{seed}", compute=partial(compute, work, seed), settings=settings(name),
            needs=(first.name, *(f"{each}-seed{seed}" for each in needs)),
        )
        for seed in range(work.request.seeds)
        for name, (compute, needs) in computes.items()
    ]  # fmt: skip


def sure_labels(network: nn.Module, images: Tensor, classes: int, kept_share: float, highest: float) -> Tensor:
    """Label frames by what the network is sure of, class by class: (frame, height, width) uint8, 255 where it is not."""
    predicted, confidence = predictions(network, images)
    pairs = zip(predicted.cpu().numpy(), confidence.float().cpu().numpy(), strict=True)
    limits = class_thresholds(confidence_histogram(pairs, classes), kept_share, highest)
    sure = confidence >= torch.tensor(limits, device=images.device, dtype=torch.float16)[predicted.long()]
    return torch.where(sure, predicted, IGNORE)
