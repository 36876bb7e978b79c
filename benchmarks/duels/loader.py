"""Duel: batches of labelled street frames, ours against the bare decode, webdataset and torch's DataLoader.

Frames of 1024x512 px (JPEG and label PNG) are rendered once. The decode floor is the same files decoded by OpenCV, the
fastest decoder among the dependencies, in as many threads and nothing else: no reading, no check of sha256, no labels
mapped, no batch. Pillow's floor, which the peers stand on, is printed too. Ours gives batches as bytes, as a GPU takes
them, with no cache; frames are resized to --trained-height (by default half their height, as the nightly profile does)
and, in a second measurement, augmented. The peers decode with Pillow, resize alike and give the same batches, not
augmented; they have as many worker processes. Rounds alternate; the least time of each counts.

The training loop's waiting time is measured with a step that takes --step-ms on the device, or with a real forward and
backward pass where there is a GPU: the share of the time that the loop waits for its next batch.

The last line is JSON: ours, peer and floor in frames a second; limit_share is ours without augmentation over the floor,
limit_share_augmented with it; both must reach the bar. cpu_share and cpu_share_augmented are the same quotients in
processor time, which other programs on the machine disturb less.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.duels.duel import finish, result
from benchmarks.streets import TAXONOMY, Pair, encoded_streets, stored
from perception.data.loading import Augment, Batch, FrameSet, LoadSettings, WaitingTime, shuffled_batches
from perception.data.shards import write_shard
from perception.data.store import FolderStore

HEIGHT, WIDTH, BATCH_FRAMES = 512, 1024, 8
BAR = 0.9


@click.command()
@click.option("--frames", default=96)
@click.option("--rounds", default=5)
@click.option("--workers", default=2)
@click.option("--trained-height", default=HEIGHT // 2)
@click.option("--step-ms", default=100.0)
def duel(**given: Any) -> int:
    """Load batches of labelled frames, against webdataset and torch's DataLoader."""
    height = given["trained_height"]
    options = SimpleNamespace(**given, trained_px=(height, height * WIDTH // HEIGHT))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pairs = encoded_streets(options.frames, HEIGHT)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        frames = _frame_set(pairs, root, options)
        _assert_same(pairs, frames, options)
        contenders = _contenders(pairs, frames, root, options)
        rates, cpu_ms = _measure(contenders, options)
        waiting = _waiting_share(frames, options)
    for name, rate in rates.items():
        print(f"{name:28s} {rate:8.1f} frames/s  {rate / rates['floor']:6.1%} of the decode floor  "
              f"{cpu_ms[name]:6.2f} ms of this process's time a frame")  # fmt: skip
    print(f"waiting for data: {waiting:.1%} of the training loop's time ({_step_name(options)})")
    return finish(_verdict(rates, cpu_ms, waiting, options))


def _frame_set(pairs: list[Pair], root: Path, options: SimpleNamespace) -> FrameSet:
    store, (height, width) = FolderStore(root / "store"), options.trained_px
    settings = LoadSettings(height_px=height, width_px=width, taxonomy=TAXONOMY, cache_mib=0, workers=options.workers)
    return FrameSet(stored(pairs, store), store, settings)


def _assert_same(pairs: list[Pair], frames: FrameSet, options: SimpleNamespace) -> None:
    """Check that ours and the peers give equal labels, and images that differ by no more than two decoders do."""
    for index in (0, len(pairs) - 1):
        image, label = (torch.from_numpy(np.array(each)) for each in frames.load(index))
        shown, expected = _shown(*(Image.open(io.BytesIO(data)) for data in pairs[index]), options.trained_px)
        assert torch.equal(label, expected), f"frame {index}: other labels than the peers'"
        difference = float((image.permute(1, 2, 0).float() - shown.float()).abs().mean())
        assert difference < 4, f"frame {index}: its image differs by {difference:.1f} of 255 on average"


def _contenders(
    pairs: list[Pair], frames: FrameSet, root: Path, options: SimpleNamespace
) -> dict[str, Callable[[], int]]:
    def ours(augment: Augment | None) -> int:
        return _count(shuffled_batches(frames, BATCH_FRAMES, 0, 0, augment, as_bytes=True))

    shards = [root / f"frames-{number:03d}.tar" for number in range(options.workers)]
    for number, shard in enumerate(shards):
        own = list(enumerate(pairs))[number :: len(shards)]
        write_shard([(f"f{place:04d}", {"jpg": image, "png": label}) for place, (image, label) in own], shard)
    return {
        "floor": lambda: _decoded(_opencv, pairs, options.workers),
        "Pillow's floor": lambda: _decoded(_pillow, pairs, options.workers),
        "ours": lambda: ours(None),
        "ours, augmented": lambda: ours(Augment()),
        "ours, augmented, as floats": lambda: _count(shuffled_batches(frames, BATCH_FRAMES, 0, 0, Augment())),
        "DataLoader": lambda: _count(_data_loader(pairs, options)),
        "webdataset": lambda: _count(_web_dataset(shards, options)),
    }


def _measure(
    contenders: dict[str, Callable[[], int]], options: SimpleNamespace
) -> tuple[dict[str, float], dict[str, float]]:
    """Return frames a second, and milliseconds of this process's own time a frame, each of the best round."""
    seconds, own = dict.fromkeys(contenders, float("inf")), dict.fromkeys(contenders, float("inf"))
    for _ in range(options.rounds):
        for name, run in contenders.items():
            start, start_own = time.perf_counter(), time.process_time()
            count = run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            own[name] = min(own[name], time.process_time() - start_own)
            assert count == options.frames, (name, count)
    rates = {name: options.frames / each for name, each in seconds.items()}
    return rates, {name: 1e3 * each / options.frames for name, each in own.items()}


def _count(batches: Iterable[Any]) -> int:
    return sum(len(batch.images if isinstance(batch, Batch) else batch[0]) for batch in batches)


# --- the floor


def _decoded(decode: Callable[[Pair], Any], pairs: list[Pair], workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        return sum(1 for _ in pool.map(decode, pairs))


def _opencv(pair: Pair) -> tuple[Any, Any]:
    image, label = (np.frombuffer(data, np.uint8) for data in pair)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(image, flags), cv2.imdecode(label, cv2.IMREAD_GRAYSCALE)


def _pillow(pair: Pair) -> tuple[Any, Any]:
    image, label = (Image.open(io.BytesIO(data)) for data in pair)
    return np.asarray(image.convert("RGB")), np.asarray(label)


# --- the peers


class _Pairs(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, pairs: list[Pair], size: tuple[int, int]) -> None:
        self.pairs, self.size = pairs, size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (Image.open(io.BytesIO(data)) for data in self.pairs[index])
        return _shown(image, label, self.size)


def _shown(image: Image.Image, label: Image.Image, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    image = image.convert("RGB")
    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        label = label.resize(size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image)), torch.from_numpy(np.array(label))


def _data_loader(pairs: list[Pair], options: SimpleNamespace) -> Iterator[Any]:
    loader: Any = torch.utils.data.DataLoader(
        _Pairs(pairs, options.trained_px), BATCH_FRAMES, shuffle=True, num_workers=options.workers
    )
    yield from loader


def _web_dataset(shards: list[Path], options: SimpleNamespace) -> Iterator[Any]:
    import webdataset

    size = options.trained_px
    # Every worker reads its own share of the frames from a shard of its own.
    dataset = (
        webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False, empty_check=False)
        .decode("pil")
        .to_tuple("jpg", "png")
        .map(partial(_shown_pair, size=size))
    )
    yield from torch.utils.data.DataLoader(dataset, BATCH_FRAMES, num_workers=options.workers)


def _shown_pair(pair: tuple[Image.Image, Image.Image], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    return _shown(*pair, size)


# --- waiting


def _step_name(options: SimpleNamespace) -> str:
    return "forward and backward on the GPU" if torch.cuda.is_available() else f"a step of {options.step_ms:g} ms"


def _waiting_share(frames: FrameSet, options: SimpleNamespace) -> float:
    waiting = WaitingTime()
    for epoch in range(3):
        for batch in waiting.over(shuffled_batches(frames, BATCH_FRAMES, 0, epoch, Augment(), as_bytes=True)):
            _step(batch, options)
    return waiting.share


def _step(batch: Batch, options: SimpleNamespace) -> None:
    if not torch.cuda.is_available():
        time.sleep(options.step_ms / 1e3)
        return
    moved = batch.on("cuda")
    torch.nn.functional.cross_entropy(_network()(moved.images), moved.labels, ignore_index=255).backward()
    torch.cuda.synchronize()


@cache
def _network() -> torch.nn.Module:
    from perception.models.erfnet import ERFNet

    return ERFNet(19).cuda()


def _verdict(
    rates: dict[str, float], cpu_ms: dict[str, float], waiting: float, options: SimpleNamespace
) -> dict[str, Any]:
    share, augmented = (rates[name] / rates["floor"] for name in ("ours", "ours, augmented"))
    best = max(rates["DataLoader"], rates["webdataset"])
    return result(
        "loader",
        ours=rates["ours"],
        peer=best,
        ratio=rates["ours"] / best,
        bar=BAR,
        limit_share=share,
        passed=min(share, augmented) >= BAR,
        bar_of="share of the limit",
        floor=rates["floor"],
        limit_share_augmented=augmented,
        cpu_share=cpu_ms["floor"] / cpu_ms["ours"],
        cpu_share_augmented=cpu_ms["floor"] / cpu_ms["ours, augmented"],
        limit_share_of_pillow=rates["ours"] / rates["Pillow's floor"],
        limit_share_of_pillow_augmented=rates["ours, augmented"] / rates["Pillow's floor"],
        waiting_share=waiting,
        trained_height_px=options.trained_height,
        workers=options.workers,
    )
