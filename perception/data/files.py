"""Write files that appear whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, which is created, flush it to disk and move it into place.

    A process killed at any moment leaves the old file or the new one. Raises OSError once the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacement(path: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; it takes that place once the block ends, and goes when it raises."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
