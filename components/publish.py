"""publish: record what the night took in and labelled, and make its data version permanent."""

from typing import TYPE_CHECKING

from components.stage.declaration import BASE, FRAMES, Needs, Paths, Port, Stage
from components.stage.learning import write_json
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import Days, checked

if TYPE_CHECKING:
    from pathlib import Path

    from perception.versioning.growing import Book
    from perception.versioning.records import Version
    from perception.versioning.tonight import Tonight


@checked
class PublishParameters:
    """Say where the data registry is, what the run is called and how long annotators have."""

    registry: str  # git repository of the data registry: a folder or a URL
    remote: str  # where the registry keeps data: a folder or s3://bucket/prefix
    store: str  # blob store; beside a folder this machine keeps what it fetched of the registry's tables
    run: str  # name of the run, part of the version's tag
    due_days: Days = 14  # until when a label is expected


def run(inputs: Paths, outputs: Paths, parameters: PublishParameters) -> dict[str, int | str]:
    """Record what the night took in, then the ledger's events, then the curated folder under a write-once tag; write version.json.

    A version that is the base's to the byte is not published again. Tells the version, how many frames are at annotators then, and
    how many of these are overdue.
    Raises Overtaken when another night took the same frames.
    """
    from dataclasses import asdict

    from perception.data.tables import read_record
    from perception.versioning.ledger import at_annotators, overdue, read_events, state
    from perception.versioning.registry import create_registry
    from perception.versioning.tonight import Tonight, book_of, kept_beside

    registry = absolute(parameters.registry)
    create_registry(registry, absolute(parameters.remote))
    tonight = read_record(inputs.one("base") / "night.json", Tonight)
    book = book_of(registry, tonight, kept_beside(absolute(parameters.store)))
    book = _record_arrivals(book, tonight, inputs.one("frames") / "taken")
    book = _record_labels(book, tonight, inputs.one("curated"), parameters.due_days)
    version = _publish(registry, parameters.run, inputs)
    write_json(outputs.one("version") / "version.json", asdict(version))
    now = state(read_events(book))
    late = overdue(now, tonight.moment)
    if len(late):
        log(f"{len(late)} labels are overdue, of {', '.join(sorted(set(late.batch)))}: ask for them, or recall them")
    return {**at_annotators(now, tonight.moment), "version": version.tag}


def _record_arrivals(book: "Book", tonight: "Tonight", taken: "Path") -> "Book":
    import pandas as pd

    from perception.versioning.pool import ARRIVALS, FRAMES, ORACLE, PROFILE, take_in

    rows = {table: pd.read_parquet(taken / f"{table.name}.parquet") for table in (ARRIVALS, FRAMES, PROFILE, ORACLE)}
    if not len(rows[ARRIVALS]):
        return book
    files = rows[ARRIVALS]
    rows[ARRIVALS] = files[[name for name in files if name in ARRIVALS.schema.names]]
    return take_in(book, tonight.night, tonight.moment, rows)


def _record_labels(book: "Book", tonight: "Tonight", curated: "Path", due_days: int) -> "Book":
    from datetime import timedelta

    import pandas as pd

    from perception.versioning.ledger import record_events
    from perception.versioning.tonight import labels_entry

    events = pd.read_parquet(curated / "events.parquet")
    if len(events):
        due = (tonight.moment + timedelta(days=due_days)).date()
        events = events.assign(when=tonight.moment, night=tonight.night, due=None)
        events.loc[events.event == "opened", "due"] = due
        return record_events(book, labels_entry(tonight), "labels", events, when=tonight.moment)
    return book


def _publish(registry: str, run: str, inputs: Paths) -> "Version":
    from perception.data.tables import read_record
    from perception.versioning.curated import VERSION
    from perception.versioning.records import Identity, Published
    from perception.versioning.registry import publish, resolve

    base, folder = inputs.one("base"), inputs.one("curated") / "version"
    if (base / VERSION).exists():
        same = read_record(base / VERSION, Identity)["manifest_sha256"]
        held = resolve(registry, read_record(base / "run.json", Published)["tag"])
        if held and same == read_record(folder / VERSION, Identity)["manifest_sha256"]:
            log(f"nothing changed: {held.tag} goes on")
            return held
    version = publish(registry, run, folder)
    log(f"published {version.tag}: {version.frames} frames, {version.new_bytes / 1e6:.1f} MB new")
    return version


STAGE = Stage(
    name="publish",
    summary="Record the night's frames and labels; publish the accepted data version: push, verify, commit, tag.",
    inputs=(
        FRAMES,
        BASE,
        Port(name="curated", about="the manifest and shards that the gate accepted, and the ledger's events"),
    ),
    outputs=(Port(name="version", about="version.json: tag, commit, manifest hash, parent"),),
    parameters=PublishParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=2),
    run=run,
)
