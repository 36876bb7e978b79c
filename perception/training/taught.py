"""A loss by which a network learns from another one beside its labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.data.loading import Batch
from perception.training.distributed import share_of_mean
from perception.training.losses import weighted_cross_entropy


def taught_loss(
    network: nn.Module, batch: Batch, *, teacher: nn.Module, share: float, weights: Tensor | None = None
) -> Tensor:
    """Give (1 - share) of the weighted cross-entropy with the labels and `share` of that with the teacher's probabilities.

    The teacher, on the network's device and in evaluation mode, says something of every pixel, labelled or not.
    Returns a scalar. Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, at temperature 1.
    """
    logits = network(batch.images)
    with torch.no_grad():
        probabilities = teacher(batch.images).float().softmax(1)
    soft = F.cross_entropy(logits.float(), probabilities, reduction="none")
    taught = share_of_mean(
        soft.sum(), soft.new_full((), soft.numel())
    )  # made on the device: a recorded step copies nothing
    return (1 - share) * weighted_cross_entropy(logits, batch.labels, weights) + share * taught
