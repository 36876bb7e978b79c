"""Duel: mutual information of an ensemble's segmentation maps, ours against baal's BALD.

Both get the same probabilities, each in the layout that it takes (ours member first, baal's iterations last), and
must agree to 1e-5 before anything is timed. Rounds alternate; the least time of each counts. The limit is the time
of the logarithms alone: one for each probability, with the same torch, threads and machine. Extra memory is the rise
of the peak resident set during one pass, in units of one image's probabilities.
The last line is JSON.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.duels.duel import finish, result
from benchmarks.timing import least_seconds
from perception.uncertainty.scores import uncertainty, uncertainty_from_probabilities

MEMBERS, CLASSES, HEIGHT, WIDTH = 8, 19, 128, 256
STREAM_IMAGES = 2
BAR_LIMIT_SHARE, BAR_EXTRA_IMAGES = 0.6, 2.0
IMAGE_BYTES = MEMBERS * CLASSES * HEIGHT * WIDTH * 4


@click.command()
@click.option("--images", default=16)
@click.option("--rounds", default=7)
@click.option("--threads", default=2)
def duel(images: int, rounds: int, threads: int) -> int:
    """Score frames by mutual information, against baal's BALD."""
    from baal.active.heuristics import BALD

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(MEMBERS, images, CLASSES, HEIGHT, WIDTH, generator=generator)
    probabilities = logits.softmax(2)
    peer_input = np.ascontiguousarray(probabilities.permute(1, 2, 3, 4, 0).numpy())
    peer = BALD(reduction="mean")

    def ours() -> np.ndarray:
        return _by_batch(probabilities, uncertainty_from_probabilities)

    def ours_from_logits() -> np.ndarray:
        return _by_batch(logits, uncertainty)

    def theirs() -> np.ndarray:
        return np.asarray(peer.get_uncertainties(peer_input))

    extra = {name: _extra_images(run) for name, run in (("ours", ours), ("peer", theirs))}
    difference = float(np.abs(ours() - theirs()).max())
    assert difference < 1e-5, f"ours and baal differ by {difference}"
    runs = {"ours": ours, "peer": theirs, "from_logits": ours_from_logits, "logarithms": _logarithms()}
    seconds = least_seconds(runs, rounds)
    return finish(_report(seconds, extra, difference, images, threads))


def _by_batch(values: torch.Tensor, measure: Callable) -> np.ndarray:
    """Score batches of two images, as a stream would bring them; values: (member, image, class, height, width)."""
    scores = []
    for start in range(0, values.shape[1], STREAM_IMAGES):
        found = measure(values[:, start : start + STREAM_IMAGES], ("mutual_information",))
        scores.append(found.maps["mutual_information"].numpy().mean((1, 2)))
    return np.concatenate(scores)


def _logarithms() -> Callable[[], None]:
    """Return a run that takes the logarithms of one image's probabilities and of their mean, and nothing else."""
    values = torch.rand(CLASSES, HEIGHT, WIDTH)
    result = torch.empty_like(values)

    def run() -> None:
        for _ in range(MEMBERS + 1):
            torch.log(values, out=result)

    return run


def _extra_images(run: Callable) -> float:
    """Return by how much one pass raises the peak resident set, in images' worth of probabilities (Linux)."""
    run()
    # What the first pass freed would count as memory that is there already.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    run()
    return (_status_bytes("VmHWM") - before) / IMAGE_BYTES


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _report(seconds: dict[str, float], extra: dict[str, float], difference: float, images: int, threads: int) -> dict:
    ours, peer = images / seconds["ours"], images / seconds["peer"]
    share = ours * seconds["logarithms"]
    return result(
        "scoring",
        ours=ours,
        peer=peer,
        ratio=ours / peer,
        limit_share=share,
        passed=share >= BAR_LIMIT_SHARE and extra["ours"] < BAR_EXTRA_IMAGES,
        limit_share_bar=BAR_LIMIT_SHARE,
        ours_from_logits=images / seconds["from_logits"],
        extra_images_ours=extra["ours"],
        extra_images_peer=extra["peer"],
        greatest_difference=difference,
        threads=threads,
    )
