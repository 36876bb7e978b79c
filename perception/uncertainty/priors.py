"""What each weight of a network is taken to be before training: the priors of Deep Probabilistic Ensembles."""

from dataclasses import dataclass

from torch import Tensor, nn

_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SMALL_VARIANCE = 0.01


@dataclass(frozen=True)
class Prior:
    """Hold the normal prior of every weight in one tensor; tensors hold one of each weight."""

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
