"""Read MATLAB files through scipy, which reads every version up to 7 and runs nothing in them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

_BYTES_LIMIT = 4 * 2**30


def read_mat(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Read variables by name; raises InputError for a file that is missing, damaged, too large or lacks one of them."""
    from scipy.io import loadmat, whosmat

    if not path.is_file():
        found = "is not a file" if path.exists() else "file is missing"
        raise InputError(f"{path}: {found}; give the path of the data set")
    try:
        found_shapes = {name: shape for name, shape, _ in whosmat(str(path))}
        absent = [name for name in names if name not in found_shapes]
        # The shapes come from headers: what is too large is refused before it is unfolded.
        large = [name for name in names if name in found_shapes and _bytes(found_shapes[name]) > _BYTES_LIMIT]
        content = {} if absent or large else loadmat(str(path), variable_names=names)
    except Exception as error:  # scipy raises many types on damaged files
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{path}: not a readable MATLAB file ({reason}); copy it again") from None
    if absent:
        raise InputError(
            f"{path}: has no variable {absent[0]}, it holds {', '.join(found_shapes)[:120]}; copy it again"
        )
    if large:
        raise InputError(
            f"{path}: variable {large[0]} has more than {_BYTES_LIMIT} values; give the data set's own file"
        )
    arrays = {name: content[name] for name in names if isinstance(content.get(name), np.ndarray)}
    if len(arrays) != len(names):
        raise InputError(f"{path}: {', '.join(names)} must be arrays; copy it again")
    return arrays


def _bytes(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= int(length)
    return size
