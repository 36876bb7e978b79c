"""Is the training loop on a GPU fed? Its images a second with the loader, and with batches that lie on the device.

The full-width ERFNet trains in bfloat16 by perception.training.loop.fit, the loop that nights use, on augmented frames of
the nightly profile's size, decoded anew every time: nothing is cached. Frames are rendered in all cores beforehand, or
are those of a manifest. Three things are measured for each number of loading threads, the last of which is by default
every core that the process may use:
- alone: frames a second of the loader with nobody training;
- trained: frames a second of the loop with the loader;
- waiting: the share of the loop's time in which it waited for its next batch. The loop runs ahead of the GPU, so this
  is the host's waiting, of which the GPU notices the less the more work it has in hand.
The bound is the same loop over batches that lie on the device. Fed means: at least 95 % of that bound. With --device cpu
it runs anywhere, which tests the benchmark and says nothing of a GPU. The last line is JSON.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import cv2
import pandas as pd
import torch

from benchmarks.streets import TAXONOMY, encoded_streets, stored
from perception.data import loading
from perception.data.store import FolderStore, open_store
from perception.models.erfnet import ERFNet
from perception.training.loop import TrainSettings, fit

CLASSES = 19
FED = 0.95
WARM_STEPS = 12


_CORES = loading.usable_cores()


@click.command()
@click.option(
    "--workers",
    multiple=True,
    default=sorted({1, min(4, _CORES), min(loading.MOST_WORKERS, _CORES), _CORES}),
    help="May be repeated.",
)
@click.option("--seconds", default=5.0, help="Of each measurement.")
@click.option("--frames", default=64, help="Rendered.")
@click.option("--frame-height", default=1024, help="Of rendered frames, px; twice as wide.")
@click.option("--trained-height", default=512, help="px; twice as wide.")
@click.option("--batch-frames", default=12)
@click.option("--network-width", default=1.0)
@click.option(
    "--manifest", type=click.Path(path_type=Path), help="Parquet rows of labelled frames, instead of rendered ones."
)
@click.option("--store", help="The manifest's store.")
@click.option("--captured", is_flag=True, help="Replay training steps as CUDA graphs.")
@click.option("--device", default="cuda")
def run(**given: Any) -> None:
    """Measure whether the training loop on a GPU is fed: its images a second with the loader, and without."""
    options = SimpleNamespace(**given)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise click.UsageError("no GPU is visible; --device cpu tries the benchmark out without one")
    if (options.manifest is None) != (options.store is None):
        raise click.UsageError("--manifest and --store belong together")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # each loading thread has a frame of its own to work on
    with tempfile.TemporaryDirectory() as folder:
        frames, store = _frames(options, Path(folder))
        bound = _bound(_frame_set(frames, store, options, options.workers[-1]), options)
        found = [_measured(_frame_set(frames, store, options, each), options, bound) for each in options.workers]
    print(json.dumps(_report(found, bound, len(frames), options)))


# --- frames


def _frames(options: SimpleNamespace, folder: Path) -> tuple[pd.DataFrame, Any]:
    if options.manifest is not None:
        frames = pd.read_parquet(options.manifest)
        return frames[frames.label_uri.notna()].reset_index(drop=True), open_store(options.store)
    start, store = time.monotonic(), FolderStore(folder / "store")
    rows = stored(encoded_streets(options.frames, options.frame_height), store)
    print(f"{len(rows)} frames of {2 * options.frame_height}x{options.frame_height} px rendered in "
          f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
    return rows, store


def _frame_set(frames: pd.DataFrame, store: Any, options: SimpleNamespace, workers: int) -> loading.FrameSet:
    height = options.trained_height
    settings = loading.LoadSettings(
        height_px=height, width_px=2 * height, taxonomy=TAXONOMY, cache_mib=0, workers=workers
    )  # fmt: skip
    return loading.FrameSet(frames, store, settings)


def _batches(frames: loading.FrameSet, options: SimpleNamespace, steps: int) -> Iterator[loading.Batch]:
    """Yield batches as nights do: drawn anew, augmented, as bytes for a GPU."""
    return loading.shuffled_batches(
        frames, options.batch_frames, 0, 0, loading.Augment(), epoch_frames=steps * options.batch_frames,
        as_bytes=options.device.startswith("cuda"),
    )  # fmt: skip


# --- measurements


def _trained(batches: Callable[[], Iterable[loading.Batch]], steps: int, options: SimpleNamespace) -> float:
    """Train for `steps` batches and return frames a second, from the start of the loop until the GPU is done."""
    network = ERFNet(CLASSES, width=options.network_width).to(options.device)
    cuda = options.device.startswith("cuda")
    settings = TrainSettings(
        epochs=1, batch_frames=options.batch_frames, learning_rate=5e-4, weight_decay=1e-4, schedule="poly", seed=0,
        device=options.device, mixed_precision=cuda, captured=options.captured,
    )  # fmt: skip
    start = time.perf_counter()
    fit(network, lambda _: batches(), settings, iterations_per_epoch=steps)
    if cuda:
        torch.cuda.synchronize()
    return steps * options.batch_frames / (time.perf_counter() - start)


def _bound(frames: loading.FrameSet, options: SimpleNamespace) -> float:
    """Return frames a second of the loop over batches that lie on the device."""
    kept = [batch.on(options.device) for batch in _batches(frames, options, 4)]

    def again(steps: int) -> Callable[[], Iterable[loading.Batch]]:
        return lambda: (kept[number % len(kept)] for number in range(steps))

    _trained(again(WARM_STEPS), WARM_STEPS, options)  # finds the fastest kernels
    rate = _trained(again(WARM_STEPS), WARM_STEPS, options)
    steps = _steps(rate, options)
    rate = _trained(again(steps), steps, options)
    print(f"batches on the device: {rate:.1f} frames/s", flush=True)
    return rate


def _steps(rate: float, options: SimpleNamespace) -> int:
    return max(WARM_STEPS, round(options.seconds * rate / options.batch_frames))


def _measured(frames: loading.FrameSet, options: SimpleNamespace, bound: float) -> dict[str, Any]:
    """Measure one number of workers: frames a second of the loader alone and of the loop, and the loop's waiting."""
    alone = _loaded_alone(frames, options)
    waiting = loading.WaitingTime()
    steps = _steps(min(bound, alone), options)
    trained = _trained(lambda: waiting.over(_batches(frames, options, steps)), steps, options)
    workers = frames.settings.workers
    print(f"{workers:3d} workers: loader alone {alone:8.1f} frames/s, loop {trained:8.1f} frames/s "
          f"({trained / bound:.1%} of the bound), waiting {waiting.share:.1%}", flush=True)  # fmt: skip
    return {"workers": workers, "alone": round(alone, 1), "trained": round(trained, 1),
            "of_bound": round(trained / bound, 3), "waiting_share": round(waiting.share, 4)}  # fmt: skip


def _loaded_alone(frames: loading.FrameSet, options: SimpleNamespace) -> float:
    long = _batches(frames, options, 3000)
    count, start = 0, 0.0
    for number, batch in enumerate(long):
        if number == 3:  # what was loaded ahead at the start is not counted
            count, start = 0, time.perf_counter()
        count += len(batch.images)
        if number > 3 and time.perf_counter() - start > 0.5 * options.seconds:
            break
    long.close()  # type: ignore[attr-defined]
    return count / (time.perf_counter() - start)


def _report(found: list[dict[str, Any]], bound: float, frames: int, options: SimpleNamespace) -> dict[str, Any]:
    most = found[-1]
    return {
        "benchmark": "gpu_feed", "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "cores": loading.usable_cores(), "network_width": options.network_width, "batch_frames": options.batch_frames,
        "trained_height_px": options.trained_height, "frame_height_px": options.frame_height, "frames": frames,
        "captured": options.captured, "on_device": round(bound, 1), "by_workers": found, "bar": FED,
        "pass": bool(most["of_bound"] >= FED),
    }  # fmt: skip
