"""The commands of a privacy officer: who used a frame, and what must go."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perception.errors import InputError
from pipelines.commands.options import PATH
from pipelines.commands.registry import LATEST, registry_option, signed

if TYPE_CHECKING:
    from perception.versioning.asked import Asked
    from perception.versioning.erasing.plan import Installation, Plan
    from perception.versioning.lineage import Lineage


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command that asks for frames: --frame, --drive, --between and --within."""
    options = (
        click.option("--frame", default="", metavar="ID", help="A frame; several with commas."),
        click.option("--drive", default="", metavar="ID", help="A drive; several with commas."),
        click.option(
            "--between", default="", metavar="FROM,TO", help="Of these, or of all, what was taken between two moments."
        ),
        click.option(
            "--within", default="", metavar="S,W,N,E", help="Likewise, within a box of degrees: south,west,north,east."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def asked_for(frame: str, drive: str, between: str, within: str, annotator: str = "") -> "Asked":
    """Return what the options ask for; raises InputError for one that cannot be read, or none."""
    from perception.versioning.asked import Asked, read_box, read_moments

    return Asked(
        frames=_listed(frame),
        drives=_listed(drive),
        between=read_moments(between) if between else None,
        within=read_box(within) if within else None,
        annotator=annotator,
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@click.command(epilog="Example: nightdrive lineage --drive 0001TP,0006R0")
@registry_option
@asking
@click.option("--annotator", default="", metavar="NAME", help="Likewise, what somebody labelled.")
def lineage(registry: str, **asked: str) -> None:
    """Say who used some frames: versions, nights, annotators, networks; and what their erasure would touch."""
    from perception.versioning.lineage import lineage as find

    found = find(registry, asked_for(**asked))
    if not found.frame_ids:
        print("no frame of the registry is meant")
        return
    for line in told(found):
        print(line)


def told(found: "Lineage") -> list[str]:
    """Return the lines that tell the uses of some frames."""
    drives = {*found.pool.drive_id, *found.held.drive_id}
    lines = [f"{len(found.frame_ids)} frames of {len(drives)} drives"]
    lines += [f"arrived     {entry:<40} {count:>7,} frames" for entry, count in found.arrived.items()]
    lines += [f"scored by   {', '.join(found.scored)}"] if found.scored else []
    counted = found.events.groupby(["event", "batch", "who"], dropna=False, sort=False).size()
    lines += [
        f"{event:<11} {batch:<40} {count:>7,} frames  {'' if who != who else who or ''}".rstrip()
        for (event, batch, who), count in counted.items()
    ]
    for (tag, split, current, champion), count in (
        found.held.groupby(["tag", "split", "current", "champion"], sort=False).size().items()
    ):
        marks = " ".join(word for word, holds in (("current", current), ("champion trained on it", champion)) if holds)
        lines.append(f"{split:<11} {tag:<40} {count:>7,} frames  {marks}".rstrip())
    for each in found.learnt:
        clean = found.clean_ancestor[each.model.model_sha256]
        back = f"last before it that did not: {clean[:16]}" if clean else "none before it did not"
        lines.append(
            f"network     {'  ' * each.depth}{each.model.model_sha256[:16]} learnt: {'; '.join(each.why)}; {back}"
        )
    lines.append(f"networks that learnt from them: {len(found.learnt) or 'none is kept'}")
    lines.append(f"the frozen test set: {'touched' if found.touches_test_set else 'not touched'}")
    return lines


def places(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command that goes through a whole installation: --store, --runs and --also."""
    options = (
        registry_option,
        click.option(
            "--store", default="", metavar="FOLDER|URL", help="The blob store; default: that of the latest night."
        ),
        click.option("--runs", type=PATH, default=LATEST.parent, help="Folder of this machine's runs; default: runs."),
        click.option(
            "--also",
            default="",
            metavar="PLACE,...",
            help="Backups, curated folders, buckets of artifacts; with commas.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def installation(registry: str, store: str, runs: Path, also: str) -> "Installation":
    """Return where everything lies; raises InputError where the store is neither named nor known."""
    from components.stage.parameters import absolute, read_section
    from perception.versioning.erasing.plan import Installation
    from perception.versioning.tonight import kept_beside

    latest = runs / "latest"
    if not store and not (latest / "params.yaml").exists():
        raise InputError(f"no night has run in {runs}; name the store with STORE=")
    named = store or str(read_section(latest / "params.yaml", "resolve")["store"])
    place = absolute(named if store or "://" in named else str(latest.resolve() / named))
    elsewhere = tuple(map(absolute, _listed(also)))
    return Installation(registry=registry, store=place, runs=runs, also=elsewhere, kept=kept_beside(place))


@click.command(
    epilog="Example: nightdrive erase --drive 0001TP --by 'Ada Lovelace' --reason 'request 7 of 30 November'"
)
@places
@asking
@signed()
@click.option(
    "--networks",
    type=click.Choice(("retrain", "retire", "keep")),
    default="retrain",
    show_default=True,
    help="What becomes of networks that learnt from it; retrain: the champion stays until another is released.",
)
@click.option("--plan", metavar="HASH", help="Of the dry run that you looked at; without it, this is one.")
def erase(
    registry: str,
    store: str,
    runs: Path,
    also: str,
    by: list[str],
    reason: str,
    networks: Any,
    plan: str | None,
    **asked: str,
) -> None:
    """Show what the erasure of frames would touch; do it where --plan names what was shown, and go on where that was stopped."""
    from perception.versioning.erasing.carry_out import carry_out, decide
    from perception.versioning.erasing.plan import plan_erasure
    from perception.versioning.erasing.record import find_erasure

    place = installation(registry, store, runs, also)
    erasure = find_erasure(registry, plan) if plan else None
    if erasure is None:
        planned = plan_erasure(
            place, asked_for(**asked), names=by, reason=reason, networks=networks, now=datetime.now(UTC)
        )
        for line in shown_plan(planned):
            print(line)
        if plan is None:
            print(f"a dry run; to do it, the same command with PLAN={planned.erasure.plan_sha256}")
            return
        if not planned.erasure.plan_sha256.startswith(plan):
            raise InputError(f"the plan is {planned.erasure.plan_sha256[:16]} now, not {plan[:16]}; look at it first")
        erasure = decide(place, planned)
    carry_out(place, erasure, tell=print)
    print(f"carried out; whether anything is left says: make verify-erasure PLAN={erasure.name}")


def shown_plan(plan: "Plan") -> list[str]:
    """Return the lines that tell a plan."""
    erasure = plan.erasure
    what = [
        f"{len(erasure.objects)} objects and {len(erasure.blobs)} blobs go, {plan.bytes / 1e6:.1f} MB; what else holds it is written anew"
    ]
    what += [f"version     {tag} loses frames and keeps a tombstone" for tag in erasure.versions]
    what += [f"batch       {batch} is recalled: tell its annotators" for batch in erasure.batches]
    what += [f"{becomes:<11} network {sha256[:16]}" for sha256, becomes in erasure.networks.items()]
    what += [f"release     network {erasure.champion[:16]} instead"] if erasure.champion else []
    what += [f"source      {file}: its owner must remove it; nights turn it away" for file in plan.sources]
    return [*told(plan.uses), *what, f"plan {erasure.plan_sha256}"]


@click.command(epilog="Example: nightdrive verify-erasure --plan 0123456789abcdef --also /backup")
@places
@click.option("--plan", metavar="HASH", help="Of one erasure; default: all.")
def verify_erasure(registry: str, store: str, runs: Path, also: str, plan: str | None) -> None:
    """Search the whole installation for what was erased, and certify where nothing is left; exit code 2 where something is."""
    from perception.versioning.erasing.certificate import certify
    from perception.versioning.erasing.record import find_erasure, read_erasures

    place = installation(registry, store, runs, also)
    wanted = [find_erasure(registry, plan)] if plan else read_erasures(registry)
    for erasure in wanted:
        if erasure is None:
            raise InputError(f"PLAN={plan}: no erasure of that plan was decided; make erase shows plans")
        certificate = certify(place, erasure)
        searched = ", ".join(f"{count} files of {name}" for name, count in certificate.searched.items())
        print(
            f"erasure {erasure.name}: {certificate.frames} frames, nothing is left in {searched}; the certificate is committed"
        )
