"""The machine that a benchmark ran on, in words."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """Return how many cores the machine has."""
    return os.cpu_count() or 1


def hardware(device: str = "cpu") -> str:
    """Describe the machine in words, its GPU first where the device is one."""
    described = f"{_processor()}, {cores()} cores"
    if not device.startswith("cuda"):
        return described
    import torch

    return f"{torch.cuda.get_device_name(device)}; {described}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
