"""Read JSON files that others wrote."""

import json
from pathlib import Path
from typing import Any

from perception.data import limits
from perception.data.decoding import BadFrame


def read_json(path: Path, limit_bytes: int = limits.JSON_BYTES, remedy: str = "give the path of the data set") -> Any:
    """Return what a JSON file holds; raises BadFrame for one that is missing, too large or no JSON."""
    if not path.is_file():
        found = "is not a file" if path.exists() else "file is missing"
        raise BadFrame(path, found, remedy)
    if path.stat().st_size > limit_bytes:
        raise BadFrame(path, f"file has {path.stat().st_size} bytes, more than {limit_bytes}", "split it")
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise BadFrame(path, f"cannot be read ({error.strerror})", "correct its permissions") from None
    except ValueError as error:
        raise BadFrame(path, f"not a JSON file ({error})", "copy it again") from None


def parse_json(data: bytes) -> Any:
    """Parse JSON text; raises ValueError in one line, also for NaN, infinities and nesting that no label file has."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
