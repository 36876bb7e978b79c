"""The commands of annotation leads: which batches are out, and taking frames back."""

from datetime import UTC, datetime

import click

from pipelines.commands.registry import registry_option, signed


@click.command(epilog="Example: nightdrive batches")
@registry_option
def batches(registry: str) -> None:
    """List the batches that are at annotators, oldest first, with what is overdue and the labels that went back."""
    from perception.versioning.growing import open_book
    from perception.versioning.ledger import open_batches, read_events, state

    now = state(read_events(open_book(registry)))
    form = "{:<20} {:<10} {:<10} {:>6} {:>6} {:>9} {:>9} {:>8}"
    print(form.format("batch", "since", "due", "frames", "open", "rejected", "accepted", "overdue"))
    for each in open_batches(now, datetime.now(UTC)).itertuples():
        counts = (each.frames, each.open, each.rejected, each.accepted, each.overdue)
        print(form.format(each.batch, f"{each.since:%Y-%m-%d}", f"{each.due:%Y-%m-%d}", *counts))
    for each in now[now.status == "rejected"].itertuples():
        print(f"rejected {each.batch} {each.frame_id}: {each.rejected_why}")


@click.command(epilog="Example: nightdrive recall --batch batch-0123456789ab --by 'Ada Lovelace' --reason 'lost'")
@registry_option
@click.option("--batch", metavar="NAME", help="The batch, all of it whose label has not come.")
@click.option("--frame", default="", metavar="ID", help="A frame in place of a batch; several with commas.")
@signed()
def recall(registry: str, batch: str | None, frame: str, by: list[str], reason: str) -> None:
    """Take frames back from their annotators: they may be chosen again, and a label that comes late counts all the same."""
    from perception.versioning.ledger import recall as take_back

    frames = [name.strip() for name in frame.split(",") if name.strip()]
    taken = take_back(registry, who=", ".join(by), why=reason, now=datetime.now(UTC), batch=batch, frames=frames)
    print(f"{taken.entries[-1].tables['ledger'].rows} frames are back in the pool")
