"""Duel: counting a confusion matrix, ours against torchmetrics and against cityscapesScripts' Python path.

Label maps of 1024 x 2048 pixels in 19 classes and void. All must count equal integers before anything is timed; rounds
alternate, the least time of a round counts. torchmetrics: the update of MulticlassConfusionMatrix. cityscapesScripts:
its own evaluatePair with its C extension off and images handed over in memory. Beside it: what it costs to count every
frame into one matrix a drive and condition and to sum those into all slices at the end, as a share of counting once.
torch gets each number of threads in turn and the least ratio decides; ours and cityscapesScripts' use one thread always.
The limit is one increment a pixel and nanosecond. The last line is JSON.
"""

import importlib
import time
from collections.abc import Callable
from types import SimpleNamespace

import click
import cv2
import numpy as np
import pandas as pd
import torch

from benchmarks.duels.duel import finish, result
from perception.data.taxonomies import load_taxonomy
from perception.metrics.confusion import confusion_matrix
from perception.metrics.segmentation import GroupSums
from perception.metrics.slices import CONDITIONS, DOMAIN, cell_slices, column_slices

HEIGHT_PX, WIDTH_PX, CLASSES = 1024, 2048, 19
CITYSCAPES_BAR, SLICES_BAR = 2.0, 0.10


@click.command()
@click.option("--rounds", default=7)
@click.option("--images", default=10)
@click.option("--threads", multiple=True, default=(1, 2))
def duel(rounds: int, images: int, threads: tuple[int, ...]) -> int:
    """Count a confusion matrix, against torchmetrics and cityscapesScripts."""
    pairs = [_pair(seed) for seed in range(images)]
    runs = {
        "ours": _ours,
        "sliced": _sliced,
        "torchmetrics": _torchmetrics(pairs),
        "cityscapesscripts": _cityscapes(pairs),
    }
    counts = {name: run(pairs) for name, run in runs.items()}
    for name, found in counts.items():
        assert np.array_equal(found, counts["ours"]), f"{name} counts other integers"
    measured = {number: _measure(runs, pairs, rounds, number) for number in threads}
    return finish(_report(measured))


def _measure(runs: dict[str, Callable], pairs: list, rounds: int, threads: int) -> dict[str, float]:
    """Return the ms an image of each run's fastest round and, as "NAME cpu", the least ms of processor time.

    Ours run more often: what slices cost is a few percent of little.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    seconds: dict[str, float] = {}
    for _ in range(rounds):
        for name, run in (*runs.items(), *(5 * [("ours", runs["ours"]), ("sliced", runs["sliced"])])):
            start, start_cpu = time.perf_counter(), time.process_time()
            run(pairs)
            for key, each in ((name, time.perf_counter() - start), (f"{name} cpu", time.process_time() - start_cpu)):
                seconds[key] = min(seconds.get(key, each), each)
    found = {name: 1e3 * each / len(pairs) for name, each in seconds.items()}
    print(f"{threads} thread(s), ms an image: {', '.join(f'{name} {each:.2f}' for name, each in found.items())}")
    return found


def _pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a label map of large patches with void, and a prediction that agrees in nine of ten pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, CLASSES, (24, 48), dtype=np.uint8)
    label = cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_NEAREST)
    wrong = cv2.resize(
        (random.random((256, 512)) < 0.1).astype(np.uint8), (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_NEAREST
    )
    prediction = np.where(wrong > 0, np.roll(label, 90, axis=1), label)
    label[-80:] = 255
    return label, prediction


def _ours(pairs: list) -> np.ndarray:
    total = np.zeros((CLASSES, CLASSES), np.int64)
    for label, prediction in pairs:
        total += confusion_matrix(label, prediction, CLASSES)
    return total


def _sliced(pairs: list) -> np.ndarray:
    """Count into a matrix a drive and condition, and sum every slice and cell of the operating domain from them."""
    sums = GroupSums()
    for number, (label, prediction) in enumerate(pairs):
        conditions = tuple(DOMAIN[column][number % len(DOMAIN[column])] for column in CONDITIONS)
        sums.add((f"drive{number // 2}", *conditions), counts=confusion_matrix(label, prediction, CLASSES))
    groups, counts = pd.DataFrame(list(sums.keys), columns=["drive_id", *CONDITIONS]), np.stack(sums.arrays["counts"])
    slices = {
        cut.name: counts[cut.rows].sum(axis=0)
        for cut in (*column_slices(groups, CONDITIONS), *cell_slices(groups, CONDITIONS))
    }
    return sum(slices[f"time_of_day={value}"] for value in DOMAIN["time_of_day"] if f"time_of_day={value}" in slices)


def _torchmetrics(pairs: list) -> Callable:
    from torchmetrics.classification import MulticlassConfusionMatrix

    tensors = {id(pair): [torch.from_numpy(each.astype(np.int64)) for each in pair] for pair in pairs}

    def run(pairs: list) -> np.ndarray:
        metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=False)
        for pair in pairs:
            label, prediction = tensors[id(pair)]
            metric.update(prediction, label)
        return metric.compute().numpy()

    return run


class _Image:
    """Hand an array over as the image that Image.open would give."""

    def __init__(self, array: np.ndarray) -> None:
        self.size, self._array = array.shape[::-1], array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._array


def _cityscapes(pairs: list) -> Callable:
    scripts = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    scripts.CSUPPORT = False
    raw = load_taxonomy("cityscapes_ids").raw
    ids = np.array([int(np.flatnonzero(raw == each)[0]) for each in range(CLASSES)])
    back = np.zeros(256, np.uint8)
    back[:CLASSES] = ids
    images = {
        f"{number}/{part}": _Image(back[each]) for number, pair in enumerate(pairs) for part, each in enumerate(pair)
    }
    scripts.Image = SimpleNamespace(open=images.__getitem__)
    scripts.args.evalInstLevelScore = scripts.args.evalPixelAccuracy = False

    def run(pairs: list) -> np.ndarray:
        counts = scripts.generateMatrix(scripts.args)
        for number in range(len(pairs)):
            scripts.evaluatePair(f"{number}/1", f"{number}/0", counts, {}, {}, scripts.args)
        return np.asarray(counts, np.int64)[np.ix_(ids, ids)]

    return run


def _report(measured: dict[int, dict[str, float]]) -> dict:
    """Judge by the number of threads that is worst for ours."""
    threads = min(measured, key=lambda each: measured[each]["torchmetrics"] / measured[each]["ours"])
    ms = measured[threads]
    cityscapes = min(each["cityscapesscripts"] / each["ours"] for each in measured.values())
    # Both run in one thread: processor time tells their difference of some percent also on a machine that is in use.
    extra = max(each["sliced cpu"] / each["ours cpu"] for each in measured.values()) - 1
    return result(
        "confusion",
        ours=ms["ours"],
        peer=ms["torchmetrics"],
        limit_share=HEIGHT_PX * WIDTH_PX * 1e-6 / ms["ours"],
        passed=cityscapes >= CITYSCAPES_BAR and extra <= SLICES_BAR,
        ratio_by_threads={str(n): each["torchmetrics"] / each["ours"] for n, each in measured.items()},
        cpu_ratio=min(each["torchmetrics cpu"] / each["ours cpu"] for each in measured.values()),
        cityscapesscripts_ratio=cityscapes,
        cityscapesscripts_bar=CITYSCAPES_BAR,
        slices_extra=extra,
        slices_bar=SLICES_BAR,
    )
