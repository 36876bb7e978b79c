"""What a version is: its record in the registry, its names, and the hashes that vouch for it."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from perception.errors import InputError
from perception.versioning.processes import Clone, read_committed, read_json

RUN_RULE = "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
TAG_RULE = "^data/[A-Za-z0-9][A-Za-z0-9_-]{0,99}-[0-9a-f]{8}$"
MANIFEST, FILES, RUN, SHARDS = "manifest.parquet", "files.json", "run.json", "shards.json"
RETIRED, PROFILE = "retired.json", "profile.parquet"
CURRENT = "current.json"
FORMAT = 1  # of every record, as it is written today

Record = TypeVar("Record")


class ListedShard(TypedDict):
    """What shards.json says of one shard."""

    name: str
    sha256: str
    size_bytes: int
    frames: int


class ShardList(TypedDict):
    """Hold shards.json, in a version's folder: every shard that it needs, its parent's among them."""

    shards: list[ListedShard]


class Identity(TypedDict):
    """Hold version.json, in a version's folder: what it is, and on which published version it was built."""

    manifest_sha256: str
    parent: str | None


class Published(TypedDict):
    """Hold run.json, in the folder of a version that was fetched."""

    tag: str


@dataclass(frozen=True, kw_only=True)
class Version:
    """A published data version."""

    tag: str  # data/<run>-<first 8 of the manifest's sha256>
    commit: str  # exact commit the tag names
    manifest_sha256: str  # the version's identity
    parent: str | None  # tag of the version it was built on
    run: str  # run that published it
    published_by: str  # author of its commit; may not approve it
    frames: int  # rows of the manifest
    splits: Mapping[str, int]  # frames by split
    test_set_sha256: str  # hash over the frames, images and labels of the test split
    new_bytes: int  # bytes of files that the parent does not hold
    files_sha256: str  # sha256 of files.json
    facts: Mapping[str, str] = field(default_factory=dict)  # what the publisher recorded: code commit, parameters, ...

    @property
    def folder(self) -> str:
        """Give the version's folder in the registry."""
        return run_folder(self.tag)


@dataclass(frozen=True, kw_only=True)
class Current:
    """Hold current.json: the released version, and who released it."""

    tag: str
    commit: str
    manifest_sha256: str
    test_set_sha256: str
    decided_by: tuple[str, ...]
    decided_utc: str
    reason: str
    format: int = FORMAT


def run_folder(tag: str) -> str:
    """Give the folder of a version in the registry."""
    return f"datasets/runs/{tag.removeprefix('data/')}"


def json_bytes(content: Any) -> bytes:
    """Write JSON the one way that equal content has equal bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse_record(content: bytes, kind: type[Record], where: str) -> Record:
    """Read a committed record as a `kind`: a dataclass.

    Raises InputError, with its place, for one that a newer or a much older Nightdrive wrote or that was edited by hand.
    """
    try:
        record = json.loads(content)
        if "format" not in record:
            raise InputError(
                f"{where} has no format number: an older Nightdrive wrote it; bring the registry forward with make migrate"
            )
        check_format(record["format"], where)
        return _reader(kind).validate_json(content)  # type: ignore[arg-type, no-any-return]
    except (ValueError, TypeError, KeyError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"{where} is no record of Nightdrive ({first}): restore it from the registry's history"
        ) from None


def check_format(number: int, where: str) -> None:
    """Raise InputError for the format of a record that a newer Nightdrive wrote."""
    if number > FORMAT:
        raise InputError(
            f"{where} has format {number}, written by a newer Nightdrive; this one reads up to {FORMAT}: update it"
        )


def record_at(clone: Clone, path: str, kind: type[Record], revision: str = "HEAD") -> Record | None:
    """Read a record at a commit of the clone, as parse_record does; None where there is none."""
    content = read_committed(clone, path, revision)
    return None if content is None else parse_record(content, kind, f"{path} of registry {clone.url}")


def current_at(clone: Clone, revision: str = "HEAD") -> Current | None:
    """Read which version is released at a commit of the clone; None while none is."""
    return record_at(clone, CURRENT, Current, revision)


@cache
def _reader(kind: Any) -> Any:
    return TypeAdapter(kind)


def version_of(clone: Clone, tag: str, commit: str) -> Version:
    """Read a version's record at a commit of the clone; raises InputError when the record is not this tag's."""
    record = read_json(clone, f"{run_folder(tag)}/{RUN}", commit)
    if record is None:
        raise InputError(
            f"tag {tag} has no {run_folder(tag)}/{RUN} at commit {commit[:8]}: the tag was moved or made by hand"
        )
    where = f"record of {tag}"
    try:
        check_format(record.pop("format", FORMAT), where)  # tags are write-once: old ones have no number
        version: Version = _reader(Version).validate_python(record | {"commit": commit})
    except (ValueError, TypeError, AttributeError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{where} is none of Nightdrive ({first}): restore it from the registry's history") from None
    # What it says stands in commands that people paste.
    if version.tag != tag or tag != f"data/{version.run}-{version.manifest_sha256[:8]}":
        raise InputError(f"tag {tag} leads to the record of {version.tag}: the tag was moved; restore it")
    if not re.fullmatch(TAG_RULE, tag) or not re.fullmatch("[0-9a-f]{64}", version.manifest_sha256):
        raise InputError(f"{where} has manifest_sha256 {version.manifest_sha256!r}, must be 64 hex digits: restore it")
    return version


def split_sha256(manifest: Path, split: str) -> str:
    """Hash the frame ids, images and labels of one split of a manifest; frames in other splits change nothing."""
    columns = ["frame_id", "image_sha256", "label_sha256"]
    table = pq.read_table(manifest, columns=columns, filters=pc.field("split") == split).sort_by("frame_id")
    digest = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in columns), strict=True):
        digest.update("\t".join(value or "" for value in row).encode() + b"\n")
    return digest.hexdigest()
