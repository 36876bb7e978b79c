"""Let the normalisation layers of a network know the frames that it is going to be used on; no label is needed."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from perception.errors import InputError
from perception.training.distributed import gather, mean_over_processes


@torch.no_grad()
def adapt_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace what batch normalisation knows of its inputs by the plain average over the batches; end in eval mode.

    batches: (frame, 3, height, width) float in [0, 1], on the network's device; equally large ones weigh alike. In a
    distributed run each process gives its share of them, and the average is over all.
    Weights stay as they are, and nothing is drawn from a random generator. Raises InputError when there is no batch.
    Source: Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016 (arXiv 1603.04779).
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    network.eval()  # dropout would draw from the global generator: these layers alone learn
    seen = 0
    for batch in batches:
        if seen == 0:
            for layer in layers:
                layer.train().reset_running_stats()
                layer.momentum = None  # the plain average over batches
        network(batch)
        seen += 1
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
    counts = gather(seen)
    if not sum(counts):
        raise InputError("there is no frame to take the normalisation's statistics from; give at least one batch")
    for layer in layers:
        for average in (layer.running_mean, layer.running_var):
            if average is not None:
                average.copy_(mean_over_processes(average * (seen * len(counts) / sum(counts))))
