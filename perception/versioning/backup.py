"""A registry as a folder that can be carried away, and the way back: its history, what lies on its remote, a list of the store's blobs.

registry.bundle   git's whole history: versions, decisions, entries, nights
remote/           every object that these need, in DVC's layout
blobs.txt         what the store must hold for the frames of the pool, an address a line: files of the store, not copied here
backup.json       what is here; written last
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from perception.data.files import file_sha256
from perception.errors import InputError
from perception.versioning.growing import Book, book_at, read_table
from perception.versioning.pool import FRAMES, ORACLE
from perception.versioning.processes import check_empty, git_text, run_git, scratch_folder
from perception.versioning.records import FORMAT, json_bytes, parse_record
from perception.versioning.remote import FolderRemote, copy_objects, open_remote
from perception.versioning.repository import configured_remote, restore_registry
from perception.versioning.upkeep import needed_objects, versions_at
from perception.versioning.verified import verified_clone

BUNDLE, OBJECTS, BLOBS, RECORD = "registry.bundle", "remote", "blobs.txt", "backup.json"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """Hold backup.json: what a backup is of."""

    commit: str  # head of the registry's history
    remote: str  # where its data lay
    objects: int  # of the remote
    bytes: int  # their size
    blobs: int  # lines of blobs.txt
    bundle_sha256: str
    format: int = FORMAT


def backup(registry: str, out: Path) -> Backup:
    """Write a registry and all that its remote holds for it into a new folder, which appears whole; return what it is.

    Raises InputError for a folder that holds something, and an object that the remote lost or damaged.
    """
    check_empty(out, "back up into a new folder")
    with scratch_folder(out.absolute().parent, prefix=f".{out.name}-") as scratch:
        folder = scratch / "backup"
        folder.mkdir()
        with verified_clone(registry, whole=True) as clone:
            run_git(clone, "bundle", "create", "--quiet", str(folder / BUNDLE), "main", "--tags")
            url = configured_remote(clone)
            remote, copies = open_remote(url), FolderRemote(str(folder / OBJECTS))
            needed = needed_objects(clone, remote, versions_at(clone), whole=True)
            bad = copy_objects(remote, copies, needed)
            if bad:
                raise InputError(
                    f"the remote {url} lost or damaged {bad[0]} ({needed[bad[0]]}); make scrub lists what to mend"
                )
            record = Backup(
                commit=git_text(clone, "rev-parse", "HEAD"),
                remote=url,
                objects=len(needed),
                bytes=sum(stored.size_bytes for stored in copies.objects().values()),
                blobs=_write_blobs(book_at(clone), folder / BLOBS),
                bundle_sha256=file_sha256(folder / BUNDLE),
            )
        (folder / RECORD).write_bytes(json_bytes(asdict(record)))
        folder.replace(out)
    return record


def _write_blobs(book: Book, file: Path) -> int:
    count = 0
    with file.open("w") as lines:
        for uri in _blobs(book):
            lines.write(f"{uri}\n")
            count += 1
    return count


def _blobs(book: Book) -> Iterator[str]:
    """Yield what the store holds of every frame, entry by entry: the pool is never in memory as a whole."""
    for entry in book.entries:
        for table in (FRAMES, ORACLE):
            names = [name for name in table.schema.names if name.endswith("_uri")]
            rows = read_table(book.only(entry), table, columns=names)
            yield from (uri for name in names for uri in rows[name].dropna())


def restore(folder: Path, registry: str, remote: str) -> Backup:
    """Create a registry, and fill its remote, from a backup; return what the backup is of.

    registry: new folder, or URL of an empty repository. remote: folder or s3://bucket/prefix; empty: where it was.
    Raises InputError for a backup that is not whole, and for a place that holds another registry.
    """
    try:
        content = (folder / RECORD).read_bytes()
    except OSError:
        raise InputError(
            f"{folder} has no {RECORD}, so it is no whole backup; name a folder that make backup wrote"
        ) from None
    record = parse_record(content, Backup, str(folder / RECORD))
    if not (folder / BUNDLE).is_file() or file_sha256(folder / BUNDLE) != record.bundle_sha256:
        raise InputError(f"{folder / BUNDLE} is not what was backed up (sha256); take another backup")
    copies, url = FolderRemote(str(folder / OBJECTS)), remote or record.remote
    held = copies.objects()
    bad = copy_objects(copies, open_remote(url), held)
    if bad or len(held) != record.objects:
        named = f"object {bad[0]} is damaged" if bad else f"{record.objects - len(held)} objects are missing"
        raise InputError(f"{folder / OBJECTS}: {named}; take another backup")
    restore_registry(registry, folder / BUNDLE, url)
    return record
