"""What a registry records of decisions and networks, and the pointers that follow from them.

decisions/<time>-<action>-<sha8>.json    what somebody decided
current.json, champion.json              the released version and network, as the last decision about them left them
reference.json                           the network that losses over the months are counted from: likewise
models/<sha16>.dvc, .json                a network's files on the remote, and where it came from
datasets/runs/<run>-<sha8>/proposal.json what a night measured about its version, and the network it trained on it
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from perception.errors import InputError
from perception.versioning.processes import Clone, read_all_committed, read_committed
from perception.versioning.records import FORMAT, Current, Version, json_bytes, parse_record, record_at, run_folder

DECISIONS = "decisions"  # the folder with a file for each
CHAMPION, REFERENCE, PROPOSAL = "champion.json", "reference.json", "proposal.json"
MOVES = ("promote", "rollback")  # actions that make a version current
OF_NETWORKS = ("release", "reference")  # actions that say nothing about the version
POLICY_NAME = "release policy"  # decides in place of a person; never the name of whoever publishes
PLAIN_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a file of a network


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What somebody decided about a version."""

    action: (
        str  # approve (the first of two people), promote, release (of the network alone), rollback, reject or reference
    )
    tag: str  # data version it is about
    manifest_sha256: str  # identity of that version, as the person saw it
    names: tuple[str, ...]  # who decided; where the registry is signed the last one signed, the others approved before
    reason: str  # why
    previous: str | None  # tag that was current before
    decided_utc: str  # when, ISO 8601
    model_sha256: str | None = None  # network that is the champion since; None: the decision left it alone
    reference_sha256: str | None = None  # network that is the reference release since; None: likewise
    proposal_sha256: str | None = (
        None  # of the proposal that named that network; None: of an older one, or none was named
    )
    policy: str | None = None  # text of the policy that decided; None: people did
    policy_sha256: str | None = None  # of that text
    format: int = FORMAT

    @property
    def path(self) -> str:
        """Give its file in the registry: in the order of their names decisions are in the order of time."""
        moment = re.sub(r"[^0-9T]", "", self.decided_utc.removesuffix("+00:00"))
        return f"{DECISIONS}/{moment}-{self.action}-{self.manifest_sha256[:8]}.json"


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A network that lies on a registry's remote."""

    model_sha256: str  # hash over names and hashes of the network's files
    files: Mapping[str, str]  # sha256 of each file by name
    tag: str  # data version that the network was trained on
    manifest_sha256: str  # identity of that version
    facts: Mapping[str, str] = field(default_factory=dict)  # run, code commit, parameters, figures
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Champion(StoredModel):
    """The released network, or the reference release: a pointer beside the released data."""

    names: tuple[str, ...]  # who decided so
    reason: str  # why


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a night says for its version: figures that reviews show, and the network trained on it."""

    tag: str  # the version
    manifest_sha256: str  # and its identity
    model_sha256: str | None  # network trained on it; None when the night made none
    evidence: Mapping[str, Any]  # gates, metrics, selection story, label quality, cost
    format: int = FORMAT

    @property
    def sha256(self) -> str:
        """Hash it as the registry holds it: what a reviewer saw, and what a decision names."""
        return hashlib.sha256(json_bytes(asdict(self))).hexdigest()


# --- reading


def recorded_decisions(clone: Clone, commit: str) -> dict[str, Decision]:
    """Give all decisions at a commit of the clone by their files, oldest first."""
    found = sorted(read_all_committed(clone, DECISIONS, commit).items())
    return {path: parse_record(content, Decision, f"{path} of registry {clone.url}") for path, content in found}


def decisions_at(clone: Clone, commit: str) -> list[Decision]:
    """List all decisions at a commit of the clone, oldest first."""
    return list(recorded_decisions(clone, commit).values())


def proposal_at(clone: Clone, tag: str, revision: str = "HEAD") -> Proposal | None:
    """Read a version's proposal at a commit of the clone."""
    return record_at(clone, f"{run_folder(tag)}/{PROPOSAL}", Proposal, revision)


def champion_at(clone: Clone, revision: str = "HEAD") -> Champion | None:
    """Read the released network's pointer at a commit of the clone."""
    return _network_at(clone, CHAMPION, revision)


def reference_at(clone: Clone, revision: str = "HEAD") -> Champion | None:
    """Read the reference release's pointer at a commit of the clone."""
    return _network_at(clone, REFERENCE, revision)


def _network_at(clone: Clone, path: str, revision: str) -> Champion | None:
    network = record_at(clone, path, Champion, revision)
    if network:
        _check_digest(network, f"{path} of registry {clone.url}")
    return network


def model_place(model_sha256: str) -> str:
    """Give the path of a network in the registry, without its suffix."""
    return f"models/{model_sha256[:16]}"


def keeps_model(clone: Clone, model_sha256: str, revision: str = "HEAD") -> bool:
    """Say whether the registry still keeps the files of a network: a retired one has its record alone."""
    return read_committed(clone, f"{model_place(model_sha256)}.dvc", revision) is not None


def model_digest(files: Mapping[str, str]) -> str:
    """Return the hash that a network is known by: over the names and hashes of its files."""
    return hashlib.sha256(json_bytes(files)).hexdigest()


def stored_model_at(clone: Clone, model_sha256: str, revision: str = "HEAD") -> StoredModel:
    """Read the record of a network; raises InputError when the registry has none of that hash."""
    path = f"{model_place(model_sha256)}.json"
    record = record_at(clone, path, StoredModel, revision)
    if record is None or record.model_sha256 != model_sha256:
        raise InputError(f"registry {clone.url} has no model {model_sha256[:16]}; propose it first")
    _check_digest(record, f"{path} of registry {clone.url}")
    return record


def _check_digest(model: StoredModel, where: str) -> None:
    if model_digest(model.files) != model.model_sha256:
        raise InputError(
            f"{where}: its files are those of network {model_digest(model.files)[:16]}, not of {model.model_sha256[:16]} as it says; "
            "restore it from the registry's history"
        )


# --- what follows from a decision


def pointer(version: Version, decision: Decision) -> Current:
    """Return what current.json says after a decision that makes a version current."""
    return Current(
        tag=version.tag,
        commit=version.commit,
        manifest_sha256=version.manifest_sha256,
        test_set_sha256=version.test_set_sha256,
        decided_by=decision.names,
        decided_utc=decision.decided_utc,
        reason=decision.reason,
    )


def released(model: StoredModel, decision: Decision) -> Champion:
    """Return what champion.json or reference.json says after a decision that names a network for it."""
    return Champion(**asdict(model), names=decision.names, reason=decision.reason)
