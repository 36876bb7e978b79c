"""The one training loop: for segmentation and classification, one network or several, one process or many."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from perception.data.loading import Batch, FrameSet, ordered_batches
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix
from perception.metrics.segmentation import predicted_classes
from perception.models.modes import evaluation_mode, modes_kept
from perception.parameters import BrokenRule, Count, NotNegative, Positive, Seed, ShareFromZero, ShareToOne, checked
from perception.training import distributed
from perception.training.averaging import update_average
from perception.training.captured import CapturedStep, tensors_of
from perception.training.losses import class_weights, label_loss
from perception.training.rates import parameter_groups, set_learning_rate
from perception.training.resume import Position, Resume, is_due, load_state, save_state

__all__ = ["EpochRecord", "Resume", "TrainSettings", "class_weights", "evaluate_segmentation", "fit"]

AnyBatch = TypeVar("AnyBatch")
Loss = Callable[[nn.Module, Batch], Tensor]
# Reading the loss makes a GPU wait, so it is not read at every iteration.
_ITERATIONS_BETWEEN_CHECKS = 10


@checked
class TrainSettings:
    """Say how a network is trained; raises InputError for a value out of range."""

    epochs: Count  # passes over the batches
    batch_frames: Count  # frames in a batch, over all processes together
    learning_rate: Positive  # at the first iteration
    weight_decay: NotNegative  # added to the gradient as weight_decay * weight (adam, sgd), decoupled from it (adamw)
    schedule: Literal["poly", "cosine", "constant"]  # of the learning rate by iteration; poly has the power 0.9
    seed: Seed  # of everything random inside the loop (dropout); the batches have a seed of their own
    max_grad_norm: Positive | None = None  # gradients with a larger L2 norm are scaled down to it; None: never
    device: str = "cpu"  # torch device: cpu, cuda, cuda:1
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"  # adam: betas (0.9, 0.999); sgd: with momentum
    momentum: ShareFromZero = 0.9  # of sgd
    nesterov: bool = False  # sgd looks ahead along its momentum
    # share of all iterations over which the learning rate rises from 0, before the schedule
    warmup_share: ShareFromZero = 0.0
    average_decay: ShareFromZero = 0.999  # of the moving average of the weights, where there is one
    mixed_precision: bool = False  # bfloat16 where it is safe; CUDA only
    deterministic: bool = False  # only algorithms whose results never vary; the CPU's never do for a thread count
    encoder_rate_share: ShareToOne = 1.0  # of the learning rate, for what lies in a module called `encoder`
    channels_last: bool = (
        False  # convolutions hold a pixel's channels side by side: on a CPU depthwise ones learn faster
    )
    captured: bool = False  # record a step as a CUDA graph and replay it: small networks train several times faster

    def __post_init__(self) -> None:
        if self.nesterov and (self.optimiser != "sgd" or self.momentum == 0):
            raise BrokenRule("nesterov", True, "must be false without momentum")
        for name in ("mixed_precision", "captured"):
            if getattr(self, name) and not self.device.startswith("cuda"):
                raise BrokenRule(name, True, "must be false unless on cuda")


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """Say how one epoch went: its mean loss over iterations, the learning rate that it began with, its duration."""

    epoch: int
    loss: float
    learning_rate: float
    seconds: float


def fit(
    network: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    settings: TrainSettings,
    *,
    loss: Loss | None = None,
    class_weights: ArrayLike | Tensor | None = None,
    after_step: Callable[[int, nn.Module, Optimizer], None] | None = None,
    after_epoch: Callable[[int, nn.Module, Optimizer], None] | None = None,
    average: nn.Module | None = None,
    kept: nn.Module | None = None,
    resume: Resume | None = None,
    iterations_per_epoch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[EpochRecord]:
    """Train a network in place, on settings.device, where it stays.

    batches: gives an epoch's batches (epochs count from 0), every epoch as many. A batch is a dataclass of tensors. In a
        distributed run each process gives its share of every batch, distributed.own_share() of its frames.
    loss: gives the scalar to minimise for (network, batch on the device); by default the cross-entropy of the logits
        with `batch.labels`, 255 ignored, weighted by class_weights (class,). In a distributed run it is averaged over
        processes.
    after_step, after_epoch: get (iterations or epoch, network, optimiser) when the gradient step, or the epoch's last
        one, is done: the place for a proximal step. Whoever replaces parameters there replaces them in the optimiser.
    average: a copy of the network that becomes the moving average of its weights, with settings.average_decay.
    kept: what after_epoch writes to, on whatever device; it goes into the state and comes back from it.
    resume: where to keep the state; what is there already is continued, to the very weights of an undisturbed run.
    iterations_per_epoch: spares counting the batches where they have no length, which reads the first epoch twice.
    progress: gets (iterations done, iterations in all).
    Same network, batches, settings and number of threads give the same weights; the global random state stays as it is.
    Raises InputError when the loss is no longer finite, an epoch has no batch or not as many as the first, or the
    resume file belongs to another training.
    """
    with _reproducible(settings), modes_kept(network):
        iterations = iterations_per_epoch or _count_batches(batches)
        _seed(settings)
        run = _start(network, average, kept, settings, _loss(loss, class_weights, settings), resume, iterations)
        position, optimiser = run.position, run.optimiser
        step: Callable[[Batch], Tensor] = run.gradient_step
        if settings.captured and distributed.world_size() == 1:
            step = CapturedStep(network, step)
        while position.epoch < settings.epochs:
            network.train()
            with distributed.synchronised_batch_norm(network):
                for batch in run.batches_left(batches):
                    run.step(batch, step)
                    if after_step is not None:
                        after_step(run.done + 1, network, optimiser)
                    run.end_step()
                    if progress is not None:
                        progress(run.done, run.iterations)
            if after_epoch is not None:
                after_epoch(position.epoch, network, optimiser)
            run.end_epoch()
    return [EpochRecord(**record) for record in position.records]


def evaluate_segmentation(
    network: nn.Module, frames: FrameSet, classes: int, batch_frames: int = 8
) -> NDArray[np.int64]:
    """Count the confusion of a network on labelled frames at the labels' own size, each process its share of the frames.

    Returns (class, class) int64, rows are labels, 255 is left out. Raises InputError when there is no frame.
    """
    if len(frames) == 0:
        raise InputError("frames: none to evaluate on; give a manifest with labelled frames of the split")
    own, counts = distributed.own_frames(len(frames), batch_frames), np.zeros((classes, classes), np.int64)
    batches = ordered_batches(frames, batch_frames, own)
    found = (logits for batch in batches for logits in batch_logits(network, batch).float().cpu().numpy())
    for index, logits in zip(own, found, strict=True):
        label = frames.full_label(index)
        counts += confusion_matrix(label, predicted_classes(logits, label.shape), classes)
    return distributed.sum_over_processes(counts)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same during a training, and the position, which moves."""

    network: nn.Module
    average: nn.Module | None
    kept: nn.Module | None
    settings: TrainSettings
    loss: Loss
    optimiser: Optimizer
    resume: Resume | None
    iterations_per_epoch: int
    position: Position

    @property
    def done(self) -> int:
        return self.position.epoch * self.iterations_per_epoch + self.position.batch

    @property
    def iterations(self) -> int:
        return self.settings.epochs * self.iterations_per_epoch

    def networks(self) -> dict[str, nn.Module]:
        """Name the networks whose weights are part of the state."""
        named = {"network": self.network, "average": self.average, "kept": self.kept}
        return {name: module for name, module in named.items() if module is not None}

    def facts(self) -> dict[str, Any]:
        """Name what must be the same for a training to go on as if nothing had happened."""
        settings = dataclasses.asdict(self.settings)
        del settings["device"], settings["captured"]
        return {
            "settings": settings,
            "iterations_per_epoch": self.iterations_per_epoch,
            "processes": distributed.world_size(),
            "networks": sorted(self.networks()),
        }

    def batches_left(self, batches: Callable[[int], Iterable[Batch]]) -> Iterator[Batch]:
        """Give, on the device, each batch of the epoch that is not done yet."""
        done, expected, count = self.position.batch, self.iterations_per_epoch, 0
        for count, batch in enumerate(itertools.islice(batches(self.position.epoch), expected + 1), start=1):
            if count > expected:
                break
            if count > done:
                yield _to_device(batch, self.settings.device)
        if count != expected:
            found = f"more than {expected}" if count > expected else f"{count}"
            raise InputError(
                f"epoch {self.position.epoch}: has {found} batches, not {expected}; give every epoch as many"
            )

    def step(self, batch: Batch, step: Callable[[Batch], Tensor]) -> None:
        """Set the learning rate, make one gradient step, and add to the loss."""
        set_learning_rate(self.optimiser, _learning_rate(self.settings, self.done / self.iterations))
        self.position.loss_sum = self.position.loss_sum + step(batch)

    def gradient_step(self, batch: Batch) -> Tensor:
        """Make one gradient step and return its loss, detached."""
        self.optimiser.zero_grad(set_to_none=True)
        device_type = torch.device(self.settings.device).type
        with torch.autocast(device_type, torch.bfloat16, enabled=self.settings.mixed_precision):
            loss = self.loss(self.network, batch)
        loss.backward()
        distributed.average_gradients(self.network.parameters())
        if self.settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimiser.step()
        return loss.detach()

    def end_step(self) -> None:
        """Count the step, follow it with the average, and save the state when it is time."""
        if self.average is not None:
            update_average(self.average, self.network, self.settings.average_decay, self.done)
        self.position.batch += 1
        self.position.count_seconds()
        last = self.position.batch == self.iterations_per_epoch
        if last or self.position.batch % _ITERATIONS_BETWEEN_CHECKS == 0:
            self.check_finite()
        if not last:  # the state at an epoch's end is saved after what follows the epoch
            self.save_if_due(epoch_ended=False)

    def end_epoch(self) -> None:
        """Record the epoch, move on to the next one, and save the state when it is time or training is over."""
        position = self.position
        position.count_seconds()
        record = EpochRecord(
            epoch=position.epoch,
            loss=float(distributed.mean_over_processes(position.loss_sum)) / self.iterations_per_epoch,
            learning_rate=_learning_rate(self.settings, position.epoch / self.settings.epochs),
            seconds=position.seconds,
        )
        position.next_epoch(dataclasses.asdict(record))
        self.save_if_due(epoch_ended=True)

    def save_if_due(self, epoch_ended: bool) -> None:
        over = self.position.epoch == self.settings.epochs
        if self.resume is not None and (over or is_due(self.resume, self.position, epoch_ended)):
            save_state(self.resume, self.position, self.networks(), self.optimiser, self.facts())

    def check_finite(self) -> None:
        loss = float(self.position.loss_sum)
        if not math.isfinite(loss):
            raise InputError(
                f"epoch {self.position.epoch}, iteration {self.position.batch}: the loss is {loss} at learning rate "
                f"{float(self.optimiser.param_groups[0]['lr']):g}; lower learning_rate or set max_grad_norm"
            )


def _start(
    network: nn.Module,
    average: nn.Module | None,
    kept: nn.Module | None,
    settings: TrainSettings,
    loss: Loss,
    resume: Resume | None,
    iterations: int,
) -> _Run:
    """Bring the networks to the device and all processes and, where a state was kept, back to where it was."""
    for module in (network, average):
        if module is not None:
            module.to(settings.device)
            distributed.broadcast_state(module)
            if settings.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(network, settings)
    run = _Run(network, average, kept, settings, loss, optimiser, resume, iterations, Position())
    position = load_state(resume, run.networks(), optimiser, run.facts()) if resume is not None else None
    return dataclasses.replace(run, position=position) if position is not None else run


def _learning_rate(settings: TrainSettings, done: float) -> float:
    """Give the learning rate when a share `done` of all iterations is behind."""
    if done < settings.warmup_share:
        return settings.learning_rate * done / settings.warmup_share
    done = (done - settings.warmup_share) / (1 - settings.warmup_share)
    factor = {"poly": (1 - done) ** 0.9, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return settings.learning_rate * factor[settings.schedule]


def _optimiser(network: nn.Module, settings: TrainSettings) -> Optimizer:
    decay, captured = settings.weight_decay, settings.captured
    groups = parameter_groups(network, settings.encoder_rate_share)
    for group in groups:  # a recorded step reads its rate from the device, where it can change; a group has its own
        rate = settings.learning_rate
        group["lr"] = torch.tensor(rate, device=settings.device) if captured else rate
    if settings.optimiser == "sgd":
        inertia: dict[str, Any] = {"momentum": settings.momentum, "nesterov": settings.nesterov}
        return torch.optim.SGD(groups, weight_decay=decay, fused=captured, **inertia)
    kind = torch.optim.Adam if settings.optimiser == "adam" else torch.optim.AdamW
    # Fused: on small networks the updates, tensor by tensor, take some percent of a step.
    return kind(groups, betas=(0.9, 0.999), weight_decay=decay, fused=True, capturable=captured)


def _loss(loss: Loss | None, weights: ArrayLike | Tensor | None, settings: TrainSettings) -> Loss:
    if loss is not None and weights is not None:
        raise InputError("class_weights: mean nothing beside a loss of your own; give one of the two")
    tensor = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=settings.device)
    return loss or partial(label_loss, weights=tensor)


def _count_batches(batches: Callable[[int], Iterable[Batch]]) -> int:
    first = batches(0)
    count = len(first) if isinstance(first, Sized) else sum(1 for _ in first)
    if count == 0:
        raise InputError("batches: the first epoch has none; give at least one frame")
    return count


def _to_device(batch: AnyBatch, device: torch.device | str) -> AnyBatch:
    if isinstance(batch, Batch):
        return batch.on(device)  # type: ignore[return-value]
    moved = {name: value.to(device) for name, value in tensors_of(batch).items()}
    return dataclasses.replace(batch, **moved)  # type: ignore[type-var]


def batch_logits(network: nn.Module, batch: Batch) -> Tensor:
    """Give the network's output for a batch, on its device, in evaluation mode; it gets its modes back."""
    with evaluation_mode(network):
        logits: Tensor = network(batch.images.to(next(network.parameters()).device))
    if not torch.isfinite(logits).all():
        raise InputError(
            "the network gives NaN or infinity, which no class is; train it again with a lower learning rate"
        )
    return logits


def _seed(settings: TrainSettings) -> None:
    """Seed the CPU's generator and the device's, differently in every process so that their dropouts differ."""
    seed = (settings.seed + distributed.rank()) % 2**63
    torch.random.default_generator.manual_seed(seed)
    if settings.device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


@contextmanager
def _reproducible(settings: TrainSettings) -> Iterator[None]:
    """Draw from the settings' seed, by deterministic algorithms where asked, and leave the global state as it was."""
    device = torch.device(settings.device)
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    was_deterministic, benchmarked = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=cuda):
        torch.use_deterministic_algorithms(settings.deterministic or was_deterministic)
        # Not by torch.backends.cudnn.flags, which switches the whole library off unless told otherwise.
        torch.backends.cudnn.benchmark = not settings.deterministic
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was_deterministic)
            torch.backends.cudnn.benchmark = benchmarked
