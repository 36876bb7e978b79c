"""What a committee of networks sees in an image."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.metrics.segmentation import predicted_classes
from perception.uncertainty.ensemble import Committee


@torch.no_grad()
def predicted_labels(
    committee: Committee, batches: Iterable[tuple[list[str], Tensor]], sizes: Mapping[str, tuple[int, int]], device: str
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield each frame's most probable classes at the size of its image, by the mean probability of all members.

    batches: as perception.data.loading.image_batches gives them. sizes: (height, width) by frame_id. Yields (frame_id, label), label
    (height, width) uint8 class ids.
    """
    committee.to(device).eval()
    for frame_ids, images in batches:
        members = [logits.softmax(1) for logits in committee.member_logits(images.to(device))]
        mean = torch.stack(members).mean(0).float().cpu().numpy()
        for frame_id, probabilities in zip(frame_ids, mean, strict=True):
            yield frame_id, predicted_classes(probabilities, sizes[frame_id])
