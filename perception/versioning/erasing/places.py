"""Places where copies lie: folders and buckets, walked in one way."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perception.data.files import replace_file

if TYPE_CHECKING:
    from perception.data.s3 import Bucket


@dataclass(frozen=True)
class FolderPlace:
    """The files below a folder, links left out, and without what lies in some folders of it."""

    root: Path
    without: tuple[Path, ...] = ()

    def names(self) -> Iterator[str]:
        """Yield every file by its path from the root, hidden ones too."""
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = sorted(
                name for name in folders if (here / name) not in self.without and not (here / name).is_symlink()
            )
            for name in sorted(files):
                if not (here / name).is_symlink():
                    yield (here / name).relative_to(self.root).as_posix()

    def read(self, name: str) -> bytes:
        """Return a file's bytes; none of one that went meanwhile."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return b""

    def write(self, name: str, content: bytes) -> None:
        """Put other bytes in a file's place, whole or not at all."""
        replace_file(self.root / name, content)

    def remove(self, name: str) -> None:
        """Remove a file, and its folders as far as they are empty then."""
        path = self.root / name
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

    def size_bytes(self, name: str) -> int:
        """Return a file's size; 0 where there is none."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else 0


@dataclass(frozen=True)
class BucketPlace:
    """The objects below a prefix of a bucket."""

    bucket: "Bucket"

    def names(self) -> Iterator[str]:
        """Yield every object by its key from the prefix."""
        yield from sorted(self.bucket.list(""))

    def read(self, name: str) -> bytes:
        """Return an object's bytes; none of one that went meanwhile."""
        return self.bucket.read(name) or b""

    def write(self, name: str, content: bytes) -> None:
        """Put other bytes in an object's place."""
        import io

        self.bucket.write(name, io.BytesIO(content), len(content))

    def remove(self, name: str) -> None:
        """Remove an object."""
        self.bucket.remove(name)

    def size_bytes(self, name: str) -> int:
        """Return an object's size; 0 where there is none."""
        facts = self.bucket.facts(name)
        return facts[0] if facts else 0


Place = FolderPlace | BucketPlace


def open_place(url: str, without: tuple[Path, ...] = ()) -> Place:
    """Open a folder, which need not exist, or s3://bucket/prefix."""
    if url.startswith("s3://"):
        from perception.data.s3 import (
            open_bucket,
        )  # here, since the client costs half a second that folders need not pay

        return BucketPlace(open_bucket(url, os.environ))
    return FolderPlace(Path(url), without)
