"""Failures of the machine and not of the program: a full or read-only disk, no memory, a broken GPU, each told in one line."""

import errno
import re
from collections.abc import Iterator

_DISK = {
    errno.ENOSPC: "the disk is full; make room, or give folders on another disk",
    errno.EDQUOT: "the disk quota is used up; make room, or give folders on another disk",
    errno.EROFS: "the file system is read-only; give a folder that can be written",
    errno.EIO: "the disk gave a read or write error; look at the machine's log, and use another disk",
}
# Libraries in C++ and Rust put the system's words into errors of their own.
_DISK_WORDS = {
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "Input/output error": errno.EIO,
}
_GPU_TYPES = {"OutOfMemoryError", "AcceleratorError", "CudaError"}
_GPU_WORDS = re.compile(
    r"CUDA error|CUDA out of memory|CUDA driver|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|NCCL error|NVML"
)
_GPU_REMEDY = "run the task on another machine, or hide the GPU with CUDA_VISIBLE_DEVICES= to run on the CPU"
_GPU_MEMORY_REMEDY = "give the stage smaller batches (batch_frames) or a GPU with more memory"


def machine_failure(error: BaseException) -> str | None:
    """Return one line that names what of the machine failed, and what to do; None for every other error.

    Looks through the errors that led to `error`.
    """
    for each in _chain(error):
        said = _disk(each) or _memory(each) or _gpu(each)
        if said:
            return said
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if number not in _DISK:
        number = next((code for words, code in _DISK_WORDS.items() if words in str(error)), None)
    if number is None:
        return None
    place = getattr(error, "filename", None)
    return f"{f'{place}: ' if place else ''}{_DISK[number]} ({_first_line(error)})"


def _memory(error: BaseException) -> str | None:
    if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
        return None
    return f"the machine is out of memory ({_first_line(error)}); give the task more, or smaller batches (batch_frames)"


def _gpu(error: BaseException) -> str | None:
    if type(error).__name__ not in _GPU_TYPES and not (
        isinstance(error, RuntimeError) and _GPU_WORDS.search(str(error))
    ):
        return None
    remedy = _GPU_MEMORY_REMEDY if "out of memory" in str(error) else _GPU_REMEDY
    return f"the GPU failed ({_first_line(error)}); {remedy}"


def _first_line(error: BaseException) -> str:
    return " ".join((str(error).splitlines() or [type(error).__name__])[0].split()) or type(error).__name__
