"""The machine that a table ran on, in words."""

import os
import platform
from pathlib import Path


def hardware(device: str) -> str:
    """Describe the machine in words, its GPU first where the device is one."""
    cores = f"{_processor()}, {os.cpu_count()} cores"
    if device.startswith("cuda"):
        import torch

        return f"{torch.cuda.get_device_name(device)}; {cores}"
    return cores


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
