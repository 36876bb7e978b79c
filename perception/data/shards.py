"""Tar shards in the WebDataset layout: the files of one frame share its key, KEY.jpg, KEY.label.png, KEY.json."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from perception.data.files import is_left_behind, name_key, relative_parts, replace_file
from perception.errors import InputError

_BLOCK_BYTES = 512


def write_shard(members: Iterable[tuple[str, Mapping[str, bytes]]], path: Path) -> str:
    """Write frames as (key, {extension: bytes}) into a tar file; return its sha256.

    Equal members give equal bytes whatever their order: sorted by key and extension, no times, owners or modes of the
    machine. All members of a shard are held in memory. The file appears whole or not at all.
    Raises InputError for a key or extension that is not one plain name, for a repeated key, and for a path that cannot
    be written.
    """
    ordered = sorted(members, key=lambda member: member[0])
    data = io.BytesIO()
    # PAX is plain USTAR for names up to 100 bytes and numbers that fit; only a longer frame_id costs an extra header.
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        previous: str | None = None
        for key, files in ordered:
            _check_key(key, files, previous, path)
            previous = key
            for extension in sorted(files):
                archive.addfile(_member(f"{key}.{extension}", len(files[extension])), io.BytesIO(files[extension]))
    contents = data.getvalue()
    try:
        replace_file(path, contents)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise InputError(f"{path}: {reason}; give a folder with space to write to") from None
    return hashlib.sha256(contents).hexdigest()


def read_shard(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {extension: bytes}) for every frame of a shard, in its order, one frame in memory at a time.

    The key is the name up to the first dot of its last part. Raises InputError for a file that is missing, truncated or
    no tar file, and for a member that is absolute, climbs out of its folder, is a link or device, or comes twice.
    """
    key: str | None = None
    files: dict[str, bytes] = {}
    done: set[str] = set()
    for member, data in _members(path):
        here, extension = member_parts(member.name, path)
        if here != key:
            if key is not None:
                yield key, files
                done.add(key)
            key, files = here, {}
        if extension in files or here in done:
            raise InputError(
                f"{path}: shard holds {member.name} twice or apart from its key; write it with write_shard"
            )
        files[extension] = data
    if key is not None:
        yield key, files


@dataclass(frozen=True)
class MemberPlace:
    """Say where the bytes of a member lie in its tar file."""

    offset_bytes: int
    size_bytes: int


def index_shard(path: Path) -> dict[str, MemberPlace]:
    """List the files of a shard by name, in its order, so that each can be read by itself; raises as read_shard does."""
    found: dict[str, MemberPlace] = {}
    for member, _ in _members(path, contents=False):
        if member.name in found:
            raise InputError(f"{path}: shard holds {member.name} twice; write it with write_shard")
        found[member.name] = MemberPlace(member.offset_data, member.size)
    return found


def read_member(path: Path, place: MemberPlace) -> bytes:
    """Read the bytes of one member; raises InputError for a file that is shorter than its index says."""
    try:
        with path.open("rb") as file:
            file.seek(place.offset_bytes)
            data = file.read(place.size_bytes)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); fetch the data version again") from None
    if len(data) != place.size_bytes:
        raise InputError(f"{path}: shard is truncated; fetch the data version again")
    return data


# --- writing


def _check_key(key: str, files: Mapping[str, bytes], previous: str | None, path: Path) -> None:
    if not key or "." in key or "/" in key or not key.isprintable():
        raise InputError(f"{path}: shard key {key!r} must be one name without dots; use the frame_id")
    if key == previous:
        raise InputError(f"{path}: shard key {key} occurs twice, must be unique; give all its files at once")
    for extension in files:
        if not extension or "/" in extension or extension.startswith(".") or not extension.isprintable():
            raise InputError(
                f"{path}: extension {extension!r} of shard key {key} must be like jpg or label.png; correct it"
            )


def _member(name: str, size_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size_bytes
    member.mode = 0o644
    member.mtime = member.uid = member.gid = 0
    return member


# --- reading


def _members(path: Path, contents: bool = True) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield every file and its bytes, refusing whatever is not a plain file inside the archive's own folder.

    Names come as FOLDER/NAME, however the archiver wrote them (./NAME, FOLDER\\NAME); what systems left behind is skipped.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would keep its reader waiting for ever
            raise InputError(f"{path}: is no file, must be a tar file; fetch the data version again")
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                parts = _checked_parts(member, path)
                if any(map(is_left_behind, parts)):
                    continue
                member.name = name_key("/".join(parts))
                content = archive.extractfile(member) if contents else io.BytesIO()
                assert content is not None, member.name
                yield member, content.read()
            file.seek(archive.offset)
            # tarfile takes a damaged header in the middle for the end; the real end is a block of zeros.
            if file.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
                raise tarfile.ReadError("no end of archive")
    except FileNotFoundError:
        raise InputError(f"{path}: shard is missing; fetch the data version again") from None
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: shard is truncated or damaged ({error}); fetch the data version again") from None


def _checked_parts(member: tarfile.TarInfo, path: Path) -> tuple[str, ...]:
    # The type and not isreg(): a sparse file counts as regular and can unfold to any size.
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise InputError(
            f"{path}: shard member {member.name!r} is a link, device or sparse file; write it with write_shard"
        )
    try:
        return relative_parts(member.name)
    except ValueError:
        raise InputError(
            f"{path}: shard member {member.name!r} leads out of the shard; write it with write_shard"
        ) from None


def member_parts(name: str, path: Path) -> tuple[str, str]:
    """Split a member's name into its key, up to the first dot of its last part, and its extension; raises InputError."""
    folder, _, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    if not stem or not dot or not extension:
        raise InputError(f"{path}: shard member {name!r} must be called KEY.EXTENSION; write it with write_shard")
    return f"{folder}/{stem}" if folder else stem, extension
