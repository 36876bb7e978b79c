"""Data versions from the command line: look at them, release them, take them back, fetch them, trace them.

Each command is a make target; `make help` lists them.  Decisions are commits in the data registry, with a name and a reason.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from components.stage.declaration import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED
from components.stage.parameters import absolute
from perception.errors import InputError

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "runs" / "registry" / "data.git"


def review(given: argparse.Namespace) -> None:
    """Write the page that compares two versions."""
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.review_page import write_review
    from perception.versioning.review_sides import review as compare

    facts, commands, pictures, taxonomy = compare(
        given.registry,
        given.head or _latest(given.registry),
        given.base or None,
    )
    folder = given.out or Path("runs") / "reviews" / facts["head"]["tag"].removeprefix("data/")
    write_review(folder, facts, commands, pictures, load_taxonomy(taxonomy))
    for name, answer in facts["answers"].items():
        print(f"{name:<10} {answer}")
    print(f"review     {folder / 'review.html'}")


def _latest(registry: str) -> str:
    from perception.versioning.upkeep import versions

    listed = versions(registry)
    if not listed:
        raise InputError(f"registry {registry} has no version yet; run a night first")
    return listed[-1].tag


def promote(given: argparse.Namespace) -> None:
    """Make a version the one that nights start from, and its network the champion where the night's verdict allows."""
    from perception.versioning.decisions import promote as decide
    from perception.versioning.models import read_proposal, resolved

    version = resolved(given.registry, _needed(given, "version"))
    release = given.model == "release" or (
        given.model == "auto" and _may_ship(read_proposal(given.registry, version.tag))
    )
    done = decide(
        given.registry,
        version.tag,
        manifest_sha256=_manifest(given),
        names=_names(given),
        reason=_needed(given, "reason"),
        base=given.base or None,
        release=release,
    )
    if done is None:
        print(f"{version.tag} is current already; nothing was done")
        return
    print(
        f"{done.tag} is current since now, instead of {done.previous or 'nothing'}; approved by {', '.join(done.names)}"
    )
    network = f"its network {done.model_sha256[:16]} is the champion" if done.model_sha256 else "the champion stays"
    print(f"{network}; undo both with: make rollback BY=... REASON=...")


def _may_ship(proposal: object) -> bool:
    evidence = getattr(proposal, "evidence", None) or {}
    verdict = ((evidence.get("evaluation") or {}).get("promotion") or {}).get("decision")
    return bool(getattr(proposal, "model_sha256", None)) and verdict == "promote"


def reject(given: argparse.Namespace) -> None:
    """Record that a version must never be released."""
    from perception.versioning.decisions import reject as decide

    (name,) = _names(given)[:1]
    version = _needed(given, "version")
    done = decide(given.registry, version, manifest_sha256=_manifest(given), name=name, reason=_needed(given, "reason"))
    print(f"{done.tag} is rejected by {name}: {done.reason}")


def rollback(given: argparse.Namespace) -> None:
    """Move the pointers back to what was released before, or to the named version; nothing is computed."""
    from perception.versioning.decisions import rollback as decide

    (name,) = _names(given)[:1]
    done = decide(given.registry, name=name, reason=_needed(given, "reason"), revision=given.version or None)
    beside = f", with network {done.model_sha256[:16]}" if done.model_sha256 else ""
    print(f"{done.tag} is current again, instead of {done.previous}{beside}")


def versions(given: argparse.Namespace) -> None:
    """List the versions of the registry, oldest first."""
    from perception.versioning.models import champion
    from perception.versioning.registry import resolve
    from perception.versioning.upkeep import versions as listed

    current, released = resolve(given.registry), champion(given.registry)
    for version in listed(given.registry):
        marks = [word for word, holds in (
            ("current", current and version.tag == current.tag), ("champion", released and version.tag == released.tag)
        ) if holds]  # fmt: skip
        print(
            f"{version.tag:<44} {version.frames:>9,} frames {version.new_bytes / 1e6:>9.1f} MB new  {' '.join(marks)}"
        )


def history(given: argparse.Namespace) -> None:
    """List every decision with its signature, and check that none was changed afterwards."""
    from perception.versioning.audit import audit

    found = audit(given.registry)
    for entry in found.decisions:
        decision = entry.decision
        print(
            f"{decision.decided_utc[:16]}  {decision.action:<8} {decision.tag}  {', '.join(decision.names)}: "
            f"{decision.reason}  [{entry.signature}]"
        )
    for problem in found.problems:
        print(f"PROBLEM: {problem}")
    if found.problems:
        raise InputError(f"the history of {given.registry} does not hold together; see above")
    print(f"{len(found.decisions)} decisions; every one is as it was written, and the pointers are what they say")


def verify_history(given: argparse.Namespace) -> None:
    """Check that every data tag and every decision is signed by a key of the list of allowed signers."""
    from perception.versioning.signatures import check_history

    found = check_history(given.registry, _needed(given, "signers"))
    for each in found:
        print(f"{each.what:<44} {f'signed by {each.signer}' if each.signer else f'PROBLEM: {each.problem}'}")
    bad = [each for each in found if each.signer is None]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(found)} tags and decisions of {given.registry} bear no signature that counts"
        )
    print(f"{len(found)} tags and decisions, every one signed by an allowed key")


def reproduce(given: argparse.Namespace) -> None:
    """Fetch exactly the data of a version into a new folder and prove it by its hashes."""
    from perception.versioning.lineage import reproduce as fetch

    done = fetch(given.registry, _needed(given, "version"), _out(given))
    print(
        f"{done.version.tag} at commit {done.version.commit[:12]}: {done.files} files, {done.bytes:,} bytes, all as published"
    )
    print(f"manifest sha256 {done.manifest_sha256}")


def lineage(given: argparse.Namespace) -> None:
    """Say which versions and networks used a frame or a drive, and what its deletion would touch."""
    from perception.versioning.lineage import deletion_impact, frame_history

    frames, drives = _list(given.frame), _list(given.drive)
    if not frames and not drives:
        raise InputError("name a frame or a drive: FRAME=id or DRIVE=id, several with commas")
    rows = frame_history(given.registry, frame_ids=frames, drive_ids=drives)
    if rows.empty:
        print("no version holds it")
        return
    counted = rows.groupby(["tag", "split", "current", "champion"], sort=False).size()
    for (tag, split, current, champion), count in counted.items():
        marks = " ".join(word for word, holds in (("current", current), ("champion trained on it", champion)) if holds)
        print(f"{tag:<44} {split:<6} {count:>7,} frames  {marks}")
    impact = deletion_impact(given.registry, frame_ids=frames, drive_ids=drives)
    held = f"{rows.frame_id.nunique()} frames of {rows.drive_id.nunique()} drives in {len(impact['versions'])} versions"
    print(f"a deletion touches {held}")
    print(f"networks that learned from them: {', '.join(impact['models']) or 'none is kept'}")
    print(f"the frozen test set: {'touched' if impact['touches_test_set'] else 'not touched'}")


def scrub(given: argparse.Namespace) -> None:
    """Check that the remote holds every object, and re-hash some of them."""
    from perception.versioning.upkeep import scrub as look

    found = look(given.registry, sample=given.sample if given.sample >= 0 else None, seed=given.seed)
    print(
        f"{found.versions} versions, {found.objects} objects, {found.bytes / 1e6:.1f} MB; {len(found.checked)} read back"
    )
    for what, listed in (("missing", found.missing), ("damaged", found.damaged)):
        for name, file in listed.items():
            print(f"{what.upper()} {name}: {file}")
    print(f"{found.unknown_objects} objects ({found.unknown_bytes / 1e6:.1f} MB) belong to no version of this registry")
    if not found.is_clean:
        raise InputError(
            "the remote is not whole; publish the named versions again from where they are, or restore them"
        )


def retire(given: argparse.Namespace) -> None:
    """Show which versions retention would retire; do it when the plan's hash is given."""
    from perception.versioning.upkeep import RetentionPolicy, apply_retention, plan_retention

    policy = RetentionPolicy(keep_days=given.days)
    plan = plan_retention(given.registry, policy)
    for tag, why in plan.kept.items():
        print(f"keep    {tag:<44} {why}")
    for tag in plan.retired:
        print(f"retire  {tag}")
    print(f"frees {plan.bytes / 1e6:.1f} MB in {len(plan.objects)} objects; plan {plan.sha256}")
    if given.plan:
        names, reason = _names(given), _needed(given, "reason")
        apply_retention(given.registry, policy, plan_sha256=given.plan, name=names[0], reason=reason)
        print("done")
    elif plan.retired:
        print(f'a dry run; to do it: make retire DAYS={given.days} PLAN={plan.sha256} BY="Your Name" REASON="why"')


def _needed(given: argparse.Namespace, name: str) -> str:
    value = str(getattr(given, name)).strip()
    if not value:
        raise InputError(f"{name.upper()} is missing; say {name.upper()}=...")
    return value


def _names(given: argparse.Namespace) -> list[str]:
    return [name.strip() for name in _needed(given, "by").split(",")]


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _out(given: argparse.Namespace) -> Path:
    if not given.out:
        raise InputError("OUT is missing; say OUT=a new folder")
    return Path(given.out)


def _manifest(given: argparse.Namespace) -> str:
    """Give the hash that a decision is bound to: MANIFEST, or the digits that a tag ends with."""
    found = re.fullmatch("data/.*-([0-9a-f]{8})", given.version)
    if given.manifest or found:
        return str(given.manifest or (found.group(1) if found else ""))
    raise InputError(
        f"VERSION={given.version} does not say which manifest you reviewed; give the whole tag, or MANIFEST=hash"
    )


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    function.__name__: function
    for function in (
        review,
        promote,
        rollback,
        reject,
        versions,
        history,
        verify_history,
        reproduce,
        lineage,
        scrub,
        retire,
    )
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; exit 2 and one line for what a caller did wrong."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.commands.data_versions", description=__doc__)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--registry", default=os.environ.get("NIGHTDRIVE_REGISTRY", str(REGISTRY)))
    parser.add_argument("--out", type=Path, default=None)
    for name in ("base", "head", "version", "manifest", "by", "reason", "frame", "drive", "plan", "signers"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--model", choices=("auto", "release", "keep"), default="auto")
    parser.add_argument("--sample", type=int, default=200, help="objects to read back; -1: all")
    parser.add_argument("--seed", type=int, default=0, help="which objects are drawn")
    parser.add_argument("--days", type=int, default=30, help="younger versions are kept")
    given = parser.parse_args(list(arguments))
    given.registry = absolute(given.registry)
    from perception.versioning.processes import RegistryError

    try:
        COMMANDS[given.command](given)
    except InputError as error:
        print(f"nightdrive: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, RegistryError) else EXIT_BAD_INPUT
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
