"""List folders and read text that any system or tool left, and write files that appear whole or not at all."""

import codecs
import hashlib
import os
import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath

# Beside hidden files: what macOS' archiver, network storage and Windows put beside other people's files.
_SYSTEM_NAMES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini")


def is_left_behind(name: str) -> bool:
    """Tell whether a system put a file or folder of this name beside the data: ._NAME, .DS_Store, __MACOSX, ..."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def names_in(folder: Path, *, folders: bool = False) -> list[str]:
    """List the names in a folder, or of its folders alone, sorted; what systems left behind is left out."""
    with os.scandir(folder) as entries:
        names = sorted(each.name for each in entries if not is_left_behind(each.name))
    return [name for name in names if (folder / name).is_dir()] if folders else names


def paths_below(folder: Path) -> list[Path]:
    """List the files and folders below a folder, sorted; what systems left behind is left out with all that it holds."""
    below = ((path, path.relative_to(folder).parts) for path in folder.rglob("*"))
    return sorted(path for path, parts in below if not any(map(is_left_behind, parts)))


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, with or without a byte order mark, or UTF-16 with one; raises OSError, ValueError."""
    data = path.read_bytes()
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def name_key(name: str) -> str:
    """Return a name in the form in which names are compared: macOS takes é apart into e and an accent, others do not."""
    return unicodedata.normalize("NFC", name)


def named_stem(name: str) -> str:
    """Return the stem of a file that a tool of any system names, with folders before it or none, as name_key."""
    return name_key(PureWindowsPath(name).stem)


def relative_parts(name: str) -> tuple[str, ...]:
    """Split a relative file name that a tool of any system wrote, with / or \\ between its folders.

    Raises ValueError for one that leads out of its folder or names nothing.
    """
    path = PureWindowsPath(name)
    if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(name)
    return path.parts


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
    """Yield an empty temporary file beside `path`; it takes that place once the block ends, and goes when it raises.

    mode: of the file, less what the umask takes away.
    """
    temporary = path.parent / f".new-{secrets.token_hex(8)}{path.suffix}"
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode | 0o200))
    mode &= temporary.stat().st_mode
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
