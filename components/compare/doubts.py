"""Which of the new labels the night's ensemble doubts: the ranking that a review shows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from components.stage.learning import NetworkParameters, class_names, networks_of, open_frames
from perception.data.loading import image_batches
from perception.quality.label_quality import label_doubt, worst_confusions
from perception.training.distributed import gather, own_frames, sum_over_processes
from perception.training.setup import best_device
from perception.uncertainty.ensemble import load_committee

LISTED, CONFUSIONS, BATCH_FRAMES = 50, 8, 8


def doubted_labels(ensemble: Path, labelled: pd.DataFrame, parameters: NetworkParameters) -> dict[str, Any]:
    """Rank newly labelled frames by the probability that the ensemble gives to other classes than the label's.

    labelled: manifest rows. The ensemble has not learned from them, so it cannot know their mistakes by heart.
    """
    rows, confusion = _doubts(ensemble, labelled.reset_index(drop=True), parameters)
    return {
        "note": f"{len(rows)} newly labelled frames, ranked by the probability that the night's ensemble gives to other "
        "classes than the label's; it has not learned from them. A high rank is a wrong label or a hard frame: look.",
        "frames": len(rows),
        "rows": sorted(rows, key=lambda row: (-row["doubt"], row["frame_id"]))[:LISTED],
        "confusion": worst_confusions(confusion, class_names(parameters.taxonomy), CONFUSIONS),
    }


def _doubts(
    folder: Path, frames: pd.DataFrame, parameters: NetworkParameters
) -> tuple[list[dict[str, Any]], np.ndarray]:
    device = best_device()
    committee, opened = load_committee(folder, networks_of(parameters)).to(device), open_frames(frames, parameters)
    rows: list[dict[str, Any]] = []
    confusion = np.zeros((len(class_names(parameters.taxonomy)),) * 2, np.int64)
    own = own_frames(len(frames), BATCH_FRAMES)
    places = iter(own)
    with torch.no_grad():
        for frame_ids, images in image_batches(opened, BATCH_FRAMES, own):
            members = [torch.softmax(logits, dim=1) for logits in committee.member_logits(images.to(device))]
            probs = torch.stack(members).mean(0).float().cpu().numpy()
            for index, frame_id in enumerate(frame_ids):
                found = label_doubt(probs[index], opened.load(next(places))[1])
                if found.doubt is not None:
                    rows.append({"frame_id": frame_id, "doubt": found.doubt, "sure_otherwise": found.sure_otherwise})
                    confusion += found.confusion
    return [row for each in gather(rows) for row in each], sum_over_processes(confusion)
