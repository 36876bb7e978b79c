"""The proximal step of the nuclear norm, which drives layers to low rank while they train."""

import torch
from torch import Tensor, nn

from perception.compression.low_rank import can_factorise
from perception.errors import InputError


def nuclear_prox(matrix: Tensor, threshold: float) -> Tensor:
    """Give argmin_X 1/2 ||X - matrix||_F^2 + threshold ||X||_*: singular values shrink by `threshold`.

    matrix: (row, column) float32 or float64. The Gram matrix of the shorter side in float64 is two to three times
    faster than the decomposition itself from 64 rows on; it squares singular values, so it is used where the threshold
    is well above what float64 loses by that. Source: Alvarez and Salzmann, Compression-aware Training of Deep Networks,
    NIPS 2017, equation 6.
    """
    if threshold < 0:
        raise InputError(f"threshold {threshold} is negative: the nuclear norm's weight is at least 0")
    if threshold == 0 or not bool(matrix.any()):
        return matrix.clone()
    if matrix.shape[0] > matrix.shape[1]:
        return nuclear_prox(matrix.T, threshold).T
    wide = matrix.double()
    if min(matrix.shape) >= 64 and threshold > 1e-3 * float(torch.linalg.matrix_norm(wide)):
        squares, u = torch.linalg.eigh(wide @ wide.T)
        values = squares.clamp_min(0).sqrt()
        factors = torch.where(values > threshold, 1 - threshold / values, 0.0)
        kept = factors > 0
        shrunk: Tensor = (u[:, kept] * factors[kept]) @ (u[:, kept].T @ wide)
        return shrunk.to(matrix.dtype)
    u, values, vt = torch.linalg.svd(wide, full_matrices=False)
    kept = values > threshold
    shrunk = (u[:, kept] * (values[kept] - threshold)) @ vt[kept]
    return shrunk.to(matrix.dtype)


@torch.no_grad()
def nuclear_step(network: nn.Module, step_size: float, strength: float) -> None:
    """Apply the proximal step of strength * ||W||_* to every layer that can be factorised, in place.

    A kernel is read as a matrix with one row an output channel. Together with group sparsity call this first and
    proximal_step after it: the group step then leaves exact zero rows and cannot raise the rank (the composition is
    an approximation of the joint step). Source: NIPS 2017, equations 4 to 6.
    """
    for layer in network.modules():
        if can_factorise(layer):
            matrix = layer.weight.flatten(1)
            layer.weight.copy_(nuclear_prox(matrix, step_size * strength).view_as(layer.weight))


@torch.no_grad()
def calibrate_nuclear_strength(network: nn.Module, learning_rate: float, share: float = 0.05) -> float:
    """Choose the strength so that one step takes `share` of the median singular value over the layers."""
    layers = [layer for layer in network.modules() if can_factorise(layer)]
    if not layers or not 0 < share < 1 or learning_rate <= 0:
        raise InputError(
            f"share {share}, learning_rate {learning_rate}, {len(layers)} layers that can be factorised: share lies in "
            "(0, 1), learning_rate is positive, and at least one layer is needed"
        )
    medians = torch.stack([torch.linalg.svdvals(layer.weight.flatten(1).double()).median() for layer in layers])
    return share * float(medians.median()) / learning_rate
