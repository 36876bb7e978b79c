"""Write what a registry holds anew, without what is denied: parts of its tables, versions with their shards, proposals."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from perception.data.deny_list import TOLD, DenyList
from perception.data.manifest import read_manifest, write_manifest
from perception.data.shards import read_shard, write_shard
from perception.errors import InputError
from perception.versioning.curated import MEMBERS, VERSION
from perception.versioning.denied import DENIED
from perception.versioning.erasing.search import is_meant
from perception.versioning.growing import Book, entry_file
from perception.versioning.ledger import LEDGER
from perception.versioning.lineage import TAUGHT
from perception.versioning.parts import Part, fetched, put_parts, read_kept
from perception.versioning.pool import ARRIVALS, FRAMES, ORACLE, PROFILE
from perception.versioning.processes import Clone, git_text, read_committed, scratch_folder
from perception.versioning.recorded import PROPOSAL
from perception.versioning.records import FILES, MANIFEST, SHARDS, json_bytes, run_folder
from perception.versioning.registry import ERASED, TOMBSTONES, Erased, erased_at, push_files, version_files
from perception.versioning.remote import FileFacts, Remote, ask_each, file_facts

Files = dict[str, bytes | None]
TABLES = tuple(table.name for table in (ARRIVALS, FRAMES, PROFILE, ORACLE, LEDGER, TAUGHT))


# --- tables that grow


def parts_with(book: Book, denied: DenyList) -> dict[str, list[str]]:
    """Return which tables of which entries have rows that are denied, by the entry's name."""
    found: dict[str, list[str]] = {}
    for entry in book.entries:
        parts = {name: part for name, part in entry.tables.items() if name in TABLES and part.rows}
        with fetched(book.remote, list(parts.values()), book.kept) as paths:
            hit = [
                name
                for name, path in zip(parts, paths, strict=True)
                if cleaned_table(read_kept(path), denied) is not None
            ]
        found |= {entry.name: hit} if hit else {}
    return found


def _denied_rows(rows: pa.Table, denied: DenyList) -> "pd.Series[bool]":
    telling = [
        name
        for name in ("frame_id", "drive_id", "object", "source_sha256", "image_sha256")
        if name in rows.column_names
    ]
    return denied.rows(rows.select(telling).to_pandas())


def rewritten_entries(book: Book, denied: DenyList) -> Files:
    """Bring parts without the denied rows to the remote; return the entries to commit, which keep names and numbers."""
    files: Files = {}
    by_name = {entry.name: entry for entry in book.entries}
    for name, tables in parts_with(book, denied).items():
        parts = [by_name[name].tables[table] for table in tables]
        with fetched(book.remote, parts, book.kept) as paths:
            clean = (cleaned_table(read_kept(path), denied) for path in paths)
            new = {table: rows for table, rows in zip(tables, clean, strict=True) if rows is not None}
            written: dict[str, Part] = put_parts(book.remote, new)
        files |= entry_file(replace(by_name[name], tables={**by_name[name].tables, **written}))
    return files


def cleaned_table(rows: pa.Table, denied: DenyList) -> pa.Table | None:
    """Return a table without rows that are denied, their names masked in what is told of others; None where it has nothing of the kind."""
    gone = _denied_rows(rows, denied)
    clean, changed = rows.filter(pa.array(~gone.to_numpy(bool))), bool(gone.any())
    for name in (name for name in TOLD if name in rows.column_names):
        masked = _masked(clean[name].to_pandas(), denied)
        if masked is not None:
            place = clean.column_names.index(name)
            clean, changed = (
                clean.set_column(place, clean.schema.field(name), pa.array(masked, clean.schema.field(name).type)),
                True,
            )
    return clean if changed else None


def _masked(texts: "pd.Series[str]", denied: DenyList) -> "pd.Series[str] | None":
    new = {text: masked for text in texts.dropna().unique() if (masked := denied.masked(text)) != text}
    return texts.astype(object).map(lambda text: new.get(text, text)) if new else None


def versions_with(clone: Clone, remote: Remote, tags: Sequence[str], denied: DenyList) -> list[str]:
    """Return the versions that hold something denied, or name it in what they tell of other frames."""
    telling = ("frame_id", "drive_id", "image_sha256", "source_sha256", *TOLD)

    def holds(tag: str) -> bool:
        objects, _ = version_files(clone, remote, tag)
        file = pq.ParquetFile(io.BytesIO(remote.read(objects[MANIFEST]) or b""))
        return (
            cleaned_table(file.read([name for name in telling if name in file.schema_arrow.names]), denied) is not None
        )

    return [tag for tag, hit in zip(tags, ask_each(holds, tags), strict=True) if hit]


# --- versions


@dataclass
class VersionRewriter:
    """Write versions anew; a shard that several share once."""

    clone: Clone
    remote: Remote
    denied: DenyList
    erasure: str  # first digits of its plan
    _shards: dict[str, Path | None] = field(default_factory=dict)  # by their object: what is left, None for nothing

    def rewrite(self, tag: str, scratch: Path) -> Files:
        """Bring a version without the denied frames to the remote; return what to commit, nothing where it holds none.

        scratch: a folder for all versions of this rewriter.
        """
        objects, listing = version_files(self.clone, self.remote, tag)
        folder = scratch / tag.removeprefix("data/")
        folder.mkdir()
        before = scratch / f"{folder.name}.parquet"
        before.write_bytes(self._content(objects, MANIFEST))
        frames = read_manifest(before)
        gone = self.denied.rows(frames)
        told = _masked(frames["reason"], self.denied) if "reason" in frames else None
        if not gone.any() and told is None:
            return {}
        frames = frames if told is None else frames.assign(reason=told)
        known = erased_at(self.clone, tag)
        erasures = {**(known.erasures if known else {}), self.erasure: int(gone.sum())}
        manifest_sha256 = write_manifest(frames[~gone].reset_index(drop=True), folder / MANIFEST)
        dropped = self._members(objects, set(frames.frame_id[gone]), folder, scratch)
        (folder / TOMBSTONES).write_bytes(json_bytes(erasures))
        self._small_files(objects, folder, {"manifest_sha256": manifest_sha256, "frames": int((~gone).sum())})
        local = {path.relative_to(folder).as_posix(): file_facts(path) for path in folder.rglob("*") if path.is_file()}
        stays = {
            name: FileFacts(objects[name], facts["sha256"], facts["size_bytes"], facts.get("blake3"))
            for name, facts in listing.items()
            if name not in local and name not in dropped and name != FILES
        }
        pointer, files_sha256 = push_files(self.remote, folder, local, stays)
        record = Erased(erasures=erasures, manifest_sha256=manifest_sha256, files_sha256=files_sha256)
        return {f"{run_folder(tag)}/frames.dvc": pointer, f"{run_folder(tag)}/{ERASED}": json_bytes(asdict(record))}

    def _members(self, objects: Mapping[str, str], gone: set[str], folder: Path, scratch: Path) -> set[str]:
        """Write the shards of frames that go anew, and the tables that list them; return the files that are gone."""
        if MEMBERS not in objects:
            return set()
        members = pd.read_parquet(io.BytesIO(self._content(objects, MEMBERS)))
        shards = json.loads(self._content(objects, SHARDS))["shards"]
        affected = set(members.shard[members.frame_id.isin(gone)])
        (folder / "shards").mkdir()
        new_names: dict[str, str] = {}
        listed = [shard for shard in shards if shard["name"] not in affected]
        for shard in (shard for shard in shards if shard["name"] in affected):
            left = self._shard(objects[f"shards/{shard['name']}"], gone, scratch)
            if left is None:
                continue
            facts = file_facts(left)
            name = new_names[shard["name"]] = f"{facts.sha256[:16]}.tar"
            (folder / "shards" / name).hardlink_to(left)
            held = sum(1 for _ in read_shard(left))
            listed.append({"name": name, "sha256": facts.sha256, "size_bytes": facts.size_bytes, "frames": held})
        stay = members[~members.frame_id.isin(gone)]
        table = pa.table(
            {
                "frame_id": pa.array(stay.frame_id, pa.string()),
                "shard": pa.array(stay.shard.replace(new_names), pa.string()),
            }
        )
        pq.write_table(table, folder / MEMBERS, compression="zstd")
        (folder / SHARDS).write_bytes(json_bytes({"shards": sorted(listed, key=lambda shard: shard["name"])}))
        return {f"shards/{name}" for name in affected}

    def _content(self, objects: Mapping[str, str], name: str) -> bytes:
        content = self.remote.read(objects[name])
        if content is None:
            raise InputError(f"the remote lost {name}; scrub and mend before anything is erased")
        return content

    def _shard(self, name: str, gone: set[str], scratch: Path) -> Path | None:
        """Give what is left of a shard; a shard may hold denied frames that this version no longer lists."""
        if name not in self._shards:
            source, target = scratch / f"{name}.old", scratch / f"{name}.tar"
            source.write_bytes(self._content({name: name}, name))
            left = [
                (key, files)
                for key, files in read_shard(source)
                if key not in gone and not self.denied.names_frame(key)
            ]
            source.unlink()
            if left:
                write_shard(left, target)
            self._shards[name] = target if left else None
        return self._shards[name]

    def _small_files(self, objects: Mapping[str, str], folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the version's other files anew as far as they are about denied frames."""
        for name in (
            name
            for name in objects
            if not name.startswith("shards/") and not (folder / name).exists() and name != FILES
        ):
            content = self._content(objects, name)
            is_about = name == VERSION
            content = json_bytes(json.loads(content) | dict(facts)) if is_about else cleaned(name, content, self.denied)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def cleaned(name: str, content: bytes, denied: DenyList) -> bytes:
    """Return a table or a JSON file without what is denied; raises InputError for another file that names it."""
    if content.startswith(b"PAR1"):
        stay, out = cleaned_table(pq.read_table(io.BytesIO(content)), denied), io.BytesIO()
        if stay is None:
            return content
        pq.write_table(stay, out, compression="zstd")
        return out.getvalue()
    if not is_meant(name, content, denied):
        return content
    try:
        return json_bytes(without(json.loads(content), denied))
    except ValueError:
        raise InputError(
            f"{name}: names what is to be erased, and is neither a table nor JSON; take it out of its version"
        ) from None


# --- JSON


def without(value: Any, denied: DenyList) -> Any:
    """Return a JSON value without what names something denied: the entry of a list, a key with its value, else null."""
    if isinstance(value, dict):
        return {name: without(each, denied) for name, each in value.items() if not _named(name, denied)}
    if isinstance(value, list):
        return [without(each, denied) for each in value if not _named(each, denied) and not _is_row(each, denied)]
    return None if _named(value, denied) else value


def _is_row(value: Any, denied: DenyList) -> bool:
    """Say whether an entry of a list is itself about something denied: a value of its own says so."""
    return isinstance(value, dict) and any(_named(each, denied) for each in value.values())


def _named(value: Any, denied: DenyList) -> bool:
    return isinstance(value, str) and is_meant("", json.dumps([value]).encode(), denied)


def rewritten_proposals(clone: Clone, denied: DenyList) -> Files:
    """Return the proposals that name something denied, without it."""
    paths = git_text(clone, "ls-tree", "-r", "--name-only", "HEAD", "datasets/runs/").splitlines()
    files: Files = {}
    for path in (path for path in paths if path.endswith(f"/{PROPOSAL}")):
        content = read_committed(clone, path) or b""
        if is_meant(path, content, denied):
            files[path] = json_bytes(without(json.loads(content), denied))
    return files


def rewritten(clone: Clone, remote: Remote, book: Book, tags: Sequence[str], denied: DenyList, erasure: str) -> Files:
    """Bring all that changes to the remote; return what to commit: entries, versions and proposals."""
    before = [entry for entry in book.entries if DENIED.name not in entry.tables]
    files = rewritten_entries(replace(book, entries=tuple(before)), denied) | rewritten_proposals(clone, denied)
    with scratch_folder() as scratch:
        rewriter = VersionRewriter(clone, remote, denied, erasure)
        for tag in tags:
            files |= rewriter.rewrite(tag, scratch)
    return files
