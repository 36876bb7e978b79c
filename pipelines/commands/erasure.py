"""The commands of a privacy officer: who used a frame, and what must go."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pipelines.commands.registry import registry_option

if TYPE_CHECKING:
    from perception.versioning.asked import Asked
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
