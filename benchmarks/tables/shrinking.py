"""What the tables about smaller networks share: the tasks, the training of one arm, structures, latency."""

import copy
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.tables.data import CLASSIFICATION, Labelled, camvid, classification
from benchmarks.tables.runner import Request
from perception.compression.cost import count_macs, count_parameters, measure_latency_ms
from perception.compression.export import export_onnx, fold_batchnorm
from perception.data.loading import Batch
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix, mean_iou
from perception.models.checkpoint import apply_leaves, describe_leaves
from perception.models.erfnet import ERFNet
from perception.training.loop import TrainSettings, class_weights, fit

Hook = Callable[[int, nn.Module, Optimizer], None]
CAMVID_CLASSES = 11
_DATA_SEED = 0  # which part of a data set a small table takes: the same for every seed


@dataclass(frozen=True)
class Task:
    """A data set at a table's size, and how networks learn it. score: percent, of accuracy or mIoU on `test`."""

    train: Labelled
    test: Labelled
    classes: int
    score: str
    batch_frames: int
    shift_px: int  # augmentation: frames move so far at most, and half of them are mirrored

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.shape)


def open_task(request: Request) -> Task:
    """Load the data of a request; small: 8,000 images to learn from, or CamVid at 72x96."""
    return _open_task(request.data, request.data_kind, request.size)


@functools.lru_cache(maxsize=1)
def _open_task(data: Path | None, kind: str, size: str) -> Task:
    if kind in CLASSIFICATION:
        assert data is not None
        train, test = classification(data, kind)
        if size == "small":
            order = np.random.default_rng(_DATA_SEED).permutation(len(train))
            train, test = train.take(order[:8000]), test.take(slice(0, 5000))
        return Task(train, test, 10, "accuracy", 64 if size == "small" else 128, 2 if kind == "fashion_mnist" else 4)
    if kind == "camvid":
        assert data is not None
        train, test, _ = camvid(data, *((72, 96) if size == "small" else (360, 480)))
        return Task(train, test, CAMVID_CLASSES, "mIoU", 8, 0)
    raise InputError("this table wants DATA: a folder with Fashion-MNIST or CamVid, or CIFAR-10 as .npz")


def batches(task: Task, seed: int, epoch: int) -> "_Epoch":
    """Give one epoch's batches; the same seed and epoch give the same ones."""
    return _Epoch(task, seed, epoch)


@dataclass(frozen=True)
class _Epoch:
    task: Task
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.task.train) // self.task.batch_frames

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.task.train))
        for number in range(len(self)):
            rows = order[number * self.task.batch_frames : (number + 1) * self.task.batch_frames]
            frames = self.task.train.take(rows)
            images, labels = _moved(frames.images.float() / 255, frames.labels, self.task.shift_px, rng)
            yield Batch(images, labels)


def _moved(images: Tensor, labels: Tensor, shift_px: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    mirrored = torch.from_numpy(rng.random(len(images)) < 0.5)
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if labels.ndim > 1:
        labels = torch.where(mirrored[:, None, None], labels.flip(-1), labels)
    if shift_px:
        height, width = images.shape[-2:]
        padded = F.pad(images, (shift_px,) * 4)
        corners = rng.integers(0, 2 * shift_px + 1, (len(images), 2)).tolist()
        cut = [frame[:, y : y + height, x : x + width] for frame, (y, x) in zip(padded, corners, strict=True)]
        images = torch.stack(cut)
    return images, labels


def train_arm(
    task: Task,
    network: nn.Module,
    request: Request,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    optimiser: Any = "adam",
    after_step: Hook | None = None,
    after_epoch: Hook | None = None,
) -> dict[str, Any]:
    """Train a network in place and say what it reached: score_percent, seconds, loss of the last epoch, its size."""
    settings = TrainSettings(
        epochs=epochs,
        batch_frames=task.batch_frames,
        learning_rate=learning_rate,
        weight_decay=1e-4,
        schedule="cosine",
        seed=seed,
        optimiser=optimiser,
        device=request.device,
    )
    weights = class_weights(np.bincount(task.train.labels[task.train.labels < 255], minlength=task.classes))
    start = time.process_time()  # other programs on the machine do not count
    records = fit(
        network,
        lambda epoch: batches(task, seed, epoch),
        settings,
        class_weights=weights if task.score == "mIoU" else None,
        after_step=after_step,
        after_epoch=after_epoch,
    )
    seconds = time.process_time() - start
    return {
        "score_percent": score_percent(task, network, request.device),
        "train_seconds": seconds,
        "loss": records[-1].loss,
        "parameters": count_parameters(network),
        "macs": count_macs(network, task.shape),
        "leaves": describe_leaves(network),
    }


@torch.inference_mode()
def score_percent(task: Task, network: nn.Module, device: str = "cpu") -> float:
    """Give the accuracy, or the mIoU, on the test frames in percent."""
    network.eval()
    right, confusion = 0, np.zeros((task.classes, task.classes), np.int64)
    for start in range(0, len(task.test), 4 * task.batch_frames):
        part = task.test.take(slice(start, start + 4 * task.batch_frames))
        predicted = network((part.images.float() / 255).to(device)).argmax(1).cpu()
        if task.score == "mIoU":
            confusion += confusion_matrix(part.labels.numpy(), predicted.to(torch.uint8).numpy(), task.classes)
        else:
            right += int((predicted == part.labels).sum())
    return 100 * (mean_iou(confusion) if task.score == "mIoU" else right / len(task.test))


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def structured(build: Callable[[], nn.Module], leaves: list[Any], seed: int) -> nn.Module:
    """Build a network of another one's structure (leaves of describe_leaves) with fresh weights."""

    def fresh() -> nn.Module:
        network = build()
        apply_leaves(network, leaves, "a table's structure")
        return network

    return seeded(fresh, seed)


def small_classifier(task: Task, width: float = 1.0) -> nn.Module:
    """Build an over-parameterised classifier: two strided convolutions (32, 64) and two linear layers (128)."""
    (channels, height, _), (a, b, c) = task.shape, (max(4, round(n * width)) for n in (32, 64, 128))
    side = (height + 3) // 4  # two strides of 2, each rounded up
    return nn.Sequential(
        nn.Conv2d(channels, a, 5, stride=2, padding=2), nn.BatchNorm2d(a), nn.ReLU(),
        nn.Conv2d(a, b, 5, stride=2, padding=2), nn.BatchNorm2d(b), nn.ReLU(),
        nn.Flatten(), nn.Linear(b * side * side, c), nn.ReLU(), nn.Linear(c, task.classes),
    )  # fmt: skip


def network_for(task: Task, width: float = 1.0) -> nn.Module:
    """Build the over-parameterised network of a task; ERFNet at half its width for segmentation."""
    if task.score == "mIoU":
        return ERFNet(task.classes, width=0.5 * width, dropout_quarter=0.0, dropout_eighth=0.0)
    return small_classifier(task, width)


def latency_ms(task: Task, networks: Mapping[str, nn.Module], repeats: int = 25) -> dict[str, float]:
    """Measure networks in onnxruntime, one thread, one frame, taking turns; the median of each."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, network in networks.items():
            path = Path(folder) / f"{len(paths)}.onnx"
            export_onnx(fold_batchnorm(network.eval()), path, *task.shape[1:], channels=task.shape[0])
            paths[name] = path
        return {row.model: row.median_ms for row in measure_latency_ms(paths, repeats=repeats)}


def torch_pruning_hooks(
    network: nn.Module, task: Task, *, ratio: float, epoch: int, multiple_of: int, outputs: Sequence[nn.Module]
) -> tuple[Hook, Hook, list[str]]:
    """Give hooks that press by Torch-Pruning's group norm and prune after `epoch`, and a list for what it raised.

    Its regularize() adds to the gradients, so it runs before each optimiser step; its step() makes new parameters.
    """
    import torch_pruning

    pruner = torch_pruning.pruner.GroupNormPruner(
        network,
        task.example,
        torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        round_to=multiple_of,
        ignored_layers=list(outputs),
        reg=1e-3,
    )
    raised: list[str] = []
    pressed = {"now": True, "hooked": False}

    def press(*_: Any) -> None:
        try:
            if pressed["now"] and not raised:
                pruner.regularize(network)
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")

    def after_step(_: int, __: nn.Module, optimizer: Optimizer) -> None:
        if not pressed["hooked"]:
            optimizer.register_step_pre_hook(press)
            pressed["hooked"] = True

    def after_epoch(done: int, _: nn.Module, optimizer: Optimizer) -> None:
        if done < epoch:
            pruner.update_regularizer()
        if done == epoch:
            pressed["now"] = False
            pruner.step()
            optimizer.param_groups[0]["params"] = list(network.parameters())
            optimizer.state.clear()

    return after_step, after_epoch, raised


def copied(network: nn.Module) -> nn.Module:
    """Give a copy to train, so that arms begin with equal weights."""
    return copy.deepcopy(network)
