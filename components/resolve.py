"""resolve: find the exact data version that this night starts from, and list the footage that has arrived."""

import os
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from components.ingest.sources import Source
from components.stage.declaration import BASE, Needs, Paths, Port, Stage
from components.stage.learning import COMMIT_VARIABLE, write_json
from components.stage.night import read_night
from components.stage.parameters import absolute
from components.stage.records import NIGHT_VARIABLE, RECORDS_VARIABLE, log
from perception.errors import InputError
from perception.parameters import BrokenRule, Count, Pixels, Seed, checked

if TYPE_CHECKING:
    import pandas as pd

    from perception.data.deny_list import DenyList
    from perception.versioning.growing import Book


@checked
class ResolveParameters:
    """Say where the data registry is, which version to start from, and where footage arrives."""

    registry: str  # git repository of the data registry: a folder or a URL; a folder that does not exist is created
    remote: str  # where the registry keeps data: a folder or s3://bucket/prefix
    store: str  # blob store: a folder or s3://bucket/prefix
    sources: dict[str, Source]  # every source of the night by name
    batch_count: Count  # batches that the listing is divided into
    run: str  # name of the night, where the engine gives it no other
    height_px: Pixels  # scenes are rendered at this size
    width_px: Pixels  # likewise
    seed: Seed  # of the rendered world
    night_date: str = ""  # UTC day of the night, such as 2026-11-30; empty: today
    revision: str = "current"  # what people promoted last, or the tag of a version

    def __post_init__(self) -> None:
        if self.night_date and not _is_day(self.night_date):
            raise BrokenRule("night_date", self.night_date, "must be a day from 2000 to 2999 such as 2026-11-30")


def _is_day(text: str) -> bool:
    try:
        return 2000 <= date.fromisoformat(text).year <= 2999  # what is counted from it stays a date
    except ValueError:
        return False


def run(inputs: Paths, outputs: Paths, parameters: ResolveParameters) -> dict[str, str | int | None]:
    """Write the resolved version (its manifest, empty on the first night, run.json and the champion where there is one), what the
    night knows of those before it and, for each batch, its share of the files that no night has read; tell base, tonight, the
    registry's commit and the code's.
    """
    from perception.data.store import open_store
    from perception.versioning.base import write_base
    from perception.versioning.denied import deny_list
    from perception.versioning.tonight import begin_night, book_and_commit, kept_beside, read_already, starts_from

    registry, remote, store = (absolute(each) for each in (parameters.registry, parameters.remote, parameters.store))
    folder = outputs.one("base")
    name = os.environ.get(NIGHT_VARIABLE) or parameters.run
    base = write_base(folder, registry, remote, open_store(store), parameters.revision, name)
    released = base.champion[:8] if base.champion else "none yet"
    log(f"data version: {base.tag or 'none yet'}, {base.frames} frames; champion: {released}")
    book, commit = book_and_commit(registry, kept_beside(store))
    tonight = begin_night(book, name, parameters.night_date or _day_of_beginning())
    write_json(folder / "night.json", vars(tonight))
    already = read_already(book, tonight)
    denied = deny_list(book)
    begun = starts_from(book, tonight)
    away = _write_listing(outputs.one("arrivals"), folder, parameters, tonight.date, begun, already, denied)
    code = os.environ.get(COMMIT_VARIABLE, "")
    return {"base": base.tag, **vars(tonight), "registry_commit": commit, "code": code, "denied_by_name": away}


def _day_of_beginning() -> str:
    """Return the UTC day on which the night began, which its first step wrote down on a cluster: a step may be tried again later."""
    begun = read_night(os.environ[RECORDS_VARIABLE]) if os.environ.get(NIGHT_VARIABLE) else None
    return (datetime.fromtimestamp(begun.started, UTC) if begun else datetime.now(UTC)).date().isoformat()


def _write_listing(
    folder: Path,
    base: Path,
    parameters: ResolveParameters,
    night: str,
    book: "Book",
    already: "pd.DataFrame | None",
    denied: "DenyList",
) -> int:
    """Write what no night has read, batch by batch, and beside the base listed.parquet: the frames that the others became; return how many
    files the deny list turned away by their names.

    night: its UTC date. already: what a night that is tried again has recorded; what has arrived since is for the next one.
    """
    import pandas as pd

    from components.ingest.arrivals import list_arrivals
    from components.ingest.returned import list_returned
    from perception.data.deny_list import FILE, to_table
    from perception.selection.shards import in_shard
    from perception.versioning.pool import handed_out, known_arrivals, unread

    sources, size = parameters.sources, (parameters.height_px, parameters.width_px)
    look_up = partial(handed_out, book)
    every = [
        list_returned(name, source, look_up)
        if source.labels == "drop"
        else list_arrivals(name, source, parameters.seed, size, night)
        for name, source in sources.items()
    ]
    listing = pd.concat(every, ignore_index=True)
    away = denied.rows(listing)
    listing = listing[~away].reset_index(drop=True)
    known = known_arrivals(book, listing[["object"]])
    new = unread(listing, known)
    if already is not None:
        new = _recorded(new, already)
    returned = look_up(new.object[new.source.isin([name for name, each in sources.items() if each.labels == "drop"])])
    for batch in range(parameters.batch_count):
        share = new[in_shard(new.drive_id, batch, parameters.batch_count)]
        (folder / str(batch)).mkdir()
        share.to_parquet(folder / str(batch) / "listing.parquet", index=False)
        returned.to_parquet(folder / str(batch) / "handed_out.parquet", index=False)
        to_table(denied).to_parquet(folder / str(batch) / FILE, index=False)
    listed = known.merge(listing[["source", "object", "signature"]].drop_duplicates())
    listed[["source", "object", "frame_id", "outcome"]].to_parquet(base / "listed.parquet", index=False)
    log(
        f"{len(listing)} files from {len(sources)} sources, {len(new)} of them not read before, in {parameters.batch_count} batches"
    )
    if away.any():
        log(f"{int(away.sum())} files are on the deny list by their names and were turned away")
    return int(away.sum())


def _recorded(new: "pd.DataFrame", already: "pd.DataFrame") -> "pd.DataFrame":
    """Return of the files that no other night has read those that this one recorded; raise InputError where one is gone."""
    key = ["source", "object", "signature"]
    wanted = already[key].drop_duplicates()
    there = new.merge(wanted)
    if len(there) < len(wanted):
        gone = wanted.merge(there[key], how="left", indicator=True).query("_merge == 'left_only'").iloc[0]
        raise InputError(
            f"source {gone.source!r}: {gone.object!r} was read by this night, and {len(wanted) - len(there)} of its {len(wanted)} "
            "files are gone or changed since; bring them back, or begin another night"
        )
    return there


STAGE = Stage(
    name="resolve",
    summary="Resolve the promoted data version to an exact commit, and list the footage that has arrived.",
    outputs=(BASE, Port(name="arrivals", about="what has arrived, one folder a batch", shares="batch")),
    parameters=ResolveParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=2),
    run=run,
)
