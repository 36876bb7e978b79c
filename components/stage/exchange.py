"""What the tasks of a run on Kubeflow give each other: folders, each packed into one object in the store, below the run's name.

Kubeflow would carry them as artifacts, but every artifact that a step takes costs 6 kB of the one object that a run is kept in
and that may hold 1 MiB; an exit handler gets none, and neither do the pods of a job. Outside a cluster, under kfp.local, the
folders of a run lie side by side, and nothing is packed.
"""

import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.stage.kubernetes_api import HOST_VARIABLE
from perception.errors import InputError

if TYPE_CHECKING:
    from perception.data.s3 import Bucket

PREFIX = "given"  # of the objects, in the store
PART_BYTES = 64 * 2**20  # of a packed folder, which may hold a data version, in memory at once
WHOLE = "whole"  # the object of a folder that is not given share by share
_TAKEN = re.compile(r"([a-z_]+)\.([a-z_]+)(?:/([0-9]+))?")


@dataclass(frozen=True)
class Given:
    """Name one folder that a task gives at one of its ports."""

    task: str
    port: str
    share: str = ""  # number of its batch or shard; empty: the whole

    @property
    def path(self) -> str:
        """Return where it lies below the folders of the run."""
        return "/".join(part for part in (self.task, self.port, self.share) if part)


def taken(text: str) -> Iterator[Given]:
    """Yield the folders that `task.port`, or `task.port/COUNT` for so many shares, names; raises ValueError for no such text."""
    found = _TAKEN.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} as what is taken")
    task, port, count = found.groups()
    if count is None:
        yield Given(task, port)
    else:
        yield from (Given(task, port, str(number)) for number in range(int(count)))


class Exchange(Protocol):
    """Bring folders from task to task."""

    @property
    def root(self) -> Path:
        """Return where the folders of the run lie on this machine, as far as they do."""

    def fetch(self, given: Given) -> bool:
        """Have a folder lie below `root`; False where no task has given it."""

    def holds(self, given: Given) -> bool:
        """Say whether a folder was given."""

    def send(self, given: Given) -> None:
        """Give a folder to other tasks, whole or not at all, in place of an earlier one."""

    def uri(self, given: Given) -> str:
        """Return where others find it."""


def run_of(output_file: Path) -> str:
    """Return the id of the run on a cluster whose step writes its executor output there: Kubeflow puts it at RUN/TASK/ID/FILE."""
    return output_file.parents[2].name


def open_exchange(store: str, output_file: Path) -> Exchange:
    """Return the exchange of this run; raises InputError for a store on a cluster that pods cannot share.

    store: of the night. output_file: of the step, which kfp.local puts at RUN/TASK/FILE.
    """
    if HOST_VARIABLE not in os.environ:
        return FolderExchange(output_file.parents[1])
    if not store.startswith("s3://"):
        raise InputError(
            f"store {store}: is no place that the pods of a cluster share; set common.store=s3://BUCKET/PREFIX"
        )
    from perception.data.s3 import open_bucket  # here, since the client costs half a second that folders need not pay

    below = f"{PREFIX}/{run_of(output_file)}"
    return S3Exchange(Path(tempfile.gettempdir()) / below, open_bucket(f"{store}/{below}", os.environ))


@dataclass(frozen=True)
class FolderExchange:
    """Find every folder of the run where its task left it."""

    root: Path

    def fetch(self, given: Given) -> bool:
        """Look whether it is there."""
        return self.holds(given)

    def holds(self, given: Given) -> bool:
        """Look whether it is there."""
        return (self.root / given.path).is_dir()

    def send(self, given: Given) -> None:
        """Leave it where it is."""

    def uri(self, given: Given) -> str:
        """Return its path."""
        return str(self.root / given.path)


@dataclass(frozen=True)
class S3Exchange:
    """Pack folders into objects of a bucket; S3 itself makes an upload appear whole or not at all."""

    root: Path
    bucket: "Bucket"

    def fetch(self, given: Given) -> bool:
        """Download and unpack it, unless it is here already."""
        folder = self.root / given.path
        if folder.is_dir():
            return True
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            packed, unpacked = Path(scratch) / "packed", Path(scratch) / "unpacked"
            with packed.open("wb") as file:
                found = self.bucket.read_blocks(_key(given), file.write)
            if found:
                with tarfile.open(packed) as archive:
                    archive.extractall(unpacked, filter="data")  # no member leaves the folder
                unpacked.replace(folder)
        return found

    def holds(self, given: Given) -> bool:
        """Ask for the object's head."""
        return self.bucket.facts(_key(given)) is not None

    def send(self, given: Given) -> None:
        """Pack and upload it."""
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            packed = Path(scratch) / "packed"
            with tarfile.open(packed, "w") as archive:
                archive.add(self.root / given.path, arcname=".")
            with packed.open("rb") as file:
                self.bucket.write(_key(given), file, packed.stat().st_size, PART_BYTES)

    def uri(self, given: Given) -> str:
        """Return the object's address, behind a scheme that Kubeflow does not take for a folder of its own."""
        return f"packed+{self.bucket.url}/{_key(given)}"


def _key(given: Given) -> str:
    return f"{given.task}/{given.port}/{given.share or WHOLE}.tar"
