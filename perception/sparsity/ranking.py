"""Say what each neuron is worth to the loss."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from perception.errors import InputError
from perception.sparsity.groups import Groups


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
