"""The child process that talks to DVC: one line of JSON in for each step, one line of JSON out with its result.

Started by processes.DvcProcess as `python -P dvc_process.py`, in the root of a throw-away clone.  Commands go through
DVC's command line entry point, the most stable surface that it has; only what the command line cannot tell (which
objects lie on the remote, and whether their bytes are right) asks DVC's remote object directly.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 20
_REQUESTS_AT_ONCE = 16


class StepError(Exception):
    """Report a step that ended badly; DVC has already written why to standard error."""


def command(argv: list[str]) -> int:
    """Run one DVC command line, for example ["push", "-q"]; a failing command ends the process."""
    from dvc.cli import main

    code = int(main(argv))
    if code:
        raise StepError(f"dvc {argv[0]} ended with exit {code}")
    return code


@contextmanager
def _remote() -> Iterator[Any]:
    from dvc.repo import Repo

    with Repo(".") as repo:
        yield repo.cloud.get_remote_odb()


def _md5(remote: Any, name: str) -> str | None:
    """Hash an object's bytes as they lie on the remote; None where it is missing."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with remote.fs.open(remote.oid_to_path(name), "rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def _size(remote: Any, name: str) -> int | None:
    try:
        return int(remote.fs.info(remote.oid_to_path(name))["size"])
    except FileNotFoundError:
        return None


def _each(function: Callable[[str], Any], names: Iterable[str]) -> dict[str, Any]:
    ordered = sorted(set(names))
    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        return dict(zip(ordered, pool.map(function, ordered), strict=True))


def _folder_object(pointer: Path) -> str:
    import yaml

    return str(yaml.safe_load(pointer.read_text())["outs"][0]["md5"])


def _listing(remote: Any, pointer: Path) -> dict[str, str]:
    """Read which object holds each file of a folder pointer: {path: object}.

    The pointer is a few lines of YAML and the folder object a JSON list; both are stable since DVC 3.0.
    """
    name = _folder_object(pointer)
    content = remote.fs.cat_file(remote.oid_to_path(name))
    if hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir" != name:
        raise StepError(f"folder object {name} on the remote is damaged")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def check(folder: str, sizes: dict[str, int], new: list[str], rehash: bool) -> dict[str, Any]:
    """Check that the remote holds exactly these files, whole; put damaged objects of new files right.

    sizes: bytes of each file of the folder.  new: files that lie in the working tree.  rehash: read new objects back.
    """
    with _remote() as remote:
        objects_of = _listing(remote, Path(f"{folder}.dvc"))
        if objects_of.keys() != sizes.keys():
            raise StepError(
                f"the pushed folder differs from the version in {sorted(objects_of.keys() ^ sizes.keys())[:5]}"
            )
        for attempt in range(2):
            found = _each(lambda name: _size(remote, objects_of[name]), sizes)
            wrong = [name for name, size in found.items() if size != sizes[name]]
            if rehash:
                hashed = _each(lambda name: _md5(remote, objects_of[name]), set(new) - set(wrong))
                wrong += [name for name, digest in hashed.items() if digest != objects_of[name]]
            if not wrong:
                return {"files": len(sizes), "mended": attempt}
            lost = sorted(set(wrong) - set(new))
            if lost or attempt:
                raise StepError(f"the remote lacks or damaged {(lost or wrong)[0]}; restore it from a backup")
            for name in wrong:
                remote.fs.put_file(str(Path(folder) / name), remote.oid_to_path(objects_of[name]))
    raise AssertionError("unreachable")


def hashes(names: list[str]) -> dict[str, str | None]:
    """Re-hash each object on the remote; None where it is missing.  Folder objects are named by their md5 plus .dir."""
    with _remote() as remote:
        return _each(lambda name: _md5(remote, name), names)


def objects() -> dict[str, list[float]]:
    """List every object on the remote: {name: [bytes, seconds since the epoch of its last change]}."""
    found: dict[str, list[float]] = {}
    with _remote() as remote:
        if not remote.fs.exists(remote.path):
            return found
        listed = remote.fs.fs.find(remote.path, detail=True)
        # A bucket answers with facts; the local file system of DVC gives paths alone.
        for path in listed:
            facts = listed[path] if isinstance(listed, dict) else remote.fs.info(path)
            parts = Path(path).parts
            changed = facts.get("mtime", facts.get("LastModified", 0))
            found["".join(parts[-2:])] = [
                facts["size"],
                changed.timestamp() if hasattr(changed, "timestamp") else changed,
            ]
    return found


def delete(names: list[str]) -> int:
    """Remove objects from the remote."""
    with _remote() as remote:
        _each(lambda name: remote.fs.remove(remote.oid_to_path(name)), names)
    return len(names)


def read(pointer: str, file: str) -> str | None:
    """Read one small text file of a folder from the remote; None where the folder has none of that name."""
    with _remote() as remote:
        name = _listing(remote, Path(pointer)).get(file)
        return None if name is None else remote.fs.cat_file(remote.oid_to_path(name)).decode()


def listings(pointers: list[str]) -> dict[str, dict[str, Any]]:
    """Give the folder object of each pointer and the object of each file: {pointer: {"name", "files": {path: object}}}.

    The files are None where the folder object is missing or damaged.
    """

    def one(pointer: str) -> dict[str, Any]:
        name = _folder_object(Path(pointer))
        try:
            return {"name": name, "files": _listing(remote, Path(pointer))}
        except (FileNotFoundError, StepError):
            return {"name": name, "files": None}

    with _remote() as remote:
        return _each(one, pointers)


_STEPS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (command, check, read, listings, hashes, objects, delete)
}


def main() -> None:
    """Answer steps until the input ends: {"step": name, ...arguments} gives {"result": ...} or {"error": text}."""
    # Whatever DVC prints must not mix with the answers: standard output becomes standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import dvc.cli
    import dvc.repo  # noqa: F401  imported while the parent is still busy with git

    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("step")
        try:
            answer = {"result": _STEPS[name](**request)}
        except Exception as error:  # every failure is the parent's to judge
            answer = {"error": f"{name}: {error}" if isinstance(error, StepError) else f"{name}: {error!r}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
