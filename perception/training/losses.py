"""Losses of the training loop, and the class weights that go with them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from perception.data.loading import Batch, FrameSet, frame_pixel_counts
from perception.data.taxonomies import IGNORE
from perception.errors import InputError
from perception.training.distributed import own_frames, share_of_mean, sum_over_processes


def pixel_counts(frames: FrameSet) -> NDArray[np.int64]:
    """Count the label pixels of every class over all frames, each process its share: (class,) int64; 255 is left out."""
    own = frame_pixel_counts(frames, own_frames(len(frames)))
    return sum_over_processes(own.sum(axis=0))


def class_weights(pixel_counts: ArrayLike, k: float = 1.10) -> NDArray[np.float64]:
    """Weigh rare classes more: w_c = 1 / ln(k + p_c), where p_c is the share of the labelled pixels.

    pixel_counts: (class,) integers, at least one of them above zero
    Returns (class,) float64, at most 1 / ln(k), which is the weight of a class that never occurs.
    Raises InputError when k <= 1 (the weight would have no bound) or no pixel is labelled.
    Source: Paszke et al., "ENet", 2016; ERFNet takes k = 1.2 for its encoder's stage and 1.10 for the whole network.
    """
    counts = np.asarray(pixel_counts, np.float64)
    if k <= 1:
        raise InputError(f"k {k}: class weights 1/ln(k + p) need k > 1; the published value is 1.10")
    if counts.ndim != 1 or not counts.sum() > 0 or counts.min() < 0:
        raise InputError("pixel counts: class weights need one count a class and a labelled pixel; check the labels")
    return 1 / np.log(k + counts / counts.sum())


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Average the cross-entropy over labelled pixels (or frames), each weighted by its label's class.

    logits: (frame, class, ...) float;  labels: (frame, ...) int64, 255 is left out;  weights: (class,) float or None
    Returns a scalar, 0 when nothing is labelled. In a distributed run it is this process's share: the mean over
    processes is the loss of the whole batch, however unevenly its labels are spread.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    weights = None if weights is None else weights.to(logits.dtype)
    # Reduced by hand: the built-in mean is 0/0 without labels and has no deterministic form on CUDA.
    total = F.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="none").sum()
    labelled = labels != IGNORE
    count = labelled.sum() if weights is None else (weights[labels.clamp(max=len(weights) - 1)] * labelled).sum()
    return share_of_mean(total, count.to(total.dtype))


def label_loss(network: nn.Module, batch: Batch, weights: Tensor | None = None) -> Tensor:
    """Give the weighted cross-entropy of a batch: a segmentation network's, or a classifier's with labels (frame,)."""
    return weighted_cross_entropy(network(batch.images), batch.labels, weights)
