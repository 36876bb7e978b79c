"""What each weight of a network is taken to be before training: the priors of Deep Probabilistic Ensembles."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SMALL_VARIANCE = 0.01
_SPREAD_SHARE = 0.03  # standard deviation around a weight that is known, as a share of its tensor's root mean square
_LEAST_SPREAD = 1e-3  # where that tensor is zero, as shifts may be


@dataclass(frozen=True)
class Prior:
    """Hold the normal prior of every weight in one tensor; a mean that is a tensor has its shape."""

    mean: float | Tensor
    variance: float | Tensor


def parameter_priors(network: nn.Module) -> dict[str, Prior]:
    """Return the prior of every parameter by its name; a parameter used twice counts once.

    Convolutions N(0, 2 / fan-out) with fan-out = outputs * kernel (He et al. 2015), linear layers the same with a
    1 x 1 kernel, normalisation scales N(1, 0.01), shifts and all biases N(0, 0.01). In modules of other kinds a
    matrix is treated as a linear layer with outputs first and a vector as a bias.
    """
    priors: dict[str, Prior] = {}
    for name, values in network.named_parameters():
        path, _, own_name = name.rpartition(".")
        priors[name] = _prior(network.get_submodule(path), own_name, values)
    return priors


def started_priors(network: nn.Module, names: Iterable[str]) -> dict[str, Prior]:
    """Return a narrow prior around the present value of each of these parameters, which come from another training.

    What was learned there is what a weight is taken to be before this training; around 0 it would be unlearned.
    """
    parameters = dict(network.named_parameters())
    priors: dict[str, Prior] = {}
    for name in sorted(parameters.keys() & set(names)):
        values = parameters[name].detach().clone()
        spread = max(_SPREAD_SHARE * float(values.square().mean().sqrt()), _LEAST_SPREAD)
        priors[name] = Prior(values, spread**2)
    return priors


def _prior(module: nn.Module, name: str, values: Tensor) -> Prior:
    if isinstance(module, _NORMALISATIONS):
        return Prior(1.0 if name == "weight" else 0.0, _SMALL_VARIANCE)
    if values.dim() < 2:
        return Prior(0.0, _SMALL_VARIANCE)
    if isinstance(module, _TRANSPOSED):
        return Prior(0.0, 2.0 / values[0].numel())
    if isinstance(module, nn.modules.conv._ConvNd):
        # A grouped convolution's inputs feed the outputs of their own group only.
        return Prior(0.0, 2.0 / (values.shape[0] // module.groups * values[0, 0].numel()))
    return Prior(0.0, 2.0 / values.shape[0])
