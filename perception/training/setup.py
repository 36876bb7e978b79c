"""What a process settles before it trains: its device, its threads, and the first weights of a network."""

import os
from collections.abc import Callable
from typing import TypeVar

import cv2
import torch

Network = TypeVar("Network")


def best_device() -> str:
    """Return the device that networks train on: this process's GPU where there is one, shared where there are too few."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def set_threads(threads: int) -> None:
    """Fix the number of threads of the numerical libraries; equal sums need an equal split of the work."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)  # frames are loaded by threads that have one each to work on


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """Return the network that `build` makes, its first weights by `seed` alone; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
