"""What the night's networks see in the frames that the report shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.stage.learning import NetworkParameters, class_names, networks_of, open_frames
from perception.adaptation.foreground import at_size, load_foreground, score_thresholds
from perception.adaptation.fusion import FusionSettings, fuse
from perception.adaptation.label_pool import Labeller, class_probabilities, predictions
from perception.data.loading import image_batches
from perception.metrics.segmentation import predicted_classes
from perception.models.checkpoint import load_network
from perception.reporting.page import AdaptedFrame
from perception.reporting.records import Adaptation
from perception.training.setup import set_threads
from perception.uncertainty.ensemble import load_committee
from perception.uncertainty.scores import score_frames
from perception.uncertainty.settings import ScoreSettings


def uncertainty_maps(
    ensemble: Path, rows: pd.DataFrame, selected: pd.DataFrame, parameters: NetworkParameters
) -> dict[str, np.ndarray]:
    """Return the ensemble's uncertainty of each frame as (height, width) float32, by frame_id.

    rows: of the manifest. selected: the same frames as they were chosen, with the measure.
    """
    set_threads(parameters.threads)
    measure = str(selected.measure.iloc[0]) if "measure" in selected else ScoreSettings().measure
    maps: dict[str, np.ndarray] = {}
    scored = score_frames(
        load_committee(ensemble, networks_of(parameters)),
        image_batches(open_frames(rows, parameters, labels_required=False), 8),
        ScoreSettings(measure=measure),  # type: ignore[arg-type]  # checked there
        embeddings=False,
        on_maps=lambda frame_id, found, _bounds: maps.update({frame_id: found[measure]}),
    )
    for _ in scored:
        pass
    return maps


def adapted_frames(
    adaptation: Path,
    rows: pd.DataFrame,
    record: Adaptation,
    parameters: NetworkParameters,
    image: Callable[[str], np.ndarray[Any, np.dtype[np.uint8]]],
) -> tuple[AdaptedFrame, ...]:
    """Return frames as segmenter, fusion, pseudo-label and the taught network see them.

    rows: of the manifest. record: says how pseudo-labels are made. image: gives a frame's image by its id.
    """
    set_threads(parameters.threads)
    frames = open_frames(rows, parameters)
    labeller = _labeller(adaptation, record, parameters)
    network = load_network(adaptation / "student.safetensors", networks_of(parameters))
    student = class_probabilities(network, frames, len(frames))
    seen = zip(predictions(labeller, frames, len(frames)), student, strict=True)
    found = []
    for index, (frame_id, ((probabilities, instances), taught)) in enumerate(zip(rows.frame_id, seen, strict=True)):
        label = frames.full_label(index)
        alone = predicted_classes(probabilities, label.shape)
        fused = fuse(alone, at_size(instances, label.shape)) if labeller.foreground is not None else None
        found.append(
            AdaptedFrame(
                frame_id=frame_id,
                image=image(frame_id),
                source_only=alone,
                fused=fused,
                pseudo=labeller.label(probabilities, instances)[0],
                student=predicted_classes(taught, label.shape),
                label=label,
            )
        )
    return tuple(found)


def _labeller(folder: Path, record: Adaptation, parameters: NetworkParameters) -> Labeller:
    """Return the night's way to pseudo-label; without a detector there is nothing to fuse."""
    names, path = class_names(parameters.taxonomy), folder / "detector.safetensors"
    thresholds = np.array([record.threshold_by_class[name] for name in names])
    trusted = {row["class"] for row in record.trust if row["trusted"]}
    fusion = FusionSettings(
        score_threshold=record.fusion.score_threshold,
        class_score_thresholds=score_thresholds(record.fusion.class_score_thresholds, names),
    )
    return Labeller(
        network=load_network(folder / "source_only.safetensors", networks_of(parameters)),
        thresholds=thresholds,
        trusted=tuple(name in trusted for name in names),
        foreground=load_foreground(path, fusion) if path.exists() else None,
    )
