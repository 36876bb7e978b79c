"""Read JSON files that others wrote."""

import json
from pathlib import Path
from typing import Any

from perception.errors import InputError

# The largest label file of the formats read here, COCO's training instances, has 470 MB; BDD100k's boxes have 550 MB.
_BYTES_LIMIT = 2**31


def read_json(path: Path, limit_bytes: int = _BYTES_LIMIT) -> Any:
    """Read a JSON file; raises InputError for one that is missing, too large or no JSON."""
    if not path.is_file():
        found = "is not a file" if path.exists() else "file is missing"
        raise InputError(f"{path}: {found}; give the path of the data set")
    if path.stat().st_size > limit_bytes:
        raise InputError(f"{path}: file has {path.stat().st_size} bytes, more than {limit_bytes}; split it")
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its permissions") from None
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error}); copy it again") from None


def parse_json(data: bytes) -> Any:
    """Parse JSON text; raises ValueError in one line, also for NaN, infinities and nesting that no label file has."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
