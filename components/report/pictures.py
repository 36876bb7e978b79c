"""The pictures of a night's report: images from the store, and what networks make of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.stage.declaration import Paths
from components.stage.learning import NetworkParameters, class_names, networks_of, open_frames
from perception.adaptation.foreground import at_size, load_foreground, score_thresholds
from perception.adaptation.fusion import FusionSettings, fuse
from perception.adaptation.label_pool import Labeller, class_probabilities, predictions
from perception.data.decoding import decode_image
from perception.data.loading import image_batches
from perception.data.manifest import read_manifest
from perception.data.store import open_store
from perception.errors import InputError
from perception.metrics.segmentation import predicted_classes
from perception.metrics.slices import CONDITIONS
from perception.models.checkpoint import load_network
from perception.reporting import page
from perception.reporting.evaluation_page import tested_frames
from perception.reporting.records import Adaptation
from perception.uncertainty.ensemble import load_committee
from perception.uncertainty.scores import score_frames
from perception.uncertainty.settings import ScoreSettings

Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Pictures:
    """Find images by frame_id and paint what the night's networks see in them."""

    def __init__(self, inputs: Paths, parameters: NetworkParameters) -> None:
        self._inputs, self._parameters = inputs, parameters
        folder = inputs.maybe("frames")
        frames = read_manifest(folder / "manifest.parquet") if folder else pd.DataFrame(columns=["frame_id"])
        self._frames = frames.set_index("frame_id", drop=False)

    def __contains__(self, frame_id: str) -> bool:
        return frame_id in self._frames.index

    def image(self, frame_id: str) -> Picture:
        """Return a frame's image (height, width, 3) uint8; raise InputError for something that is no frame of the night."""
        uri = self._rows([frame_id]).image_uri.iloc[0]
        return decode_image(open_store(self._parameters.store).get(uri), uri)

    def _rows(self, frame_ids: Sequence[str]) -> pd.DataFrame:
        """Return the manifest's rows of some frames, in their order."""
        missing = [frame_id for frame_id in frame_ids if frame_id not in self]
        if missing:
            raise InputError(f"frame {missing[0]!r}: is none of the night's frames; give the folders of one night")
        return self._frames.loc[list(frame_ids)]

    def conditions(self, frame_id: str) -> str:
        """Return the frame's known conditions in words."""
        row = self._rows([frame_id]).iloc[0]
        return ", ".join(str(row[column]) for column in CONDITIONS if isinstance(row[column], str))

    def uncertainty(self, frames: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the ensemble's uncertainty of each frame as (height, width) float32, by frame_id."""
        folder = self._inputs.maybe("ensemble")
        if folder is None:
            return {}
        measure = str(frames.measure.iloc[0]) if "measure" in frames else ScoreSettings().measure
        maps: dict[str, np.ndarray] = {}
        rows = open_frames(self._rows(list(frames.frame_id)), self._parameters, labels_required=False)
        scored = score_frames(
            load_committee(folder, networks_of(self._parameters)),
            image_batches(rows, 8),
            ScoreSettings(measure=measure),  # type: ignore[arg-type]  # checked there
            embeddings=False,
            on_maps=lambda frame_id, found, _bounds: maps.update({frame_id: found[measure]}),
        )
        for _ in scored:
            pass
        return maps

    def adapted(self, count: int, record: Adaptation) -> tuple[page.AdaptedFrame, ...]:
        """Return test frames as segmenter, fusion, pseudo-label and the taught network see them.

        record: says how pseudo-labels are made.
        """
        folder = self._inputs.one("adaptation")
        test = self._frames[self._frames.split == "test"]
        rows = test.iloc[np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(int)]  # spread evenly
        frames = open_frames(rows, self._parameters)
        labeller = self._labeller(folder, record)
        network = load_network(folder / "student.safetensors", networks_of(self._parameters))
        student = class_probabilities(network, frames, len(frames))
        seen = zip(predictions(labeller, frames, len(frames)), student, strict=True)
        found = []
        for index, (frame_id, ((probabilities, instances), taught)) in enumerate(zip(rows.frame_id, seen, strict=True)):
            label = frames.full_label(index)
            alone = predicted_classes(probabilities, label.shape)
            fused = fuse(alone, at_size(instances, label.shape)) if labeller.foreground is not None else None
            found.append(
                page.AdaptedFrame(
                    frame_id=frame_id,
                    image=self.image(frame_id),
                    source_only=alone,
                    fused=fused,
                    pseudo=labeller.label(probabilities, instances)[0],
                    student=predicted_classes(taught, label.shape),
                    label=label,
                )
            )
        return tuple(found)

    def _labeller(self, folder: Path, record: Adaptation) -> Labeller:
        """Return the night's way to pseudo-label; without a detector there is nothing to fuse."""
        names, path = class_names(self._parameters.taxonomy), folder / "detector.safetensors"
        thresholds = np.array([record.threshold_by_class[name] for name in names])
        trusted = {row["class"] for row in record.trust if row["trusted"]}
        fusion = FusionSettings(
            score_threshold=record.fusion.score_threshold,
            class_score_thresholds=score_thresholds(record.fusion.class_score_thresholds, names),
        )
        return Labeller(
            network=load_network(folder / "source_only.safetensors", networks_of(self._parameters)),
            thresholds=thresholds,
            trusted=tuple(name in trusted for name in names),
            foreground=load_foreground(path, fusion) if path.exists() else None,
        )

    def tested(self, scores: pd.DataFrame, predictions: Path) -> tuple[page.TestedFrame, ...]:
        """Return worst, median and best test frames with the shipped network's predictions."""
        return tested_frames(scores, predictions, self._label, self.image)

    def _label(self, frame_id: str) -> Picture:
        return open_frames(self._rows([frame_id]), self._parameters).full_label(0)
