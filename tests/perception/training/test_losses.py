import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perception.data.loading import Batch
from perception.errors import InputError
from perception.training.losses import class_weights, label_loss, weighted_cross_entropy


@pytest.mark.parametrize(
    ("share", "k", "weight"), [(0.326537043, 1.10, 2.8149201869965), (0.326181197, 1.2, 2.3653597831726)]
)
def test_class_weights_are_the_published_ones(share, k, weight):
    counts = [round(share * 10**9), 10**9 - round(share * 10**9)]
    assert class_weights(counts, k)[0] == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("k", [1.02, 1.10, 1.2])
def test_class_weights_fall_with_the_share_and_are_bounded(k):
    weights = class_weights([0, 1, 5, 50, 5000], k)
    assert (np.diff(weights) < 0).all()
    assert weights[0] == pytest.approx(1 / math.log(k))
    assert class_weights([7], k) == pytest.approx(1 / math.log(k + 1))


@pytest.mark.parametrize(("counts", "k"), [([1, 2], 1.0), ([0, 0], 1.1), ([], 1.1), ([-1, 3], 1.1), ([[1, 2]], 1.1)])
def test_class_weights_refuse_what_has_no_weight(counts, k):
    with pytest.raises(InputError):
        class_weights(counts, k)


@pytest.mark.parametrize("shape", [(4,), (2, 5, 6)])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy_equals_the_built_in_mean(shape, weighted):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape[0], 3, *shape[1:], dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 3, shape, generator=generator)
    labels.view(-1)[::3] = 255
    weights = torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64) if weighted else None
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255)
    assert weighted_cross_entropy(logits, labels, weights).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_batch_without_labels_costs_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 2, 2), 255), torch.ones(3))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_label_loss_serves_classifiers_too():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    batch = Batch(torch.rand(5, 3, 2, 2), torch.tensor([0, 1, 2, 2, 1]))
    expected = F.cross_entropy(network(batch.images), batch.labels)
    assert label_loss(network, batch).item() == pytest.approx(expected.item(), rel=1e-6)
