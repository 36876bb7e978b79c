import pytest
import torch
import torch.nn.functional as F
from torch import nn

from perception.data.loading import Batch
from perception.training.losses import label_loss
from perception.training.taught import taught_loss


@pytest.fixture
def batch() -> Batch:
    labels = torch.randint(0, 4, (2, 5, 6), generator=torch.Generator().manual_seed(0))
    labels[0] = 255
    return Batch(torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)), labels)


def test_the_loss_is_that_of_the_labels_and_of_the_teachers_probabilities(batch: Batch) -> None:
    network, teacher, weights = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), torch.tensor([1.0, 2.0, 3.0, 4.0])
    said, taught = teacher(batch.images).softmax(1), network(batch.images).log_softmax(1)
    agreement = -(said * taught).sum(1).mean()
    labels = F.cross_entropy(network(batch.images), batch.labels, weights, ignore_index=255)
    found = taught_loss(network, batch, teacher=teacher, share=0.25, weights=weights)
    assert found.item() == pytest.approx(0.75 * labels.item() + 0.25 * agreement.item(), rel=1e-5)
    assert taught_loss(network, batch, teacher=teacher, share=0.0).item() == label_loss(network, batch).item()


def test_only_the_network_learns_and_also_from_frames_without_labels(batch: Batch) -> None:
    network, teacher = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    unlabelled = Batch(batch.images, torch.full_like(batch.labels, 255))
    taught_loss(network, unlabelled, teacher=teacher, share=0.5).backward()
    assert network.weight.grad.abs().sum() > 0 and teacher.weight.grad is None
    copied = taught_loss(teacher, unlabelled, teacher=teacher, share=0.5)
    copied.backward()
    assert teacher.weight.grad.abs().max() < 1e-6  # it agrees with itself
