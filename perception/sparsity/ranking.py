"""Say what each neuron is worth, and zero the weakest until a share of the parameters is gone: a shrink of exact size."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from perception.errors import InputError
from perception.sparsity.groups import Groups
from perception.sparsity.proximal import neuron_norms, scale_neurons


@torch.no_grad()
def loss_importance(groups: Groups, optimizer: Optimizer) -> Tensor:
    """Estimate by how much the loss would rise without each neuron: sum of w^2 E[g^2] / 2 over its own parameters.

    E[g^2] is the running mean of squared gradients that Adam keeps anyway, the diagonal of the empirical Fisher matrix
    over batches. Unlike norms the estimates of different layers are on one scale. Returns (neuron,) float64, 0 for a
    neuron that is zero. Raises InputError where the optimiser keeps no squares or has made no step. Source: LeCun,
    Denker, Solla, Optimal Brain Damage, NIPS 1989, with Fisher's matrix for the Hessian.
    """
    worth = torch.zeros(groups.neurons + 1, dtype=torch.float64)
    for tensor in groups.tensors:
        squares = optimizer.state.get(tensor.parameter, {}).get("exp_avg_sq")
        if squares is None:
            raise InputError(
                f"importance loss: {type(optimizer).__name__} keeps no running squares of the gradients of {tensor.name} "
                f"of {tensor.module}; train with adam or adamw, or rank neurons by norm"
            )
        risen = (tensor.parameter.double().square() * squares.double()).transpose(0, tensor.dim)
        worth.index_add_(0, tensor.neurons.cpu(), risen.reshape(len(tensor.neurons), -1).sum(1).cpu() / 2)
    return worth[:-1]


@torch.no_grad()
def zero_weakest(groups: Groups, share: float, *, minimum_share: float = 0.125) -> Tensor:
    """Zero the neurons of smallest norm, in place, until `share` of all neurons' parameters are zero.

    Norms are compared across layers as multiples of their group set's median, since layers differ in scale; every set
    keeps its strongest `minimum_share` of neurons. Proximal steps come before, so that what is zeroed here was small
    anyway. Returns (neuron,) bool, the neurons zeroed. Raises InputError for a share outside [0, 1).
    """
    if not 0 <= share < 1 or not 0 < minimum_share <= 1:
        raise InputError(f"share {share} and minimum_share {minimum_share}: share lies in [0, 1), the other in (0, 1]")
    norms = neuron_norms(groups).double().cpu()
    sets = groups.set_of_neuron.cpu()
    relative, safe = torch.zeros_like(norms), torch.zeros(len(norms), dtype=torch.bool)
    for k, group in enumerate(groups.sets):
        members = torch.nonzero(sets == k).flatten()
        relative[members] = norms[members] / norms[members].median().clamp_min(torch.finfo(torch.float64).tiny)
        kept = max(1, round(minimum_share * group.neurons))
        safe[members[norms[members].argsort(descending=True, stable=True)[:kept]]] = True
    sizes = torch.tensor([group.parameters_per_neuron for group in groups.sets])[sets]
    order = torch.where(safe, torch.inf, relative).argsort(stable=True)
    fits = sizes[order].cumsum(0) <= share * sizes.sum()
    dead = torch.zeros_like(safe)
    dead[order[fits]] = True
    dead &= ~safe
    scale_neurons(groups, ~dead)
    return dead
