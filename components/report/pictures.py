"""The pictures of a night's report: images from the store, and what networks make of them, which are loaded only then."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.stage.declaration import Paths
from components.stage.learning import NetworkParameters, open_frames
from perception.data.decoding import decode_image
from perception.data.manifest import read_manifest
from perception.data.store import open_store
from perception.errors import InputError
from perception.metrics.slices import CONDITIONS
from perception.reporting import page
from perception.reporting.evaluation_page import tested_frames
from perception.reporting.records import Adaptation

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
        from components.report.networks import uncertainty_maps

        folder = self._inputs.maybe("ensemble")
        return uncertainty_maps(folder, self._rows(list(frames.frame_id)), frames, self._parameters) if folder else {}

    def adapted(self, count: int, record: Adaptation) -> tuple[page.AdaptedFrame, ...]:
        """Return test frames as segmenter, fusion, pseudo-label and the taught network see them.

        record: says how pseudo-labels are made.
        """
        from components.report.networks import adapted_frames

        test = self._frames[self._frames.split == "test"]
        rows = test.iloc[np.linspace(0, len(test) - 1, min(count, len(test))).round().astype(int)]  # spread evenly
        return adapted_frames(self._inputs.one("adaptation"), rows, record, self._parameters, self.image)

    def tested(self, scores: pd.DataFrame, predictions: Path) -> tuple[page.TestedFrame, ...]:
        """Return worst, median and best test frames with the shipped network's predictions."""
        return tested_frames(scores, predictions, self._label, self.image)

    def _label(self, frame_id: str) -> Picture:
        return open_frames(self._rows([frame_id]), self._parameters).full_label(0)
