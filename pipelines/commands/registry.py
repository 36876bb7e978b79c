"""The commands of data versions: look at them, release them, take them back, fetch them, trace them.

Decisions are commits in the data registry, with a name and a reason.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perception.errors import InputError, shown
from pipelines.commands.options import PATH

if TYPE_CHECKING:
    from perception.versioning.trend import ListedNight

LATEST = Path(__file__).parents[2] / "runs" / "latest"


def _absolute(_context: click.Context, _option: click.Parameter, registry: str) -> str:
    from components.stage.parameters import absolute

    return absolute(registry) if registry else _of_latest()


def _of_latest() -> str:
    """Return the registry of the latest night on this machine."""
    from components.stage.parameters import absolute, read_section

    if not (LATEST / "params.yaml").exists():
        raise InputError("no night has run on this machine; name the registry with REGISTRY=")
    registry = str(read_section(LATEST / "params.yaml", "resolve")["registry"])
    return absolute(registry if "://" in registry else str(LATEST.resolve() / registry))


def _names(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


registry_option = click.option(
    "--registry",
    envvar=["NIGHTDRIVE_OPTION_REGISTRY", "NIGHTDRIVE_REGISTRY"],
    default="",
    callback=_absolute,
    metavar="FOLDER|URL",
    help="The data registry; default: NIGHTDRIVE_REGISTRY, or that of runs/latest.",
)
version_option = click.option("--version", required=True, metavar="TAG", help="The data version.")
manifest_option = click.option(
    "--manifest", default="", metavar="HASH", help="Of the manifest that was reviewed; default: the digits of the tag."
)
base_option = click.option("--base", metavar="TAG", help="The version to compare with; default: what is current.")


def signed(required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator of a command that writes what people decided: --by and --reason."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        reason = click.option("--reason", required=required, default="", metavar="TEXT", help="Why.")
        by = click.option(
            "--by",
            required=required,
            default="",
            callback=_names,
            metavar="NAME",
            help="Who decides; several with commas.",
        )
        return by(reason(command))

    return decorate


@click.command(epilog="Example: nightdrive review --head data/demo-64245038")
@registry_option
@base_option
@click.option("--head", metavar="TAG", help="The version to look at; default: the latest.")
@click.option("--out", type=PATH, metavar="FOLDER", help="The page; default: runs/reviews/VERSION.")
def review(registry: str, base: str | None, head: str | None, out: Path | None) -> None:
    """Write the page that compares two data versions."""
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.review_page import write_review
    from perception.versioning.review_sides import review as compare

    facts, commands, pictures, taxonomy = compare(registry, head or _latest(registry), base)
    folder = out or Path("runs") / "reviews" / facts["head"]["tag"].removeprefix("data/")
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


@click.command(
    epilog="Example: nightdrive promote --version data/demo-64245038 --by 'Ada Lovelace' --reason 'nights improved'"
)
@registry_option
@version_option
@manifest_option
@signed()
@click.option(
    "--proposal", default="", metavar="HASH", help="Of the proposal that was reviewed; default: the one that there is."
)
@click.option(
    "--model",
    type=click.Choice(("auto", "release", "keep", "only")),
    default="auto",
    show_default=True,
    help="Whether its network becomes the champion; auto: where the night's verdict says so; only: the network alone.",
)
def promote(registry: str, version: str, manifest: str, by: list[str], reason: str, proposal: str, model: str) -> None:
    """Release a data version: the next night starts from it and from its network."""
    from perception.versioning.decisions import promote as decide
    from perception.versioning.models import resolved

    tag, reviewed = resolved(registry, version).tag, _reviewed(version, manifest)
    objection = _objection(registry, tag) if model == "auto" else ""
    data, release = model != "only", model != "keep" and not objection
    seen = {"manifest_sha256": reviewed, "proposal_sha256": proposal}
    done = decide(registry, tag, **seen, names=by, reason=reason, data=data, release=release)
    if done is None:
        print(f"{tag} is released already; nothing was done")
        return
    if done.action == "approve":
        print(
            f"{by[0]} approved {tag}, which changes the test set; it becomes current when a second person promotes it"
        )
        return
    if done.action == "promote":
        print(
            f"{tag} is current since now, instead of {done.previous or 'nothing'}; approved by {', '.join(done.names)}"
        )
    stays = f"the champion stays{f': {objection}' if objection else ''}"
    print(f"its network {done.model_sha256[:16]} is the champion" if done.model_sha256 else stays)
    print("undo with: make rollback BY=... REASON=...")


def _objection(registry: str, tag: str) -> str:
    """Say why a night's network does not become the champion by itself; empty where it may."""
    from perception.versioning.models import champion, judged_against_another, read_proposal, reference

    proposal = read_proposal(registry, tag)
    if proposal is None or proposal.model_sha256 is None:
        return "no network was proposed with it"
    verdict = ((proposal.evidence.get("evaluation") or {}).get("promotion") or {}).get("decision")
    if verdict != "promote":
        return f"the night's verdict on its network is {verdict or 'missing'}"
    another = judged_against_another(proposal, champion(registry), reference(registry))
    return f"its network was judged against another {another}" if another else ""


@click.command(epilog="Example: nightdrive rebase --version data/2026-11-30-64245038")
@registry_option
@version_option
def rebase(registry: str, version: str) -> None:
    """Put the newly labelled frames of a stale version onto what is current, as a new version to review."""
    from perception.versioning.rebase import rebase as put

    done = put(registry, version)
    print(f"{done.version.tag}: {done.taken} frames of {version} on {done.version.parent}")
    if done.kept:
        print(
            f"{len(done.kept)} frames were labelled in both and stay as they are in {done.version.parent}: {', '.join(done.kept[:5])}"
        )
    print(f"look at it with: make review HEAD={done.version.tag}")


def _reviewed(version: str, manifest: str) -> str:
    """Return the hash that a decision is bound to: the manifest's, or the digits that a tag ends with."""
    found = re.fullmatch("data/.*-([0-9a-f]{8})", version)
    if manifest or found:
        return manifest or (found[1] if found else "")
    raise InputError(
        f"VERSION={version} does not say which manifest you reviewed; give the whole tag, or MANIFEST=hash"
    )


@click.command(
    epilog="Example: nightdrive reject --version data/demo-64245038 --by 'Ada Lovelace' --reason 'labels are shifted'"
)
@registry_option
@version_option
@manifest_option
@signed()
def reject(registry: str, version: str, manifest: str, by: list[str], reason: str) -> None:
    """Record that a data version must never be released."""
    from perception.versioning.decisions import reject as decide

    done = decide(registry, version, manifest_sha256=_reviewed(version, manifest), name=by[0], reason=reason)
    print(f"{done.tag} is rejected by {by[0]}: {done.reason}")


@click.command(epilog="Example: nightdrive rollback --by 'Ada Lovelace' --reason 'complaints from the test track'")
@registry_option
@click.option("--version", metavar="TAG", help="What becomes current again; default: the one before.")
@signed()
def rollback(registry: str, version: str | None, by: list[str], reason: str) -> None:
    """Move the released pointers back; nothing is computed."""
    from perception.versioning.decisions import rollback as decide

    done = decide(registry, name=by[0], reason=reason, revision=version)
    beside = f", with network {done.model_sha256[:16]}" if done.model_sha256 else ""
    print(f"{done.tag} is current again, instead of {done.previous}{beside}")


@click.command(
    epilog="Example: nightdrive reference --version data/demo-64245038 --by 'Ada Lovelace' --reason 'as driven in spring'"
)
@registry_option
@click.option("--version", metavar="TAG", help="Whose network it is, which was released once; default: the champion's.")
@signed()
def reference(registry: str, version: str | None, by: list[str], reason: str) -> None:
    """Set the reference release: the network that losses over the months are counted from; only people move it."""
    from perception.versioning.decisions import set_reference

    done = set_reference(registry, names=by, reason=reason, revision=version)
    if done is None or done.reference_sha256 is None:
        print("it is the reference release already; nothing was done")
        return
    print(f"network {done.reference_sha256[:16]} of {done.tag} is the reference release; decided by {', '.join(by)}")
    print("from the next night on a network must be no worse than it, beside the champion")


@click.command(epilog="Example: nightdrive versions")
@registry_option
def versions(registry: str) -> None:
    """List the data versions, oldest first, with what is current and whose network is champion and reference release."""
    from perception.versioning.models import champion
    from perception.versioning.models import reference as anchor
    from perception.versioning.registry import resolve
    from perception.versioning.upkeep import versions as listed

    released = {"current": resolve(registry), "champion": champion(registry), "reference": anchor(registry)}
    for version in listed(registry):
        marks = " ".join(word for word, pointer in released.items() if pointer and version.tag == pointer.tag)
        print(f"{version.tag:<44} {version.frames:>9,} frames {version.new_bytes / 1e6:>9.1f} MB new  {marks}")


_NIGHTS = "{:<10} {:<14} {:<11} {:<28} {:>8} {:>7} {:>6}  {:<22} {:<19} {:<11} {:>6} {:>10}"
_NIGHT_COLUMNS = (
    *("date", "night", "status", "base", "new", "chosen", "mIoU", "worst condition", "verdict", "decision", "hours"),
    "cost",
)


@click.command(epilog="Example: nightdrive nights")
@registry_option
@click.option(
    "--out", type=PATH, default=LATEST.with_name("nights.html"), metavar="FILE", help="The page of the trend."
)
def nights(registry: str, out: Path) -> None:
    """List the nights, oldest first: what each took in, chose, measured and cost, and what was decided; draw the trend."""
    from perception.data.files import replace_file
    from perception.reporting.nights_page import render_nights
    from perception.versioning.trend import read_trend

    listed = read_trend(registry)
    print(_NIGHTS.format(*_NIGHT_COLUMNS))
    for each in listed:
        print(shown(_NIGHTS.format(*("-" if value is None else str(value) for value in _night_row(each)))))
    try:
        replace_file(out, render_nights(listed, registry).encode())
    except OSError as error:
        raise InputError(f"OUT={out}: cannot be written ({error.strerror}); choose another file") from None
    print(f"the trend: {out}")


def _night_row(listed: "ListedNight") -> tuple[Any, ...]:
    night, got = listed.night, listed.night.figures
    hours = None if got.seconds is None else f"{got.seconds / 3600:.2f}"
    miou = None if got.miou is None else f"{got.miou:.3f}"
    cost = None if got.cost is None else f"{got.cost:.2f} {got.currency}"
    began = (night.date, night.night, night.status, night.base, got.new_frames, got.chosen_frames)
    return (*began, miou, got.worst_condition, got.verdict, listed.decision, hours, cost)


UNSIGNED = "unsigned: this registry has no list of allowed signers, so whoever can write it can change all of this"


@click.command(epilog="Example: nightdrive history")
@registry_option
def history(registry: str) -> None:
    """List every decision with who signed it, and check that none was changed afterwards."""
    from perception.versioning.audit import audit

    found = audit(registry)
    for entry in found.decisions:
        decision = entry.decision
        line = (
            f"{decision.decided_utc[:16]}  {decision.action:<8} {decision.tag}  {', '.join(decision.names)}: "
            f"{decision.reason}  [{f'signed by {entry.signer.name}' if entry.signer else 'unsigned'}]"
        )
        print(shown(line))
    for problem in found.problems:
        print(shown(f"PROBLEM: {problem}"))
    if found.problems:
        raise InputError(f"the history of {registry} does not hold together; see above")
    print(f"{len(found.decisions)} decisions; every one is as it was written, and the pointers are what they say")
    if not found.signed:
        print(UNSIGNED)


@click.command(epilog="Example: nightdrive verify-history --registry /data/fleet.git")
@registry_option
def verify_history(registry: str) -> None:
    """List every commit of a signed registry with who signed it; exit code 2 where one does not hold, or nobody signs."""
    from perception.versioning.audit import audit

    found = audit(registry)
    if not found.signed:
        raise InputError(f"registry {registry} is {UNSIGNED}; make trust gives it one")
    for commit in found.commits:
        changed = ", ".join(sorted(commit.changes)[:3]) + (", ..." if len(commit.changes) > 3 else "")
        by = f"signed by {commit.signer.name}" if commit.signer else "from before the first list"
        print(shown(f"{commit.sha[:12]}  {by:<40} {changed}"))
    print(f"{len(found.commits)} commits, every one since the first list signed by somebody who may")


@click.command(epilog="Example: nightdrive trust --signers allowed_signers")
@registry_option
@click.option("--signers", type=PATH, required=True, metavar="FILE", help='The list: NAME namespaces="git,ROLE" KEY.')
def trust(registry: str, signers: Path) -> None:
    """Give a registry its list of allowed signers, or change it, under the signature of a root."""
    from perception.data.files import read_text
    from perception.versioning.trust import set_signers

    try:
        text = read_text(signers)
    except (OSError, ValueError) as error:
        raise InputError(
            f"SIGNERS={signers}: cannot be read ({error}); name a list as ssh-keygen(1) describes it"
        ) from None
    print(f"from now on name the registry as: {set_signers(registry, text)}")


@click.command(epilog="Example: nightdrive reproduce --version data/demo-64245038 --out /data/demo")
@registry_option
@version_option
@click.option("--out", type=PATH, required=True, metavar="FOLDER", help="A new folder.")
def reproduce(registry: str, version: str, out: Path) -> None:
    """Fetch exactly the data of a version and prove them by their hashes."""
    from perception.versioning.lineage import reproduce as fetch

    done = fetch(registry, version, out)
    print(
        f"{done.version.tag} at commit {done.version.commit[:12]}: {done.files} files, {done.bytes:,} bytes, all as published"
    )
    print(f"manifest sha256 {done.manifest_sha256}")


@click.command(epilog="Example: nightdrive scrub --sample 1000 --seed 7")
@registry_option
@click.option("--sample", default=200, show_default=True, help="Objects to read back; -1: all.")
@click.option("--seed", default=0, show_default=True, help="Which objects are drawn.")
def scrub(registry: str, sample: int, seed: int) -> None:
    """Check that the registry's remote holds every object, and re-hash a sample of them."""
    from perception.versioning.upkeep import scrub as look

    found = look(registry, sample=sample if sample >= 0 else None, seed=seed)
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


@click.command(epilog="Example: nightdrive migrate --registry /data/fleet.git")
@registry_option
def migrate(registry: str) -> None:
    """Bring a registry that an older Nightdrive wrote forward, in one commit."""
    from perception.versioning.migrate import migrate as bring_forward

    print(f"{bring_forward(registry)} records brought forward")


@click.command(epilog="Example: nightdrive backup --out /backup/2026-11-30")
@registry_option
@click.option("--out", type=PATH, required=True, metavar="FOLDER", help="A new folder.")
def backup(registry: str, out: Path) -> None:
    """Write the registry and all that its remote holds for it into a folder."""
    from perception.versioning.backup import BLOBS
    from perception.versioning.backup import backup as write

    done = write(registry, out)
    print(f"commit {done.commit[:12]}, {done.objects} objects, {done.bytes / 1e6:.1f} MB")
    print(f"the store's own {done.blobs} blobs of the pool are listed in {out / BLOBS}, not copied")


@click.command(epilog="Example: nightdrive restore --from /backup/2026-11-30 --registry /data/fleet.git")
@click.option(
    "--from", "folder", envvar="NIGHTDRIVE_OPTION_FROM", type=PATH, required=True, metavar="FOLDER", help="The backup."
)
@click.option("--registry", required=True, metavar="FOLDER|URL", help="A new folder, or an empty repository.")
@click.option("--remote", default="", metavar="FOLDER|URL", help="Where its data go; default: where they were.")
def restore(folder: Path, registry: str, remote: str) -> None:
    """Make a registry and its remote again from a backup."""
    from components.stage.parameters import absolute
    from perception.versioning.backup import restore as make

    done = make(folder, absolute(registry), absolute(remote) if remote else "")
    print(
        f"registry {registry} is at commit {done.commit[:12]}, with {done.objects} objects on {remote or done.remote}"
    )


@click.command(epilog="Example: nightdrive retire --days 90")
@registry_option
@click.option("--days", default=30, show_default=True, help="Younger versions are kept.")
@click.option("--plan", metavar="HASH", help="Of the dry run that you looked at; without it, this is one.")
@signed(required=False)
def retire(registry: str, days: int, plan: str | None, by: list[str], reason: str) -> None:
    """Show which versions retention would retire; do it where --plan names what was shown."""
    from perception.versioning.upkeep import RetentionPolicy, apply_retention, plan_retention

    policy = RetentionPolicy(keep_days=days)
    planned = plan_retention(registry, policy)
    for tag, why in planned.kept.items():
        print(f"keep    {tag:<44} {why}")
    for tag in planned.retired:
        print(f"retire  {tag}")
    print(f"frees {planned.bytes / 1e6:.1f} MB in {len(planned.objects)} objects; plan {planned.sha256}")
    if plan:
        apply_retention(registry, policy, plan_sha256=plan, name=by[0], reason=reason)
        print("done")
    elif planned.retired:
        print(f'a dry run; to do it: make retire DAYS={days} PLAN={planned.sha256} BY="Your Name" REASON="why"')
