"""What the tables about smaller networks share: the tasks, the training of one arm, structures, latency."""

import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.results import markdown_table
from benchmarks.tables.data import CLASSIFICATION, Labelled, camvid, classification
from benchmarks.tables.runner import Cell, Found, Request
from benchmarks.tables.segmenters import weights_of
from benchmarks.tables.statistics import mean_and_spread
from perception.compression.cost import count_macs, count_parameters, measure_latency_ms
from perception.compression.export import export_onnx, fold_batchnorm
from perception.data.loading import Batch
from perception.errors import InputError
from perception.metrics.confusion import confusion_matrix, mean_iou
from perception.metrics.differences import paired_difference
from perception.models.checkpoint import apply_leaves, describe_leaves
from perception.models.erfnet import ERFNet
from perception.training.loop import TrainSettings, fit
from perception.training.setup import seeded

Hook = Callable[[int, nn.Module, Optimizer], None]
CAMVID_CLASSES = 11
_DATA_SEED = 0  # which part of a data set a small table takes: the same for every seed


@dataclass(frozen=True)
class Task:
    """A data set at a table's size, on the device, and how networks learn it.

    score: percent, of accuracy or mIoU on `test`.
    """

    train: Labelled
    test: Labelled
    classes: int
    score: str
    batch_frames: int
    shift_px: int  # augmentation: frames move so far at most, and half of them are mirrored
    size: str = "small"  # the table's

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.shape)


@functools.lru_cache(maxsize=1)
def open_task(request: Request) -> Task:
    """Load the data of a request; small: 8,000 images to learn from; small and medium: CamVid at 72x96."""
    data, kind, size, device = request.data, request.data_kind, request.size, request.device
    if kind in CLASSIFICATION:
        assert data is not None
        train, test = classification(data, kind)
        if size == "small":
            order = np.random.default_rng(_DATA_SEED).permutation(len(train))
            train, test = train.take(order[:8000]), test.take(slice(0, 5000))
        batch_frames = {"small": 64, "medium": 512, "full": 128}[size]
        shift_px = 2 if kind == "fashion_mnist" else 4
        return Task(train.on(device), test.on(device), 10, "accuracy", batch_frames, shift_px, size)
    if kind == "camvid":
        assert data is not None
        train, test, _ = camvid(data, *((360, 480) if size == "full" else (72, 96)))
        return Task(train.on(device), test.on(device), CAMVID_CLASSES, "mIoU", 8, 0, size)
    raise InputError("this table wants DATA: a folder with Fashion-MNIST or CamVid, or CIFAR-10 as .npz")


@dataclass(frozen=True)
class Epoch:
    """Give one epoch's batches; the same seed and epoch give the same ones."""

    task: Task
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.task.train) // self.task.batch_frames

    def __iter__(self) -> Iterator[Batch]:
        train, shift_px = self.task.train, self.task.shift_px
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn = (
            rng.permutation(len(train)),
            rng.random(len(train)) < 0.5,
            rng.integers(0, 2 * shift_px + 1, (len(train), 2)),
        )
        # Drawn for the whole epoch and moved at once: a GPU then waits for nothing while the epoch lasts.
        order, mirrored, corners = (torch.from_numpy(values).to(train.images.device) for values in drawn)
        for start in range(0, len(self) * self.task.batch_frames, self.task.batch_frames):
            rows = slice(start, start + self.task.batch_frames)
            frames = mirrored_frames(train.take(order[rows]), mirrored[rows])
            yield Batch(shifted(frames.images, corners[rows], shift_px) if shift_px else frames.images, frames.labels)


def mirrored_frames(frames: Labelled, which: Tensor) -> Labelled:
    """Mirror the frames of `which`: (frame,) bool, and their label maps with them."""
    images = torch.where(which[:, None, None, None], frames.images.flip(-1), frames.images)
    labels = frames.labels
    return Labelled(images, torch.where(which[:, None, None], labels.flip(-1), labels) if labels.ndim > 1 else labels)


def shifted(images: Tensor, corners: Tensor, shift_px: int) -> Tensor:
    """Cut every frame out of its black-padded self at its corner: (frame, 2) int64, y and x from 0 to 2 shift_px."""
    count, _, height, width = images.shape
    padded = F.pad(images, (shift_px,) * 4)
    frame, y, x = (torch.arange(size, device=images.device) for size in (count, height, width))
    rows, columns = corners[:, :1] + y, corners[:, 1:] + x
    cut = padded[frame[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (frame, y, x, channel)
    return cut.permute(0, 3, 1, 2).contiguous()


def train_arm(
    task: Task,
    network: nn.Module,
    request: Request,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    optimiser: Any = "adam",
    mixed_precision: bool = False,
    after_step: Hook | None = None,
    after_epoch: Hook | None = None,
    described: bool = True,
) -> dict[str, Any]:
    """Train a network in place and say what it reached, its size, and what the training cost.

    described: with the network's structure as `leaves`, which only networks of our own layers have.
    mixed_precision: on a GPU only. train_seconds: of the processor, or of the clock where a GPU trains; train_macs:
    multiplications of all forward passes.
    """
    on_gpu = request.device.startswith("cuda")
    settings = TrainSettings(
        epochs=epochs,
        batch_frames=task.batch_frames,
        learning_rate=learning_rate,
        weight_decay=1e-4,
        schedule="cosine",
        seed=seed,
        optimiser=optimiser,
        device=request.device,
        mixed_precision=mixed_precision and on_gpu,
        # What hooks do inside a step, as the peer's does, would be recorded once and never done again.
        captured=on_gpu and not request.eager and after_step is None,
    )
    sizes = [_Size.of(network, task)]

    def end_epoch(epoch: int, trained: nn.Module, optimizer: Optimizer) -> None:
        if after_epoch is not None:
            after_epoch(epoch, trained, optimizer)
        sizes.append(sizes[-1].now(trained, task))

    start = _seconds(request.device)
    records = fit(
        network,
        lambda epoch: Epoch(task, seed, epoch),
        settings,
        class_weights=weights_of([task.train], task.classes) if task.score == "mIoU" else None,
        after_step=after_step,
        after_epoch=end_epoch,
    )
    seconds = _seconds(request.device) - start
    frames = len(Epoch(task, seed, 0)) * task.batch_frames
    return {
        "score_percent": score_percent(task, network, request.device),
        "train_seconds": seconds,
        "train_macs": frames * sum(size.macs for size in sizes[:-1]),
        "loss": records[-1].loss,
        "parameters": sizes[-1].parameters,
        "macs": sizes[-1].macs,
        **({"leaves": describe_leaves(network)} if described else {}),
    }


@dataclass(frozen=True)
class _Size:
    """Parameters, and multiplications a frame, of a network that may shrink after an epoch."""

    parameters: int
    macs: int

    @classmethod
    def of(cls, network: nn.Module, task: Task) -> "_Size":
        return cls(count_parameters(network), count_macs(network, task.shape))

    def now(self, network: nn.Module, task: Task) -> "_Size":
        """Count again only where the network has changed, since counting takes a pass."""
        return self if count_parameters(network) == self.parameters else _Size.of(network, task)


def _seconds(device: str) -> float:
    """Read the clock that a training is timed by: on a processor other programs do not count."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def score_percent(task: Task, network: nn.Module, device: str = "cpu") -> float:
    """Give the accuracy, or the mIoU, on the test frames in percent."""
    network.eval()
    right, confusion = 0, np.zeros((task.classes, task.classes), np.int64)
    for start in range(0, len(task.test), 4 * task.batch_frames):
        part = task.test.take(slice(start, start + 4 * task.batch_frames))
        predicted = network((part.images.float() / 255).to(device)).argmax(1).cpu()
        if task.score == "mIoU":
            confusion += confusion_matrix(part.labels.cpu().numpy(), predicted.to(torch.uint8).numpy(), task.classes)
        else:
            right += int((predicted == part.labels.cpu()).sum())
    return 100 * (mean_iou(confusion) if task.score == "mIoU" else right / len(task.test))


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


def plain_classifier(task: Task, width: float = 1.0) -> nn.Module:
    """Build eight 3x3 convolutions (32, 64, 128, 256, each twice and then pooled) and one linear layer.

    BNet^C of Alvarez and Salzmann, Learning the Number of Neurons in Deep Networks, NIPS 2016 (VGG-B with one linear
    layer), at half its widths and without the last pair, for images of 32 px instead of 224.
    """
    layers: list[nn.Module] = []
    inputs = task.shape[0]
    for pair in (32, 64, 128, 256):
        outputs = max(8, round(pair * width))
        for _ in range(2):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2) if pair < 256 else nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, task.classes))


def network_for(task: Task, width: float = 1.0) -> nn.Module:
    """Build the over-parameterised network of a task; ERFNet at half its width for segmentation."""
    if task.score == "mIoU":
        return ERFNet(task.classes, width=0.5 * width, dropout_quarter=0.0, dropout_eighth=0.0)
    return small_classifier(task, width) if task.size == "small" else plain_classifier(task, width)


def arm_cells(
    request: Request,
    arms: Iterable[str],
    trained: Callable[..., Found],
    settings: Callable[[str], Mapping[str, Any]],
    after: Mapping[str, str],
    latency: Callable[[Mapping[str, Found]], Found],
) -> list[Cell]:
    """Return a cell for each seed and arm, and one for the latency of all; trained: given the cells before, and arm and seed by name.

    after: the arm whose cell of the same seed an arm needs.
    """
    made = [
        Cell(
            name=f"{arm}_{seed}", compute=functools.partial(trained, arm=arm, seed=seed), settings=settings(arm),
            needs=(f"{after[arm]}_{seed}",) if arm in after else (),
        )
        for seed in range(request.seeds)
        for arm in arms
    ]  # fmt: skip
    needs = ("dense_0",) if "dense" in arms else ()
    return [*made, Cell(name="latency", compute=latency, needs=needs, side_by_side=True)]


def training_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all arms have in common: how they are trained."""
    return {name: settings[name] for name in ("epochs", "learning_rate", "mixed_precision") if name in settings}


@dataclass(frozen=True)
class Arm:
    """Hold what the cells of one arm found, one a seed."""

    about: str
    found: list[Found]

    def values(self, *names: str) -> dict[str, list[Any]]:
        """Return some of the figures by name, a value a seed."""
        return {name: [each[name] for each in self.found] for name in names}

    def mean(self, name: str) -> float:
        """Return a figure's mean over the seeds."""
        return float(sum(each[name] for each in self.found)) / len(self.found)

    def less(self, name: str, than: "Arm") -> float:
        """Return by how much a figure's mean is below that of another arm, per cent."""
        return 100 * (1 - self.mean(name) / than.mean(name))

    @property
    def scores(self) -> list[float]:
        """Return what the arm reached in each seed, per cent."""
        return [each["score_percent"] for each in self.found]


def finished(arms: Mapping[str, str], results: Mapping[str, Found], seeds: Iterable[int]) -> dict[str, Arm]:
    """Return the arms of which every seed has been trained, so that a table can be read before it is whole."""
    names = {arm: [f"{arm}_{seed}" for seed in seeds] for arm in arms}
    done = {arm: own for arm, own in names.items() if all(name in results for name in own)}
    return {arm: Arm(arms[arm], [results[name] for name in own]) for arm, own in done.items()}


def arms_table(task: Task, arms: Mapping[str, Arm], base: str, columns: Mapping[str, Callable[[str], str]]) -> str:
    """Write what every arm reached and its gap to the arm `base`; columns: by their heads, what further ones say of an arm."""
    header = ["arm", f"{task.score}, %", f"gap to {base}, points", *columns]
    rows = []
    for name, arm in arms.items():
        gap = "" if name == base else paired_difference(arm.scores, arms[base].scores).words()
        rows.append([arm.about, mean_and_spread(arm.scores), gap, *(write(name) for write in columns.values())])
    return markdown_table(header, rows)


def scatter(task: Task, axis: str, points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw the scores of arms, a dot a seed; points: places on the axis and scores by the arm's name."""
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for name, (places, scores) in points.items():
        axes.plot(places, scores, "o", label=name, alpha=0.8)
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{task.score}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def verdict(lines: Iterable[tuple[bool, str]]) -> str:
    """Write for every claim whether it holds."""
    return "\n".join(f"- {'holds' if holds else 'does not hold'}: {line}" for holds, line in lines)


def structures_latency_ms(task: Task, before: Mapping[str, Found], names: Iterable[str]) -> dict[str, float]:
    """Measure networks of the structures that cells found; latency depends on these alone, so fresh weights do."""
    return latency_ms(task, {name: structured(lambda: network_for(task), before[name]["leaves"], 0) for name in names})


def latency_ms(task: Task, networks: Mapping[str, nn.Module], repeats: int = 50) -> dict[str, float]:
    """Measure networks in onnxruntime, one thread, one frame, taking turns; the median of each."""
    return latency_ms_and_bytes(task.shape, networks, repeats)[0]


def latency_ms_and_bytes(
    shape: tuple[int, int, int], networks: Mapping[str, nn.Module], repeats: int = 50
) -> tuple[dict[str, float], dict[str, int]]:
    """Measure networks as `latency_ms` does, for frames of shape (channel, height, width), and their ONNX files' bytes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, network in networks.items():
            path = Path(folder) / f"{len(paths)}.onnx"
            export_onnx(fold_batchnorm(network.eval()), path, *shape[1:], channels=shape[0])
            paths[name] = path
        milliseconds = {row.model: row.median_ms for row in measure_latency_ms(paths, repeats=repeats)}
        return milliseconds, {name: path.stat().st_size for name, path in paths.items()}


def torch_pruning_hooks(
    network: nn.Module, task: Task, *, ratio: float, epoch: int, multiple_of: int, outputs: Sequence[nn.Module]
) -> tuple[Hook, Hook, list[str]]:
    """Give hooks that press by Torch-Pruning's group norm and prune after `epoch`, and a list for what it raised.

    Its regularize() adds to the gradients, so it runs before each optimiser step; its step() makes new parameters.
    """
    import torch_pruning

    pruner = torch_pruning.pruner.GroupNormPruner(
        network,
        task.example.to(next(network.parameters()).device),
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
