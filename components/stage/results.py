"""Results that nights have in common, kept in the store under a hash of all that they depend on, whichever engine runs the night.

STORE/results/HASH.json     what the result depends on, and its files by name, each a blob of the store
"""

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from components.stage.records import log
from components.stage.source_hash import source_hashes
from perception.data.documents import open_documents
from perception.data.store import open_store
from perception.errors import InputError, Unreachable

RESULTS = "results"
_LIBRARIES = ("torch", "onnxruntime")  # another version of these may give other digits
_FILE = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]*")


class _Kept(TypedDict):
    depends_on: dict[str, Any]
    files: dict[str, str]  # address of the blob by the file's name


def reuse(
    store: str, stage: str, what: str, depends_on: Mapping[str, Any], folder: Path, make: Callable[[], None]
) -> None:
    """Have the empty `folder` hold a result: an earlier night's that depended on the same, else what `make` writes there.

    What `make` wrote is kept in the store for the nights that follow. depends_on: plain values that with the source of the stage and
    the versions of its libraries decide the result, and so neither dates nor names of nights. what: the result's name in the log.
    Of several processes the first one looks, and all take what it finds. Raises InputError for a store that cannot be used.
    """
    from perception.training.distributed import gather, rank

    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    source = source_hashes({stage: f"components.{stage}"})[stage]
    decides = {**depends_on, "what": what, "source": source, "libraries": versions}
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest() + ".json"
    found = gather(_fetch(store, name) if rank() == 0 else None)[0]
    if found is None:
        make()
        if rank() == 0:
            _keep(store, name, decides, folder)
        return
    log(f"{what}: as an earlier night worked it out ({RESULTS}/{name[:8]} of the store)")
    for file, data in found.items():
        (folder / file).write_bytes(data)


def _fetch(store: str, name: str) -> dict[str, bytes] | None:
    """Return the files of a kept result; None where none is kept, or one of its blobs is gone or damaged."""
    document = open_documents(f"{store}/{RESULTS}").read(name)
    if document is None:
        return None
    blobs, kept = open_store(store), _read(document, f"{store}/{RESULTS}/{name}")
    try:
        return {file: blobs.get(uri) for file, uri in kept["files"].items()}
    except Unreachable:
        raise
    except InputError as error:
        log(f"a kept result is worked out again: {error}")
        return None


def _read(document: bytes, where: str) -> _Kept:
    try:
        kept = TypeAdapter(_Kept).validate_json(document, strict=True)
    except ValidationError:
        raise InputError(f"{where}: is no record of a result; remove it") from None
    for file in kept["files"]:
        if not _FILE.fullmatch(file):
            raise InputError(f"{where}: names file {file!r}, must match {_FILE.pattern}; remove the record")
    return kept


def _keep(store: str, name: str, decides: Mapping[str, Any], folder: Path) -> None:
    blobs = open_store(store)
    files = {path.name: blobs.put(path.read_bytes(), path.suffix[1:]).uri for path in sorted(folder.iterdir())}
    text = json.dumps({"depends_on": decides, "files": files}, indent=1, sort_keys=True) + "\n"
    open_documents(f"{store}/{RESULTS}").write(name, text.encode())
