"""Where a registry stands."""

import subprocess
from pathlib import Path


def head_of(registry: Path) -> str:
    """Return the commit of main."""
    command = ["git", "-C", registry, "rev-parse", "main"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
