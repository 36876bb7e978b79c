"""Parts of tables that grow: Parquet files on a registry's remote by content, and what a machine keeps of them.

With a folder to keep things in, a table of n parts is not read as n files.  Whole tables are read as blocks of 1, 2, 4 ... parts, at
most log2(n) of them; where a part holds a value is told by an index: for each block the hashes of a column, sorted.  A block is
made once, of its two halves, so that a night makes what is new.  Whatever is kept is derived from the parts, named by
their hashes, and may be removed at any time.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from perception.data.files import replace_file, replacement
from perception.errors import InputError
from perception.versioning.processes import scratch_folder
from perception.versioning.remote import Proof, each_file, file_facts, get_files, has_proof, open_remote, put_files

_DIGEST_BYTES = 32
_Index = tuple[
    NDArray[np.uint64], NDArray[np.int32]
]  # hashes of a column, sorted, and of each the part, within the block
_LARGE_PAGES = {"data_page_size": 1 << 26, "max_rows_per_page": 1 << 24}  # whole columns are read, twice as fast


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows that one entry adds to a table."""

    rows: int
    size_bytes: int  # of the Parquet file
    md5: str  # its name on the remote
    sha256: str  # vouches for its bytes, as blake3 does, which is checked sooner
    blake3: str


def put_parts(remote: str, tables: Mapping[str, pa.Table]) -> dict[str, Part]:
    """Bring rows to the remote, proved there; return the part that each table became.  Equal rows are the same part."""
    with scratch_folder() as scratch:
        for name, rows in tables.items():
            _write(rows, scratch / name)
        facts = {name: file_facts(scratch / name) for name in tables}
        put_files(open_remote(remote), {scratch / name: each for name, each in facts.items()})
    return {
        name: Part(
            rows=len(tables[name]),
            size_bytes=each.size_bytes,
            md5=each.md5,
            sha256=each.sha256,
            blake3=str(each.blake3),
        )
        for name, each in facts.items()
    }


def _write(rows: pa.Table, path: Path) -> None:
    pq.write_table(rows, path, compression="zstd", write_page_checksum=True)


@contextmanager
def fetched(remote: str, parts: Sequence[Part], kept: Path | None) -> Iterator[list[Path]]:
    """Yield the files of parts, each proved by its hash; those that lie in the folder `kept` are not fetched again.

    Raises InputError when the remote lost a part or holds other bytes.
    """
    with scratch_folder(kept, prefix=".fetch-") as scratch:
        folder = kept or scratch
        proofs = {part.sha256: Proof("blake3", part.blake3) for part in parts}
        there = each_file(lambda name: (folder / name).is_file() and has_proof(folder / name, proofs[name]), proofs)
        missing = {name: proofs[name] for name, held in zip(proofs, there, strict=True) if not held}
        if missing:
            objects = {part.sha256: part.md5 for part in parts}
            bad = get_files(open_remote(remote), objects, missing, scratch / "new")
            if bad:
                raise InputError(
                    f"the remote {remote} lost or changed part {bad[0][:16]} of the registry's tables; restore it from its backup"
                )
        for name in missing:
            (scratch / "new" / name).replace(folder / name)
        yield [folder / part.sha256 for part in parts]


# --- what a machine keeps


def in_blocks(remote: str, parts: Sequence[Part], kept: Path) -> list[Path]:
    """Return files that hold the rows of all parts in their order, few however many the parts are."""
    return [_block(remote, parts[start:end], kept) for start, end in _ranges(len(parts))]


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    """Divide 0..count into ranges whose lengths are powers of two, the longest first: a longer list begins with the same ones."""
    start = 0
    for bit in reversed(range(count.bit_length())):
        if count >> bit & 1:
            yield start, start + (1 << bit)
            start += 1 << bit


def _halves(parts: Sequence[Part]) -> tuple[Sequence[Part], Sequence[Part]]:
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def _block(remote: str, parts: Sequence[Part], kept: Path) -> Path:
    if len(parts) == 1:
        with fetched(remote, parts, kept) as paths:
            return paths[0]
    path = kept / f"rows-{_digest(parts)}"
    if not path.exists():
        halves = [read_kept(_block(remote, half, kept)) for half in _halves(parts)]
        _keep(pa.concat_tables(halves, promote_options="permissive"), path)
    return path


def holding(remote: str, parts: Sequence[Part], column: str, values: Collection[str], kept: Path) -> list[int]:
    """Return the numbers of the parts that may hold one of these values in a column: all that do, and hardly another."""
    wanted, found = np.unique(_hashes(list(values))), set()
    for start, end in _ranges(len(parts)):
        hashes, places = _index(remote, parts[start:end], column, kept)
        first, last = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        for one, end_of_one in zip(first[last > first], last[last > first], strict=True):
            found.update((start + places[one:end_of_one]).tolist())
    return sorted(found)


def _index(remote: str, parts: Sequence[Part], column: str, kept: Path) -> _Index:
    """Return a block's index, from the file that keeps it where there is one."""
    path = kept / f"hashes-{_digest(parts, column, pd.__version__)}"  # hashes are those of this pandas
    if path.exists():
        return _read_index(path)
    if len(parts) == 1:
        with fetched(remote, parts, kept) as paths:
            values = read_kept(paths[0], [column])[column].drop_null().to_pylist()
        hashes, places = _hashes(values), np.zeros(len(values), np.int32)
    else:
        (low, of_low), (high, of_high) = (_index(remote, half, column, kept) for half in _halves(parts))
        hashes = np.concatenate([low, high])
        places = np.concatenate([of_low, of_high + np.int32(len(parts) // 2)])
    order = np.argsort(hashes, kind="stable")
    index = hashes[order], places[order]
    _keep_index(index, path)
    return index


def _keep_index(index: _Index, path: Path) -> None:
    """Write the digest of what follows, the hashes, and the parts: a night reads all of an index, which Parquet makes dear."""
    from blake3 import blake3

    content = b"".join(column.tobytes() for column in index)
    replace_file(path, blake3(content).digest() + content)


def _read_index(path: Path) -> _Index:
    from blake3 import blake3

    data = memoryview(path.read_bytes())
    proof, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if blake3(content).digest() != proof:
        raise InputError(f"{path}: is damaged; remove the folder, it is filled again")
    rows = len(content) // 12
    return np.frombuffer(content, np.uint64, rows), np.frombuffer(content, np.int32, rows, 8 * rows)


def _hashes(values: list[Any]) -> NDArray[np.uint64]:
    return pd.util.hash_array(np.array(values, dtype=object), categorize=False)


def _digest(parts: Sequence[Part], *more: str) -> str:
    return hashlib.sha256("\n".join([*more, *(part.sha256 for part in parts)]).encode()).hexdigest()


def _keep(rows: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as temporary:
        pq.write_table(
            rows, temporary, compression="none", use_dictionary=False, write_page_checksum=True, **_LARGE_PAGES
        )


def read_kept(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file that this machine keeps, of the named columns those that it has; raises InputError where it is damaged."""
    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            return file.read(columns=names).select(names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is damaged ({reason}); remove the folder, it is filled again") from None
