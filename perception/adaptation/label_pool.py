"""Pseudo-label unlabelled frames with what segmenter and detector are sure of, in the memory of one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from perception.adaptation.foreground import Foreground, instances_of, of_classes
from perception.adaptation.fusion import Instances, fuse, paste, pseudo_ground_truth
from perception.adaptation.pseudo import (
    IGNORE,
    PseudoQuality,
    class_thresholds,
    confidence_histogram,
    pair_counts,
    pseudo_labels,
    quality_of_counts,
)
from perception.data.loading import FrameSet, ordered_batches
from perception.data.store import Store
from perception.data.taxonomies import Taxonomy, load_taxonomy, raw_values
from perception.training.distributed import in_order, own_frames, sum_over_processes
from perception.training.loop import batch_logits

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Labeller:
    """Say how pseudo-labels are made.

    thresholds: (class,) float64, the least confidence by class that find_thresholds gives. trusted: one flag a class, the
    foreground classes whose pixels come from the detector's masks and from nothing else; the segmenter's own confident
    pixels make the rest. Without a detector no class is trusted.
    """

    network: nn.Module
    thresholds: NDArray[np.float64]
    trusted: tuple[bool, ...]
    foreground: Foreground | None = None

    def label(self, probabilities: Probabilities, instances: Instances) -> tuple[NDArray[np.uint8], Probabilities]:
        """Label one frame from probabilities (class, height, width) and the detector's instances.

        Returns the label (height, width) uint8, 255 where it says nothing, and the segmenter's confidence (height, width)
        float32. With every foreground class trusted this is the paper's pseudo-ground-truth on confident pixels.
        """
        plain, confidence = pseudo_labels(probabilities, self.thresholds)
        return pseudo_ground_truth(plain, of_classes(instances, self.trusted), self.trusted), confidence


@dataclass(frozen=True)
class PseudoLabelled:
    """Hold pseudo-labelled frames.

    manifest: manifest rows whose labels are the pseudo-labels. table: one row a frame: frame_id, confidence (the
    segmenter's mean over labelled pixels, NaN without any), ignore_fraction, and pixels by class: px_<class> of the
    pseudo-label, fused_px_<class> of segmentation and all instances fused, detected_px_<class> of the instances alone.
    """

    manifest: pd.DataFrame
    table: pd.DataFrame


def find_thresholds(
    network: nn.Module, frames: FrameSet, kept_share: float, highest_threshold: float, batch_frames: int
) -> NDArray[np.float64]:
    """Look once at all frames and give the confidence by class that keeps the share of its pixels: (class,) float64.

    kept_share, highest_threshold: as perception.adaptation.pseudo.class_thresholds takes them.
    """
    probabilities = class_probabilities(network, frames, batch_frames)
    classes = len(load_taxonomy(frames.settings.taxonomy).classes)
    histogram = confidence_histogram((pseudo_labels(each, 0.0) for each in probabilities), classes)
    histogram = sum_over_processes(histogram)
    return class_thresholds(histogram, kept_share, highest_threshold)


def label_frames(
    labeller: Labeller,
    frames: FrameSet,
    rows: pd.DataFrame,
    store: Store,
    *,
    batch_frames: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> PseudoLabelled:
    """Give every frame a pseudo-label and count what it and the fused picture hold; each process does its share.

    frames and rows: the same frames, as loaded and as manifest rows. Labels go to the store at the image's own size.
    """
    taxonomy = load_taxonomy(frames.settings.taxonomy)
    found, own = [], own_frames(len(frames), batch_frames)
    for index, (probabilities, instances) in zip(own, predictions(labeller, frames, batch_frames), strict=True):
        label, confidence = labeller.label(probabilities, instances)
        row = rows.iloc[index]
        blob = store.put(_png(label, (int(row.height_px), int(row.width_px)), taxonomy), "png")
        label_facts = {"frame_id": row.frame_id, "label_uri": blob.uri, "label_sha256": blob.sha256}
        known = label != IGNORE
        facts = {
            "frame_id": row.frame_id,
            "confidence": float(confidence[known].mean()) if known.any() else float("nan"),
            "ignore_fraction": float(1 - known.mean()),
        }
        found.append((index, (label_facts, facts | _counts(label, probabilities, instances, taxonomy.classes))))
        if progress:
            progress(len(found), len(own))
    labelled, table = zip(*in_order(found), strict=True)
    unlabelled = rows.drop(columns=["label_uri", "label_sha256"])
    changed = unlabelled.merge(pd.DataFrame(list(labelled)), on="frame_id", validate="one_to_one")
    manifest = changed.assign(label_source="pseudo", label_taxonomy=taxonomy.name, split="train", instances_uri=None)
    return PseudoLabelled(manifest, pd.DataFrame(list(table)))


def measure_quality(labellers: Sequence[Labeller], frames: FrameSet, batch_frames: int = 8) -> list[PseudoQuality]:
    """Measure coverage and precision of pseudo-labels on frames whose labels are known.

    labellers: several ways to label with the same networks, measured in one pass over the frames.
    """
    counts = count_by_drive(labellers, frames, np.zeros(len(frames), np.int64), batch_frames)
    return [quality_of_counts(each) for each in counts[:, 0]]


def count_by_drive(
    labellers: Sequence[Labeller], frames: FrameSet, drive_of: NDArray[np.int64], batch_frames: int = 8
) -> NDArray[np.int64]:
    """Count pixels as pair_counts does, by way to label and drive: (labeller, drive, class, class + 1) int64.

    drive_of: (frame,) number of each frame's drive, from 0 on.
    """
    classes = len(labellers[0].thresholds)
    counts = np.zeros((len(labellers), int(drive_of.max(initial=0)) + 1, classes, classes + 1), np.int64)
    own = own_frames(len(frames), batch_frames)
    for index, (probabilities, instances) in zip(own, predictions(labellers[0], frames, batch_frames), strict=True):
        truth = frames.load(index)[1]
        for number, labeller in enumerate(labellers):
            counts[number, drive_of[index]] += pair_counts(truth, labeller.label(probabilities, instances)[0], classes)
    return sum_over_processes(counts)


def predictions(labeller: Labeller, frames: FrameSet, batch_frames: int) -> Iterator[tuple[Probabilities, Instances]]:
    """Yield (class, height, width) float32 probabilities and the detector's instances of each of own_frames."""
    yield from zip(
        class_probabilities(labeller.network, frames, batch_frames),
        instances_of(labeller.foreground, frames, batch_frames),
        strict=True,
    )


def class_probabilities(network: nn.Module, frames: FrameSet, batch_frames: int) -> Iterator[Probabilities]:
    """Yield (class, height, width) float32 probabilities of each of own_frames, from the network in eval mode on its device."""
    for batch in ordered_batches(frames, batch_frames, own_frames(len(frames), batch_frames)):
        yield from batch_logits(network, batch).softmax(1).cpu().numpy()


def _png(label: NDArray[np.uint8], size: tuple[int, int], taxonomy: Taxonomy) -> bytes:
    """Encode class ids as a label file of the taxonomy, whose raw values may differ from its class ids."""
    buffer = BytesIO()
    picture = Image.fromarray(raw_values(label, taxonomy))
    picture.resize((size[1], size[0]), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _counts(
    label: NDArray[np.uint8], probabilities: Probabilities, instances: Instances, classes: Sequence[str]
) -> dict[str, int]:
    """Count pixels by class in the pseudo-label, in the fused picture and in the instances alone."""
    fused = fuse(probabilities.argmax(axis=0).astype(np.uint8), instances)
    maps = {"px": label, "fused_px": fused, "detected_px": paste(label.shape, instances)}
    counted = {prefix: np.bincount(ids.ravel(), minlength=256).tolist() for prefix, ids in maps.items()}
    return {f"{prefix}_{name}": pixels[k] for prefix, pixels in counted.items() for k, name in enumerate(classes)}
