"""Train a detector on frames with instances by the one training loop, and draw frames with rare classes more often."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from torch import nn

from perception.adaptation.detector_training import DetectionAugment, DetectionBatch, detection_batches, detection_loss
from perception.adaptation.foreground import Foreground
from perception.adaptation.instance_frames import InstanceFrames
from perception.adaptation.pseudo import rare_class_weights
from perception.data.loading import FrameSet, count_batches, frame_pixel_counts
from perception.errors import InputError
from perception.training.distributed import own_frames, own_share, sum_over_processes
from perception.training.loop import EpochRecord, Resume, TrainSettings, fit


def train_foreground(
    detector: nn.Module,
    class_ids: tuple[int, ...],
    frames: InstanceFrames,
    settings: TrainSettings,
    augment: DetectionAugment,
    *,
    resume: Resume | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Foreground, list[EpochRecord]]:
    """Train a detector in place on all frames in every epoch; return it with its class ids, and the epochs' records.

    class_ids: the class of each of the detector's channels; instances of other classes are background to it.
    """

    def batches(epoch: int) -> Iterator[DetectionBatch]:
        return detection_batches(
            frames.load,
            range(len(frames)),
            class_ids,
            settings.batch_frames,
            seed=settings.seed,
            epoch=epoch,
            augment=augment,
            workers=frames.settings.workers,
            share=own_share(),
        )

    records = fit(
        detector,
        batches,  # type: ignore[arg-type]
        settings,
        loss=detection_loss,  # type: ignore[arg-type]
        iterations_per_epoch=count_batches(len(frames), settings.batch_frames),
        resume=resume,
        progress=progress,
    )
    detector.to("cpu")
    return Foreground(detector, class_ids), records


def mixed_rows(simulator: pd.DataFrame, pseudo: pd.DataFrame, simulator_share: float, seed: int) -> pd.DataFrame:
    """Give manifest rows to learn from of which `simulator_share` are the simulator's, each part as evenly as can be.

    The larger of both parts comes once; of the other one rows come as often as the share asks for, some once more than
    others, drawn by the seed. simulator_share: at least 0 and below 1.
    """
    if simulator_share == 0:
        return pseudo.reset_index(drop=True)
    ratio = simulator_share / (1 - simulator_share)  # simulator frames for each pseudo-labelled one
    counts = max(len(simulator), round(ratio * len(pseudo))), max(len(pseudo), round(len(simulator) / ratio))
    generator = np.random.default_rng(seed)
    parts = [_repeated(rows, count, generator) for rows, count in zip((simulator, pseudo), counts, strict=True)]
    return pd.concat(parts, ignore_index=True)


def _repeated(rows: pd.DataFrame, count: int, generator: np.random.Generator) -> pd.DataFrame:
    whole, rest = divmod(count, len(rows))
    more = np.sort(generator.permutation(len(rows))[:rest])
    return rows.iloc[np.concatenate([np.tile(np.arange(len(rows)), whole), more])]


def rare_class_draw(rows: pd.DataFrame, frames: FrameSet, temperature: float, seed: int) -> pd.DataFrame:
    """Draw as many of the rows as there are, those that hold rare classes more often; some come twice, some never.

    rows and frames: the same frames, as manifest rows and as loaded. temperature: as rare_class_weights takes it. The
    draw is systematic: a frame of weight w comes floor(w n) or ceil(w n) times.
    """
    if not len(frames):
        raise InputError("there are no frames to draw from; give at least one labelled frame")
    counts = sum_over_processes(frame_pixel_counts(frames, own_frames(len(frames))))
    weights = rare_class_weights(counts, temperature)
    start = np.random.default_rng(seed).random()
    places = (start + np.arange(len(rows))) / len(rows)
    drawn = np.searchsorted(np.cumsum(weights), places * weights.sum(), side="right")
    return rows.iloc[np.minimum(drawn, len(rows) - 1)].reset_index(drop=True)
