"""Look after a registry's remote: re-hash what lies there, and retire versions that nobody needs, dry run first."""

import hashlib
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perception.errors import InputError
from perception.parameters import Count, Days, checked
from perception.versioning.growing import entry_objects
from perception.versioning.processes import Clone, git_text, paths_in, read_committed
from perception.versioning.recorded import CHAMPION, REFERENCE, champion_at, decisions_at, reference_at
from perception.versioning.records import (
    CURRENT,
    FORMAT,
    RETIRED,
    Version,
    current_at,
    json_bytes,
    run_folder,
    version_of,
)
from perception.versioning.registry import erased_at
from perception.versioning.remote import Remote, ask_each, each_file, open_remote, pointed_at, read_folder
from perception.versioning.repository import configured_remote, push_commit, trailers
from perception.versioning.verified import published, verified_clone


@dataclass(frozen=True, kw_only=True)
class ScrubReport:
    """What a look at the remote found."""

    versions: int  # versions that the registry holds
    objects: int  # objects that they need
    bytes: int  # size of these objects
    checked: tuple[str, ...]  # objects that were read back and hashed
    missing: Mapping[str, str]  # objects that are not there: one file of one version that needs each
    damaged: Mapping[str, str]  # objects whose bytes do not match their name: likewise
    unknown_objects: int  # objects that no version needs: of killed calls, retired versions or another registry
    unknown_bytes: int  # their size

    @property
    def is_clean(self) -> bool:
        """Say whether every needed object is there and every checked one is whole."""
        return not (self.missing or self.damaged)


@checked
class RetentionPolicy:
    """Which versions to keep, beside every version that was ever current, the champion's and the newest."""

    keep_days: Days = 30  # younger versions stay
    # objects that changed more recently stay, whatever needs them: a publish may be running
    grace_hours: Count = 48


@dataclass(frozen=True, kw_only=True)
class RetentionPlan:
    """What a retention run would do; applying it needs its hash."""

    retired: tuple[str, ...]  # tags whose data would go
    kept: Mapping[str, str]  # tags that stay, and why
    objects: tuple[str, ...]  # objects that would be removed
    bytes: int  # their size

    @property
    def sha256(self) -> str:
        """Hash the plan, so that exactly what was looked at is what is done."""
        return hashlib.sha256(json_bytes([self.retired, self.objects])).hexdigest()


def versions(registry: str | Path) -> list[Version]:
    """List the versions that a registry holds, oldest first; retired ones are left out."""
    with verified_clone(registry, whole=True) as clone:
        return versions_at(clone)


def versions_at(clone: Clone) -> list[Version]:
    """List the versions that a clone of the whole history holds, as versions does."""
    folders = git_text(clone, "ls-tree", "-r", "--name-only", "HEAD", "datasets/runs/").splitlines()
    present = {f"data/{Path(path).parent.name}" for path in folders if path.endswith("/frames.dvc")}
    return [version_of(clone, tag, commit) for tag, commit in published(clone).items() if tag in present]


def scrub(registry: str | Path, *, sample: int | None, seed: int) -> ScrubReport:
    """Check that the remote holds every object of every version, and re-hash some of them.

    sample: how many objects to read back, drawn by `seed` (so that nights together reach all); None reads all.
    Mending: publish the damaged version's folder again from where it still is whole.
    """
    if sample is not None and sample < 0:
        raise InputError(f"sample={sample} must not be negative")
    with verified_clone(registry, whole=True) as clone:
        listed = versions_at(clone)
        remote = open_remote(configured_remote(clone))
        users = needed_objects(clone, remote, listed)
    there = remote.objects()
    ordered = sorted(name for name in users if name in there)
    chosen = _chosen(ordered, sample, seed)
    hashes = dict(zip(chosen, each_file(remote.hash, chosen), strict=True))
    unknown = [stored.size_bytes for name, stored in there.items() if name not in users]
    return ScrubReport(
        versions=len(listed),
        objects=len(users),
        bytes=sum(there[name].size_bytes for name in ordered),
        checked=tuple(chosen),
        missing={name: file for name, file in sorted(users.items()) if name not in there},
        damaged={name: users[name] for name, found in sorted(hashes.items()) if found != name.removesuffix(".dir")},
        unknown_objects=len(unknown),
        unknown_bytes=sum(unknown),
    )


def _chosen(ordered: list[str], sample: int | None, seed: int) -> list[str]:
    """Draw objects to read back; lists of files are small and always among them, as everything else hangs on them."""
    lists = [name for name in ordered if name.endswith(".dir")]
    files = [name for name in ordered if not name.endswith(".dir")]
    drawn = files if sample is None else random.Random(seed).sample(files, min(sample, len(files)))
    return sorted([*lists, *drawn])


def needed_objects(clone: Clone, remote: Remote, listed: Collection[Version], *, whole: bool = False) -> dict[str, str]:
    """Give every object that some versions and all networks and entries of a registry need, with what each is.

    whole: raises InputError for a version whose list of files is lost, which otherwise counts by that list alone.
    """
    return _objects_of(clone, remote, listed, whole=whole) | _model_objects(clone, remote) | entry_objects(clone)


def _objects_of(clone: Clone, remote: Remote, listed: Collection[Version], *, whole: bool = False) -> dict[str, str]:
    """Give every object that some versions need, with one file of one version that needs it.

    A version whose list of files is lost counts by that list alone; with `whole` it raises InputError.
    """
    users: dict[str, str] = {}
    # As they were published, or as an erasure left them: a pointer that was edited since would free what another version needs.
    at = {version.tag: "HEAD" if erased_at(clone, version.tag) else version.commit for version in listed}
    pointers = [read_committed(clone, f"{version.folder}/frames.dvc", at[version.tag]) for version in listed]
    names = [pointed_at(pointer or b"") for pointer in pointers]
    folders = ask_each(lambda name: read_folder(remote, name), names)
    for version, name, files in zip(listed, names, folders, strict=True):
        users.setdefault(name, f"{version.tag} (list of files)")
        if files is None and whole:
            raise InputError(
                f"the remote lost the list of files of {version.tag}; scrub and mend before retiring anything"
            )
        for path, held in (files or {}).items():
            users.setdefault(held, f"{version.tag} {path}")
    return users


def _model_objects(clone: Clone, remote: Remote) -> dict[str, str]:
    """Give every object that a proposed or released network needs, with the file that it is."""
    users: dict[str, str] = {}
    for pointer in paths_in(clone, "models"):
        if pointer.endswith(".dvc"):
            name = pointed_at(read_committed(clone, pointer) or b"")
            users[name] = f"{pointer.removesuffix('.dvc')} (list of files)"
            held = read_folder(remote, name) or {}
            users |= {held[path]: f"{pointer.removesuffix('.dvc')} {path}" for path in held}
    return users


def plan_retention(registry: str | Path, policy: RetentionPolicy, *, now: datetime | None = None) -> RetentionPlan:
    """Work out which versions to retire and which objects that frees; changes nothing.

    Only objects that retired versions of this registry held are ever named: what another registry keeps on the same
    remote stays.  Raises InputError when the registry is a shallow clone, which does not know all versions.
    """
    with verified_clone(registry, whole=True) as clone:
        return _plan(clone, policy, now or datetime.now(UTC))


def _plan(clone: Clone, policy: RetentionPolicy, now: datetime) -> RetentionPlan:
    if git_text(clone, "rev-parse", "--is-shallow-repository") == "true":
        raise InputError(f"{clone.url} is a shallow clone, which does not know every version; use the registry itself")
    listed = versions_at(clone)
    kept = _kept(clone, listed, policy, now)
    retired = [version for version in listed if version.tag not in kept]
    remote = open_remote(configured_remote(clone))
    needed = needed_objects(clone, remote, [version for version in listed if version.tag in kept], whole=True)
    held = _objects_of(clone, remote, retired, whole=True)
    there = remote.objects() if retired else {}
    youngest = (now - timedelta(hours=policy.grace_hours)).timestamp()
    free = [name for name in sorted(held) if name not in needed and name in there and there[name].changed < youngest]
    return RetentionPlan(
        retired=tuple(version.tag for version in retired),
        kept=kept,
        objects=tuple(free),
        bytes=sum(there[name].size_bytes for name in free),
    )


def _kept(clone: Clone, listed: list[Version], policy: RetentionPolicy, now: datetime) -> dict[str, str]:
    kept: dict[str, str] = {}
    oldest = (now - timedelta(days=policy.keep_days)).timestamp()
    for version in listed:
        if int(git_text(clone, "log", "-1", "--format=%ct", version.commit)) >= oldest:
            kept[version.tag] = f"younger than {policy.keep_days} days"
    if listed:
        kept[listed[-1].tag] = "newest"
    for decision in decisions_at(clone, "HEAD"):
        if decision.action in ("promote", "rollback"):
            kept[decision.tag] = f"approved by {', '.join(decision.names)}"
    for name, pointer in (
        (CURRENT, current_at(clone)),
        (CHAMPION, champion_at(clone)),
        (REFERENCE, reference_at(clone)),
    ):
        if pointer:
            kept[pointer.tag] = f"named by {name}"
    return {version.tag: kept[version.tag] for version in listed if version.tag in kept}


def apply_retention(
    registry: str | Path,
    policy: RetentionPolicy,
    *,
    plan_sha256: str,
    name: str,
    reason: str,
    now: datetime | None = None,
) -> RetentionPlan:
    """Retire versions as a dry run planned it: mark them in the registry, then remove the objects only they held.

    plan_sha256: hash of the plan that somebody looked at; another plan by now is refused.  The tag and record of a
    retired version stay, with who retired it and why.  Run it while no night publishes.
    Raises InputError when the plan changed, or the registry is a shallow clone.
    """
    if not name.strip() or not reason.strip():
        raise InputError("retention removes data: give the name of who decides and the reason")
    with verified_clone(registry, whole=True) as clone:
        plan = _plan(clone, policy, now or datetime.now(UTC))
        if plan.sha256 != plan_sha256:
            raise InputError(f"the plan is {plan.sha256[:16]} now, not {plan_sha256[:16]}; look at a new dry run first")
        if plan.retired:
            # Marked first: a child published from now on cannot take over what is about to go.
            _mark_retired(clone, plan, name, reason)
        if plan.objects:
            ask_each(open_remote(configured_remote(clone)).remove, plan.objects)
    return plan


def _mark_retired(clone: Clone, plan: RetentionPlan, name: str, reason: str) -> None:
    named = {"retired_by": " ".join(name.split()), "reason": " ".join(reason.split())}
    record = {**named, "plan_sha256": plan.sha256, "format": FORMAT}
    message = trailers(f"Retire {len(plan.retired)} versions", reason, retired_by=name, plan_sha256=plan.sha256)
    head = git_text(clone, "rev-parse", "HEAD")

    def changes(base: str) -> tuple[Mapping[str, bytes | None], str]:
        if base != head:
            raise InputError("another writer changed the registry meanwhile; look at a new dry run first")
        files: dict[str, bytes | None] = {}
        for tag in plan.retired:
            files[f"{run_folder(tag)}/frames.dvc"] = None
            files[f"{run_folder(tag)}/{RETIRED}"] = json_bytes(record)
        return files, message

    push_commit(clone, changes)
