"""Pseudo-label unlabelled frames with a network's own confident predictions, in the memory of one batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from perception.adaptation.pseudo import (
    IGNORE,
    PseudoQuality,
    class_thresholds,
    confidence_histogram,
    pseudo_labels,
    pseudo_quality,
)
from perception.data.loading import FrameSet, ordered_batches
from perception.data.store import Store
from perception.data.taxonomies import Taxonomy, load_taxonomy, raw_values
from perception.models.modes import evaluation_mode

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class PseudoLabelled:
    """Hold pseudo-labelled frames.

    manifest: manifest rows whose labels are the pseudo-labels. thresholds: (class,) float64, the least confidence by class.
    table: one row a frame: frame_id, confidence (mean over labelled pixels, NaN without any), ignore_fraction, px_<class>.
    """

    manifest: pd.DataFrame
    thresholds: NDArray[np.float64]
    table: pd.DataFrame


def label_frames(
    network: nn.Module,
    frames: FrameSet,
    rows: pd.DataFrame,
    store: Store,
    *,
    kept_share: float,
    highest_threshold: float,
    batch_frames: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> PseudoLabelled:
    """Give every frame a pseudo-label: of each class its most confident pixels, the rest ignored.

    frames and rows: the same frames, as loaded and as manifest rows. The network sees each frame twice: once to learn how
    sure it is of each class over all frames, once to label; so memory does not grow with their number.
    kept_share, highest_threshold: as class_thresholds takes them. Labels go to the store at the image's own size.
    """
    taxonomy = load_taxonomy(frames.settings.taxonomy)
    predictions = partial(class_probabilities, network, frames, batch_frames)
    histogram = confidence_histogram((pseudo_labels(each, 0.0) for each in predictions()), len(taxonomy.classes))
    thresholds = class_thresholds(histogram, kept_share, highest_threshold)
    labelled, table = [], []
    for index, probabilities in enumerate(predictions()):
        label, confidence = pseudo_labels(probabilities, thresholds)
        row = rows.iloc[index]
        blob = store.put(_png(label, (int(row.height_px), int(row.width_px)), taxonomy), "png")
        labelled.append({"frame_id": row.frame_id, "label_uri": blob.uri, "label_sha256": blob.sha256})
        table.append({"frame_id": row.frame_id} | _facts(label, confidence, taxonomy.classes))
        if progress:
            progress(index + 1, len(frames))
    changed = rows.drop(columns=["label_uri", "label_sha256"]).merge(
        pd.DataFrame(labelled), on="frame_id", validate="one_to_one"
    )
    manifest = changed.assign(label_source="pseudo", label_taxonomy=taxonomy.name, split="train", instances_uri=None)
    return PseudoLabelled(manifest, thresholds, pd.DataFrame(table))


def measure_quality(
    network: nn.Module, frames: FrameSet, thresholds: NDArray[np.float64], batch_frames: int = 8
) -> PseudoQuality:
    """Measure coverage and precision of pseudo-labels on frames whose labels are known."""
    probabilities = class_probabilities(network, frames, batch_frames)
    pairs = ((frames.load(index)[1], pseudo_labels(each, thresholds)[0]) for index, each in enumerate(probabilities))
    return pseudo_quality(pairs, len(thresholds))


def class_probabilities(network: nn.Module, frames: FrameSet, batch_frames: int) -> Iterator[Probabilities]:
    """Yield (class, height, width) float32 probabilities, frame after frame; the network answers in eval mode."""
    for batch in ordered_batches(frames, batch_frames):
        with evaluation_mode(network):  # not around the loop: it would last while the caller works
            probabilities = network(batch.images).softmax(1).numpy()
        yield from probabilities


def _png(label: NDArray[np.uint8], size: tuple[int, int], taxonomy: Taxonomy) -> bytes:
    """Encode class ids as a label file of the taxonomy, whose raw values may differ from its class ids."""
    buffer = BytesIO()
    Image.fromarray(raw_values(label, taxonomy)).resize((size[1], size[0]), Image.Resampling.NEAREST).save(
        buffer, "PNG"
    )
    return buffer.getvalue()


def _facts(
    label: NDArray[np.uint8], confidence: NDArray[np.float32], classes: tuple[str, ...]
) -> dict[str, float | int]:
    known = label != IGNORE
    counts = np.bincount(label[known], minlength=len(classes))
    facts: dict[str, float | int] = {
        "confidence": float(confidence[known].mean()) if known.any() else float("nan"),
        "ignore_fraction": float(1 - known.mean()),
    }
    return facts | {f"px_{name}": int(count) for name, count in zip(classes, counts, strict=True)}
