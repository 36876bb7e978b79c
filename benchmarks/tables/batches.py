"""Batches drawn and varied on the device, many frames at once: a small network on a GPU waits for nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tables.data import Labelled
from benchmarks.tables.frames import Instances
from perception.adaptation.detector_training import DetectionBatch
from perception.data.loading import Batch
from perception.data.taxonomies import IGNORE


@dataclass(frozen=True, kw_only=True)
class Variation:
    """Say how frames are varied: mirrored, zoomed, recoloured, and seen by a worse camera."""

    zoom: tuple[float, float] = (0.75, 1.5)  # log-uniform; below 1 the frame is padded
    color: float = 0.4  # brightness, contrast and saturation are each multiplied by 1 ± this at most
    tint: float = 0.15  # each colour channel is multiplied by 1 ± this at most
    gamma: float = 0.4  # exponent e^±this at most
    noise: float = 0.04  # standard deviation of the sensor's noise at most, of a range of 1
    blur_share: float = 0.5  # of the frames are blurred


@dataclass(frozen=True, eq=False)
class SegmentationStream:
    """One epoch of `steps` batches, each with `shares[i]` frames from `sources[i]`, drawn at random and varied.

    sources: on the device, labels as bytes.
    """

    sources: list[Labelled]
    shares: list[int]
    steps: int
    variation: Variation
    seed: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        device = self.sources[0].images.device
        generator = torch.Generator(device).manual_seed(self.seed)
        for _ in range(self.steps):
            images, labels = [], []
            for source, share in zip(self.sources, self.shares, strict=True):
                rows = torch.randint(len(source), (share,), generator=generator, device=device)
                images.append(source.images[rows])
                labels.append(source.labels[rows])
            pixels, classes = moved(torch.cat(images).float() / 255, torch.cat(labels), self.variation, generator)
            yield Batch(recolored(pixels, self.variation, generator), classes)


@dataclass(frozen=True, eq=False)
class DetectionStream:
    """One epoch of `steps` batches for the detector: frames drawn at random, mirrored half of the time, recoloured."""

    frames: Instances
    batch_frames: int
    steps: int
    variation: Variation
    seed: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[DetectionBatch]:
        device = self.frames.fields["images"].device
        generator = torch.Generator(device).manual_seed(self.seed)
        for _ in range(self.steps):
            rows = torch.randint(len(self.frames), (self.batch_frames,), generator=generator, device=device)
            batch = DetectionBatch(**{name: value[rows] for name, value in self.frames.fields.items()})
            flip = torch.rand(self.batch_frames, generator=generator, device=device) < 0.5
            batch = mirrored(batch, flip)
            fields = {name: getattr(batch, name) for name in self.frames.fields}
            fields["images"] = recolored(batch.images.float() / 255, self.variation, generator)
            yield DetectionBatch(**fields)


def mirrored(batch: DetectionBatch, flip: Tensor) -> DetectionBatch:
    """Mirror some frames of a batch left to right, with all that is said about them. flip: (frame,) bool."""
    width, columns = batch.images.shape[-1], batch.heat.shape[-1]

    def turned(value: Tensor) -> Tensor:
        return torch.where(flip.view(-1, *[1] * (value.dim() - 1)), value.flip(-1), value)

    sides = torch.where(flip[:, None, None, None], batch.sides[:, [2, 1, 0, 3]].flip(-1), batch.sides)
    column = batch.places % columns
    places = torch.where(
        flip[:, None] & (batch.places >= 0), batch.places - column + columns - 1 - column, batch.places
    )
    boxes = torch.stack(
        [width - batch.boxes[..., 2], batch.boxes[..., 1], width - batch.boxes[..., 0], batch.boxes[..., 3]], -1
    )
    return DetectionBatch(
        images=turned(batch.images),
        heat=turned(batch.heat),
        judged=turned(batch.judged),
        sides=sides,
        side_weights=turned(batch.side_weights),
        numbers=turned(batch.numbers),
        places=places,
        boxes=torch.where(flip[:, None, None], boxes, batch.boxes),
    )


def moved(images: Tensor, labels: Tensor, variation: Variation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror and zoom frames about random points, images bilinearly and labels to the nearest pixel.

    images: (frame, 3, height, width) float32; labels: (frame, height, width) uint8. Returns the labels as int64, 255
    outside the frame.
    """
    count, device = len(images), images.device
    low, high = (torch.tensor(end).log().item() for end in variation.zoom)
    draw = torch.rand(4, count, generator=generator, device=device)
    scale = (low + (high - low) * draw[0]).exp()
    sign = torch.where(draw[1] < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1] = sign / scale, 1 / scale
    theta[:, 0, 2], theta[:, 1, 2] = (2 * draw[2] - 1) * (1 - 1 / scale), (2 * draw[3] - 1) * (1 - 1 / scale)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    pixels = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shifted = labels[:, None].float() - IGNORE  # so that the zeros outside the frame become 255
    classes = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return pixels, (classes[:, 0] + IGNORE).round().long()


def recolored(images: Tensor, variation: Variation, generator: torch.Generator) -> Tensor:
    """Vary colours, sharpness and noise frame by frame. images: (frame, 3, height, width) float32 in [0, 1]."""
    count, device = len(images), images.device
    draw = torch.rand(9, count, 1, 1, 1, generator=generator, device=device) * 2 - 1
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + variation.color * draw[0])
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (middle + (images - middle) * (1 + variation.color * draw[1])) * (1 + variation.color * draw[2])
    tint = torch.cat([draw[3], draw[4], draw[5]], 1) * variation.tint
    images = (images * (1 + tint)).clamp(1e-4, 1) ** (variation.gamma * draw[6]).exp()
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.where(draw[7] < 2 * variation.blur_share - 1, soft, images)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + variation.noise * (draw[8] + 1) / 2 * noise).clamp(0, 1)
