"""Make a throw-away clone a DVC working tree that holds only the versions a call needs, and move their files."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from perception.errors import InputError
from perception.versioning.processes import REMOTE_NAME, Clone, DvcProcess, RegistryError, read_committed
from perception.versioning.records import run_folder
from perception.versioning.repository import configured_remote


def prepare(clone: Clone, pointers: Iterable[str] = (), *, verify: bool = True) -> None:
    """Set DVC up in the clone, with the pointers of these versions and no others.

    Only what is needed is there, so DVC's work does not grow with the number of versions.  Hard links save copies: they
    are safe here, and only here: no other process sees this clone, and it is gone before anyone could edit a file.
    """
    dvc = clone.path / ".dvc"
    dvc.mkdir(exist_ok=True)
    (clone.path / ".dvcignore").touch()
    (dvc / "config").write_bytes(read_committed(clone, ".dvc/config") or b"")
    local = (
        "[core]\n    no_scm = true\n"
        '[cache]\n    type = "hardlink,copy"\n'
        f"['remote \"{REMOTE_NAME}\"']\n    verify = {str(verify).lower()}\n"
    )
    endpoint = os.environ.get("NIGHTDRIVE_S3_ENDPOINT")
    if endpoint and configured_remote(clone).startswith("s3://"):
        local += f"    endpointurl = {endpoint}\n"
    (dvc / "config.local").write_text(local)
    for tag in pointers:
        lay_pointer(clone, tag, run_folder(tag))


def lay_pointer(clone: Clone, tag: str, folder: str, revision: str = "HEAD") -> Path:
    """Write a version's frames.dvc into a folder of the clone; raises InputError when the registry has none."""
    content = read_committed(clone, f"{run_folder(tag)}/frames.dvc", revision)
    if content is None:
        raise InputError(f"version {tag} has no frames.dvc in registry {clone.url}: name a version that was published")
    target = clone.path / folder / "frames.dvc"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def pull(dvc: DvcProcess, targets: Sequence[str]) -> None:
    """Pull files or folders of the working tree; raises InputError when the remote lacks some of them."""
    try:
        dvc.command("pull", "--quiet", "--force", *targets)
    except RegistryError as error:
        if "missing" in str(error).lower() or "failed to pull" in str(error).lower():
            raise InputError(f"the remote lacks data of {targets[0]} ({error}); restore it from its backup") from None
        raise


def upload(clone: Clone, dvc: DvcProcess, folder: str, sizes: Mapping[str, int], new: Sequence[str]) -> None:
    """Add, push and check a folder: every object of it lies on the remote, new ones with their exact bytes.

    sizes: bytes of every file of the folder; new: those that lie in the working tree, the others come with a pointer
    that was laid before.  DVC never replaces an object that exists (not even a damaged one) and takes its presence for
    proof, so the check re-hashes what a folder remote holds, compares sizes on any remote, and mends damaged objects.
    """
    appending = (clone.path / f"{folder}.dvc").exists()
    dvc.command("add", "--quiet", *([f"{folder}/{name}" for name in new] if appending else [folder]))
    dvc.command("push", "--quiet")
    rehash = "://" not in configured_remote(clone)
    dvc.step("check", folder=folder, sizes=dict(sizes), new=list(new), rehash=rehash)
