"""The seal of an artifact: what its stage wrote, file by file, so that a stage that takes it notices every byte that changed.

A truncated table, a flipped bit in a network's weights or a file that a copy lost would otherwise be read as data. A folder
without a seal (made by hand, or by another tool) is taken as it is; whoever edits an artifact on purpose removes its seal.
"""

import json
from pathlib import Path

from perception.data.files import file_sha256
from perception.errors import InputError

SEAL_FILE = "seal.json"


def write_seal(folder: Path) -> None:
    """Write seal.json into `folder`: size in bytes and sha256 of every file in it, by its path."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    listed = {name: {"size_bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in files.items()}
    listed.pop(SEAL_FILE, None)
    (folder / SEAL_FILE).write_text(json.dumps({"files": listed}, indent=1, sort_keys=True) + "\n")


def is_sealed(folder: Path) -> bool:
    """Say whether a stage wrote the folder, and nobody took its seal off."""
    return (folder / SEAL_FILE).is_file()


def check_seal(folder: Path) -> None:
    """Raise InputError for the first file of a sealed folder that is gone or no longer what its stage wrote.

    Files that were added since are no concern of the seal.
    """
    if not is_sealed(folder):
        return
    for name, (size_bytes, sha256) in _read(folder / SEAL_FILE).items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: is missing, though its stage wrote it; {_remedy(folder)}")
        found = path.stat().st_size
        if found != size_bytes:
            raise InputError(f"{path}: has {found} bytes, its stage wrote {size_bytes}; {_remedy(folder)}")
        try:
            same = file_sha256(path) == sha256
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); {_remedy(folder)}") from None
        if not same:
            raise InputError(f"{path}: its bytes are not what its stage wrote (another sha256); {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"remove {folder} and run its stage again, or remove {SEAL_FILE} if you changed it on purpose"


def _read(path: Path) -> dict[str, tuple[int, str]]:
    try:
        files = json.loads(path.read_text())["files"]
        listed = {str(name): (int(facts["size_bytes"]), str(facts["sha256"])) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: is no seal of an artifact; {_remedy(path.parent)}") from None
    for name in listed:
        if name.startswith("/") or ".." in Path(name).parts or "\0" in name:
            raise InputError(f"{path}: names {name!r}, which lies outside the artifact; {_remedy(path.parent)}")
    return listed
