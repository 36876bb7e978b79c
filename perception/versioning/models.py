"""Networks beside the data that taught them: proposed by a night, released by people, fetched by the next night."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perception.data.deny_list import digest
from perception.data.files import paths_below
from perception.errors import InputError
from perception.versioning.processes import Clone, check_empty, read_committed
from perception.versioning.recorded import (
    PLAIN_NAME,
    PROPOSAL,
    Champion,
    Proposal,
    StoredModel,
    champion_at,
    model_digest,
    model_place,
    proposal_at,
    reference_at,
)
from perception.versioning.records import Version, json_bytes
from perception.versioning.registry import resolve
from perception.versioning.remote import (
    Proof,
    file_facts,
    get_files,
    open_remote,
    pointed_at,
    pointer_text,
    put_files,
    put_folder,
    read_folder,
)
from perception.versioning.repository import configured_remote, push_commit, trailers
from perception.versioning.verified import verified_clone


def propose(
    registry: str | Path,
    revision: str,
    evidence: Mapping[str, Any],
    *,
    model: Path | None = None,
    facts: Mapping[str, str] | None = None,
) -> Proposal:
    """Record what a night found out about its version, and keep the network that it trained; releases nothing.

    model: a file, or a flat folder of files.  Of frames and drives in `evidence` git keeps the hash of their names, so that its history
    holds nothing that an erasure would have to take out.  The same call again changes nothing.
    Raises InputError for an unknown version or a network without files.
    """
    version = resolved(registry, revision)
    with verified_clone(registry) as clone:
        stored, files = store_model(clone, model, version, facts) if model else (None, {})
        proposal = Proposal(
            tag=version.tag,
            manifest_sha256=version.manifest_sha256,
            model_sha256=stored.model_sha256 if stored else None,
            evidence=renamed(json.loads(json_bytes(evidence)), digest),
        )
        path, content = f"{version.folder}/{PROPOSAL}", json_bytes(asdict(proposal))
        message = trailers(
            f"Propose {version.tag}",
            "",
            run_id=version.run,
            manifest_sha256=version.manifest_sha256,
            model_sha256=proposal.model_sha256,
        )

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            if read_committed(clone, path, head) == content:
                return None
            return {path: content, **files}, message

        push_commit(clone, changes)
    return proposal


def renamed(value: Any, name_of: Callable[[str], str]) -> Any:
    """Return evidence with other names for the frames and drives that its rows name: columns frame_id and drive_id."""
    if isinstance(value, list):
        return [renamed(each, name_of) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: name_of(each) if key in ("frame_id", "drive_id") and isinstance(each, str) else renamed(each, name_of)
        for key, each in value.items()
    }


def read_proposal(registry: str | Path, tag: str) -> Proposal | None:
    """Read what was proposed with a version; None where its night did not get that far."""
    with verified_clone(registry) as clone:
        return proposal_at(clone, tag)


def judged_against_another(proposal: Proposal, champion: Champion | None, reference: Champion | None) -> str:
    """Say which of the two, champion or reference release, was another one when the verdict on a proposed network was made.

    Empty where neither was, where no verdict was recorded, and where the network is the champion.
    """
    evaluation = proposal.evidence.get("evaluation")
    if not evaluation or (champion and champion.model_sha256 == proposal.model_sha256):
        return ""
    compared = (evaluation.get("comparison") or {}).get("champion_sha256")
    if compared != (champion.files.get("model.onnx") if champion else None):
        return "champion"
    compared = (evaluation.get("promotion") or {}).get("reference")
    return "reference release" if compared != (reference.files.get("model.onnx") if reference else None) else ""


def resolved(registry: str | Path, revision: str) -> Version:
    """Resolve a version that must exist."""
    version = resolve(registry, revision)
    if version is None:
        raise InputError(f"registry {registry} has no current version; name a tag or a run")
    return version


def store_model(
    clone: Clone, model: Path, version: Version, facts: Mapping[str, str] | None
) -> tuple[StoredModel, dict[str, bytes | None]]:
    """Bring a network's files to the remote; return its record and the files to commit."""
    sources = [model] if model.is_file() else [path for path in paths_below(model) if path.is_file()]
    if not sources or any(not re.fullmatch(PLAIN_NAME, path.name) for path in sources):
        raise InputError(f"model {model} must be a file or a folder of files with plain names")
    found = {path: file_facts(path) for path in sources}
    hashes = {path.name: facts.sha256 for path, facts in found.items()}
    if len(hashes) != len(sources):
        raise InputError(f"model {model} holds two files of one name; give a flat folder")
    stored = StoredModel(
        model_sha256=model_digest(hashes),
        files=hashes,
        tag=version.tag,
        manifest_sha256=version.manifest_sha256,
        facts={str(key): str(value) for key, value in sorted((facts or {}).items())},
    )
    remote, place = open_remote(configured_remote(clone)), model_place(stored.model_sha256)
    put_files(remote, found)
    name = put_folder(remote, {path.name: facts.md5 for path, facts in found.items()})
    size_bytes = sum(facts.size_bytes for facts in found.values())
    pointer = pointer_text(place.rpartition("/")[2], name, len(found), size_bytes)
    return stored, {f"{place}.dvc": pointer, f"{place}.json": json_bytes(asdict(stored))}


def champion(registry: str | Path) -> Champion | None:
    """Read which network is released; None while none is."""
    with verified_clone(registry) as clone:
        return champion_at(clone)


def reference(registry: str | Path) -> Champion | None:
    """Read which network is the reference release; None while nobody has set one."""
    with verified_clone(registry) as clone:
        return reference_at(clone)


def fetch_network(
    registry: str | Path, destination: Path, pointer_at: Callable[[Clone], Champion | None] = champion_at
) -> Champion | None:
    """Fetch a network's files into a folder that appears whole, checked by sha256; None while there is none.

    pointer_at: gives its pointer, of a clone.
    Raises InputError when the remote lacks a file or holds other bytes, or the destination holds something.
    """
    check_empty(destination, "remove it or fetch into another folder")
    with verified_clone(registry, scratch=destination.absolute().parent) as clone:
        found = pointer_at(clone)
        if found is None:
            return None
        remote = open_remote(configured_remote(clone))
        pointer = read_committed(clone, f"{model_place(found.model_sha256)}.dvc")
        objects = read_folder(remote, pointed_at(pointer)) if pointer else None
        folder = clone.path / "fetched"
        folder.mkdir()
        bad = get_files(
            remote, objects or {}, {name: Proof("sha256", value) for name, value in found.files.items()}, folder
        )
        if bad:
            raise InputError(
                f"{bad[0]} of network {found.model_sha256[:16]} is missing on the remote or not what was released; restore it"
            )
        folder.replace(destination)
    return found
