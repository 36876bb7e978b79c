"""Train an ensemble as a Deep Probabilistic Ensemble, or plainly, through one interface.

Chitta, Alvarez and Lesnikowski, "Deep Probabilistic Ensembles", arXiv 1811.03575: the members are samples of a
posterior over weights, and a penalty per weight keeps their spread close to a prior.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from perception.data.loading import Batch
from perception.errors import InputError
from perception.parameters import NotNegative, Share, checked
from perception.training.losses import weighted_cross_entropy
from perception.uncertainty.ensemble import Ensemble
from perception.uncertainty.priors import Prior, parameter_priors

Direction = Literal["pq", "qp"]


@checked
class EnsembleLoss:
    """Say how an ensemble's members are held together while they train."""

    # dpe: KL to the prior over members; l2: plain ensemble with L2; none: no penalty
    penalty: Literal["dpe", "l2", "none"] = "dpe"
    beta: NotNegative = 1e-5  # weight of the DPE penalty (paper: 1e-5 on CIFAR)
    # pq: KL(prior || members), the paper's expression; qp: KL(members || prior)
    direction: Direction = "pq"
    variance_floor: Share = 1e-8  # least variance over members, as a share of the prior's
    weight_decay: NotNegative = 5e-4  # weight of half the squared norm, for penalty l2


def ensemble_loss(
    settings: EnsembleLoss, class_weights: Tensor | None = None, priors: Mapping[str, Prior] | None = None
) -> Callable[[nn.Module, Batch], Tensor]:
    """Return the loss that `fit` minimises: cross entropy summed over members, plus the penalty that settings name.

    class_weights: (class,) float32, weights of the cross entropy, or None. priors: by parameter name, in place of those of
    parameter_priors.
    """

    def loss(ensemble: nn.Module, batch: Batch) -> Tensor:
        if not isinstance(ensemble, Ensemble):
            raise InputError(f"network is a {type(ensemble).__name__}, not an Ensemble: wrap it, Ensemble([network])")
        if settings.penalty == "dpe":
            return dpe_loss(
                ensemble,
                batch,
                settings.beta,
                direction=settings.direction,
                variance_floor=settings.variance_floor,
                class_weights=class_weights,
                priors=priors,
            )
        decay = settings.weight_decay if settings.penalty == "l2" else 0.0
        return l2_loss(ensemble, batch, decay, class_weights=class_weights)

    return loss


def dpe_loss(
    ensemble: Ensemble,
    batch: Batch,
    beta: float,
    *,
    direction: str = "pq",
    variance_floor: float = 1e-8,
    class_weights: Tensor | None = None,
    priors: Mapping[str, Prior] | None = None,
) -> Tensor:
    """Return the mean over the batch of the sum over members of cross entropy, plus 2 * beta * the KL penalty.

    Twice the KL differs from the paper's Omega by a constant only: the gradient is that of CE + beta * Omega, and the
    reported loss has its least value at 0 instead of at a large negative number.

    Raises InputError for direction pq with fewer than 4 members: for members drawn from the prior the expected
    KL(prior || members) is infinite there, and training on it is noise.
    """
    if beta > 0 and direction == "pq" and len(ensemble) < 4:
        raise InputError(
            f"members = {len(ensemble)}; the DPE penalty in direction pq needs at least 4 (its expectation is infinite "
            "below): use 4 or more members, direction qp, or penalty l2"
        )
    fit_term = member_cross_entropy(ensemble, batch, class_weights)
    if beta == 0:
        return fit_term
    penalty = kl_penalty(
        list(ensemble.members), direction=direction, variance_floor=variance_floor, priors=priors or {}
    )
    return fit_term + 2 * beta * penalty


def l2_loss(ensemble: Ensemble, batch: Batch, weight_decay: float, *, class_weights: Tensor | None = None) -> Tensor:
    """Return the plain ensemble's loss: cross entropy summed over members, plus weight_decay / 2 * |weights|^2."""
    fit_term = member_cross_entropy(ensemble, batch, class_weights)
    if weight_decay == 0:
        return fit_term
    squares = [values.square().sum() for values in ensemble.members.parameters() if values.requires_grad]
    return fit_term + 0.5 * weight_decay * torch.stack(squares).sum()


def member_cross_entropy(ensemble: Ensemble, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
    """Return the sum over members of the mean cross entropy over labelled pixels (0 where none is labelled).

    batch.labels: int64 class ids, 255 = ignored; (frame, height, width), or (frame,) for classifiers. class_weights: on
    the batch's device. In a distributed run it is this process's share, as weighted_cross_entropy gives it.
    """
    logits = ensemble.member_logits(batch.images)
    return torch.stack([weighted_cross_entropy(each, batch.labels, class_weights) for each in logits]).sum()


def gaussian_kl(mean: Tensor, variance: Tensor, prior: Prior, direction: str = "pq") -> Tensor:
    """Return the KL divergence between each weight's normal distribution over members and its prior.

    mean, variance: any equal shape; biased variance over members, positive. Returns that shape, at least 0.
    direction pq: KL(prior || members), the expression that the paper prints; qp: KL(members || prior).
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction {direction!r} is unknown; use pq (the paper's) or qp")
    ratio = variance / prior.variance
    offset = (mean - prior.mean).square() / prior.variance
    if direction == "pq":
        return 0.5 * (ratio.log() + (1 + offset) / ratio - 1)
    return 0.5 * (ratio + offset - 1 - ratio.log())


def omega(members: Sequence[nn.Module], *, direction: str = "pq") -> Tensor:
    """Return the paper's Omega, without its factor 1/2 and constants: a scalar, possibly negative.

    pq: sum over weights of log s^2 + (s_p^2 + (m - m_p)^2) / s^2, with m and s^2 the mean and biased variance over
    members and m_p, s_p^2 the prior's; qp: sum of (s^2 + (m - m_p)^2) / s_p^2 - log s^2.
    """
    doubled = 2 * kl_penalty(members, direction=direction)
    sign = 1.0 if direction == "pq" else -1.0
    constants = sum(
        sum(members[0].get_parameter(name).numel() for name in names) * (sign * math.log(prior.variance) + 1)
        for prior, names in _names_by_prior(members).items()
    )
    return doubled + constants


def kl_penalty(
    members: Sequence[nn.Module],
    *,
    direction: str = "pq",
    variance_floor: float = 1e-8,
    priors: Mapping[str, Prior] | None = None,
) -> Tensor:
    """Return the KL divergence between the members' spread and the prior, summed over all trained weights.

    members: networks of one structure. The variance over members is held at or above variance_floor times the
    prior's, so that equal members give a large but finite value. Parameters that are not trained are left out.
    priors: by parameter name, in place of those of `parameter_priors`.
    Source: arXiv 1811.03575, with the priors of methods section 1.2. Raises InputError when structures differ.
    """
    groups = _names_by_prior(members, priors)
    if not groups:
        raise InputError("members have no trained parameter; the DPE penalty needs some: set requires_grad on them")
    # All weights in one tensor: a GPU takes as long to start an operation as to do it on a layer's weights.
    names = [name for group in groups.values() for name in group]
    weights = torch.cat([member.get_parameter(name).flatten() for member in members for name in names])
    weights = weights.view(len(members), -1)
    sizes = [sum(members[0].get_parameter(name).numel() for name in group) for group in groups.values()]
    facts = zip(*((prior.mean, prior.variance, variance_floor * prior.variance) for prior in groups), strict=True)
    prior_mean, prior_variance, least = (
        torch.cat([_each_weight(value, size, weights) for value, size in zip(values, sizes, strict=True)])
        for values in facts
    )
    mean = weights.mean(0)
    # Two plain passes: torch.var_mean over so short an axis takes six times as long.
    variance = (weights - mean).square().mean(0)
    return gaussian_kl(mean, torch.maximum(variance, least), Prior(prior_mean, prior_variance), direction).sum()


def _each_weight(value: float | Tensor, size: int, like: Tensor) -> Tensor:
    """Return one number for each of `size` weights, (size,), of which a float has the same for all."""
    return value.to(like).flatten() if isinstance(value, Tensor) else like.new_full((1,), value).expand(size)


def _names_by_prior(members: Sequence[nn.Module], priors: Mapping[str, Prior] | None = None) -> dict[Prior, list[str]]:
    """Group the trained parameters by prior, so that the penalty takes a few large operations, not one per tensor."""
    _refuse_different_structures(members)
    groups: dict[Prior, list[str]] = defaultdict(list)
    for name, prior in {**parameter_priors(members[0]), **(priors or {})}.items():
        if members[0].get_parameter(name).requires_grad:
            groups[prior].append(name)
    return groups


def _refuse_different_structures(members: Sequence[nn.Module]) -> None:
    shapes = [{name: values.shape for name, values in member.named_parameters()} for member in members]
    for index, other in enumerate(shapes):
        if other != shapes[0]:
            differing = sorted(name for name in {*shapes[0], *other} if shapes[0].get(name) != other.get(name))
            raise InputError(
                f"members 0 and {index} differ in parameter {differing[0]!r}; the DPE penalty compares equal "
                "structures: train the members before removing channels, or use penalty l2"
            )
