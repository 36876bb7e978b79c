"""Train the committees that tables compare, each by the project's own loop, loss and interface."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.tables.data import Labelled
from benchmarks.tables.shrinking import shifted
from perception.data.loading import Batch
from perception.models.resnet import ResNet18
from perception.training.loop import TrainSettings, fit
from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
from perception.uncertainty.ensemble import Committee, DropoutEnsemble, Ensemble, make_ensemble, snapshots

COMMITTEES = ("single", "ensemble", "dpe", "snapshots", "dropout")
SNAPSHOT_EPOCHS_PER_MEMBER = 2  # a run is cut into so many epochs a snapshot; the later half is kept


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Say which network is trained, and how."""

    network: str  # mlp: 100 hidden units; resnet18: pre-activation
    members: int
    learning_rate: float
    optimiser: str
    weight_decay: float  # L2, where there is no KL penalty
    batch_frames: int
    steps_at_1024: int  # gradient steps for 1,024 images
    steps_power: float  # steps grow with the number of images to this power
    augment: bool  # mirror, and shift by up to 4 pixels
    channels: int = 64  # of resnet18's first stage; the later ones have 2, 4 and 8 times as many
    nesterov: bool = False  # of sgd
    warmup_share: float = 0.0  # of the steps, in which the learning rate rises from 0
    dropout: float = 0.2  # of the dropout committee's network alone

    def steps(self, images: int) -> int:
        """Return the number of gradient steps for a labelled set of that size."""
        return math.ceil(self.steps_at_1024 * (images / 1024) ** self.steps_power)


def standardised(images: Tensor, like: Tensor) -> Tensor:
    """Return images as float32 with the mean and spread per channel that `like` has; both uint8."""
    sample = like.float()
    mean, spread = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
    return (images.float() - mean) / spread


def train_committee(
    kind: str, labelled: Labelled, recipe: Recipe, *, seed: int, device: str, loss: EnsembleLoss, eager: bool = False
) -> Committee:
    """Train one of COMMITTEES on labelled images, standardised already; loss is that of kind dpe.

    Every kind takes the same number of gradient steps a member on the same batches; snapshots are one run's.
    On CUDA convolutions work in bfloat16, channels last, and steps are replayed as a graph unless eager; images that
    are there already are batched there.
    """
    members = recipe.members if kind in ("ensemble", "dpe") else 1
    dropout = recipe.dropout if kind == "dropout" else 0.0
    shape = tuple(labelled.images.shape[1:])
    committee = make_ensemble(lambda _: _network(recipe, shape, dropout), members, seed)
    on_cuda = device.startswith("cuda")
    if on_cuda:
        committee.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # To sgd L2 in the loss and decay in the optimiser are the same; the latter takes two operations a step, not two a
    # tensor. (The optimiser of a DPE adds none: its penalty stands in place of L2.)
    decay_in_optimiser = recipe.optimiser == "sgd" and kind != "dpe"
    epochs = SNAPSHOT_EPOCHS_PER_MEMBER * recipe.members
    steps = math.ceil(recipe.steps(len(labelled)) / epochs)
    settings = TrainSettings(
        epochs=epochs,
        batch_frames=recipe.batch_frames,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay if decay_in_optimiser else 0.0,
        schedule="cosine",
        warmup_share=recipe.warmup_share,
        seed=seed,
        optimiser=recipe.optimiser,  # type: ignore[arg-type]
        nesterov=recipe.nesterov,
        max_grad_norm=10.0,
        device=device,
        mixed_precision=on_cuda,
        captured=on_cuda and not eager,
    )
    kept, keep = snapshots(committee, range(epochs - recipe.members, epochs))
    plain = EnsembleLoss(penalty="none" if decay_in_optimiser else "l2", weight_decay=recipe.weight_decay)
    fit(
        committee,
        lambda epoch: _batches(labelled, recipe, steps, seed * 1000 + epoch),
        settings,
        loss=ensemble_loss(loss if kind == "dpe" else plain),
        after_epoch=keep,
        iterations_per_epoch=steps,
    )
    if kind == "snapshots":
        return Ensemble(list(kept)).eval()
    return DropoutEnsemble(committee.members[0], recipe.members, seed) if kind == "dropout" else committee.eval()


def _network(recipe: Recipe, shape: tuple[int, ...], dropout: float) -> nn.Module:
    if recipe.network == "resnet18":
        network = ResNet18(10, recipe.channels, in_channels=shape[0])
        network.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(dropout))  # type: ignore[assignment]
        return network
    inputs = math.prod(shape)
    layers = (nn.Flatten(), nn.Linear(inputs, 100), nn.ReLU(), nn.Dropout(dropout), nn.Linear(100, 10))
    return nn.Sequential(*layers)


def _batches(labelled: Labelled, recipe: Recipe, steps: int, seed: int) -> Iterator[Batch]:
    """Yield batches drawn at random, in passes over all images; where the images are, so that no step waits."""
    device = labelled.images.device
    generator = torch.Generator(device).manual_seed(seed)
    count, size = len(labelled), min(recipe.batch_frames, len(labelled))
    order = torch.randperm(count, generator=generator, device=device)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator, device=device)])
        rows, order = order[:size], order[size:]
        images = labelled.images[rows]
        yield Batch(_varied(images, generator) if recipe.augment else images, labelled.labels[rows])


def _varied(images: Tensor, generator: torch.Generator, reach_px: int = 4) -> Tensor:
    """Mirror half of the images and shift each by up to reach_px; images: (frame, channel, height, width)."""
    count, device = len(images), images.device
    mirrored = torch.rand(count, generator=generator, device=device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    corners = torch.randint(0, 2 * reach_px + 1, (2, count), generator=generator, device=device).T
    return shifted(images, corners, reach_px)


@torch.inference_mode()
def member_probabilities(committee: Committee, images: Tensor, device: str, batch_frames: int = 1000) -> Tensor:
    """Return (member, frame, class) float32 on the processor, sums to 1 over class; convolutions as in training."""
    parts = []
    for part in images.split(batch_frames):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device.startswith("cuda")):
            answers = list(committee.member_logits(part.to(device)))
        parts.append(torch.stack([logits.float().softmax(1) for logits in answers]))
    # One copy at the end: each makes the accelerator wait.
    return torch.cat(parts, 1).cpu()
