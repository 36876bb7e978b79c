"""gather: put what arrived and what the registry holds together into the night's one manifest, and say whether there is news."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from components.ingest.sources import Source
from components.stage.declaration import BASE, Needs, Paths, Port, Stage
from components.stage.learning import COMMIT_VARIABLE, Taxonomy, write_json
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import Count, CountOrZero, Days, Seed, checked

if TYPE_CHECKING:
    import pandas as pd

    from perception.quality.intake import Intake
    from perception.versioning.growing import Book
    from perception.versioning.tonight import Tonight


@checked
class GatherParameters:
    """Say what is asked of each source as a whole, and how long the pool lasts."""

    sources: dict[str, Source]  # every source of the night by name
    registry: str  # git repository of the data registry: a folder or a URL
    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    seed: Seed  # of the initial random draw
    settings_sha256: str = ""  # of all parameters of the night: a night with other ones has news
    max_age_days: Days = 90  # unlabelled frames leave the pool so long after they arrived
    max_pool_frames: Count = 10_000_000  # beyond so many unlabelled frames the oldest leave
    tolerated_labels: CountOrZero = 10  # labels that came back broken and stop no night, whatever their share


def run(inputs: Paths, outputs: Paths, parameters: GatherParameters) -> dict[str, str | int]:
    """Write the night's frames folder, in taken/ what it adds to the pool of record, in labels.parquet what came back, in
    fresh.parquet which of these judge tonight's networks, and in corrections.csv which labels go back to their annotators.

    Gives news as "some" or "nothing"; tells how many files were new, repeated, a clash, rejected or denied, how many frames wait in
    the pool, are at annotators (overdue) and, in the version that the night starts from, have a label by people.
    """
    from dataclasses import replace

    from components.gather.known import known_frames
    from components.gather.labels import corrections, fresh_tonight, returned_labels, with_reasons
    from components.gather.taken import take_files
    from perception.data.store import open_store
    from perception.data.tables import read_record
    from perception.quality.intake import gate_table, write_frames_folder
    from perception.versioning.denied import deny_list
    from perception.versioning.growing import open_book
    from perception.versioning.tonight import Tonight, kept_beside, left_unused, starts_from

    store, folder, base = open_store(parameters.store), outputs.one("frames"), inputs.one("base")
    tonight = read_record(base / "night.json", Tonight)
    whole = open_book(absolute(parameters.registry), kept_beside(absolute(parameters.store)))
    book, denied = starts_from(whole, tonight), deny_list(whole)
    taken, files = take_files(inputs, book, parameters, store, denied)
    night = _together(known_frames(base, book, tonight, parameters, store, files, denied), taken)
    night = replace(night, manifest=with_reasons(night.manifest, book))
    write_frames_folder(night, folder)
    _write_taken(taken, files, folder / "taken")
    labels = returned_labels(files, night.manifest[night.manifest.label_source == "human"], book)
    labels.to_parquet(folder / "labels.parquet", index=False)
    fresh_tonight(labels, book).to_parquet(folder / "fresh.parquet", index=False)
    corrections(files).to_csv(folder / "corrections.csv", index=False, lineterminator="\n")
    table = gate_table(night.manifest, night.profile)
    table.assign(returned=_returned(night.manifest, files)).to_parquet(folder / "gate.parquet", index=False)
    write_json(folder / "gate_parameters.json", {"min_returned_labels": _least_sound(files, parameters)})
    code = os.environ.get(COMMIT_VARIABLE, "")
    unused = left_unused(book, tonight, parameters=parameters.settings_sha256, code=code)
    counts = {
        name: int((files.outcome == name).sum())
        for name in ("new", "relabelled", "repeated", "clash", "rejected", "denied")
    }
    counts["labels"] = int(labels.event.isin(["accepted"]).sum())
    what = [name for name in ("new", "relabelled", "labels") if counts[name]] + list(unused)
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    log(f"{len(night.manifest)} frames tonight; files: {told or 'none unread'}; news: {', '.join(what) or 'none'}")
    waiting = int((night.manifest.split == "pool").sum())
    return {"news": "some" if what else "nothing", "pool": waiting, **counts, **_stock(base, book, tonight)}


def _stock(base: Path, book: "Book", tonight: "Tonight") -> dict[str, int]:
    """Return what a night that publishes nothing leaves as it was; of others later tasks tell it anew, under the same names."""
    from perception.data.manifest import read_manifest
    from perception.versioning.ledger import at_annotators, read_events, state

    held = read_manifest(base / "manifest.parquet", columns=["label_source"], split="train")
    return {
        "human_labels": int((held.label_source == "human").sum()),
        **at_annotators(state(read_events(book)), tonight.moment),
    }


def _together(known: "Intake", taken: "Intake") -> "Intake":
    """Return the night's frames: what it takes in stands in the place of what was known of the same frame."""
    from dataclasses import fields

    from perception.quality.intake import Intake, join_intakes

    mine = set(taken.manifest.frame_id)
    parts = {each.name: getattr(known, each.name) for each in fields(known)}
    rest = {name: table[~table.frame_id.isin(mine)] for name, table in parts.items()}
    return join_intakes([taken, Intake(**rest)])


def _write_taken(taken: "Intake", files: "pd.DataFrame", folder: Path) -> None:
    folder.mkdir()
    tables = {"arrivals": files, "frames": taken.manifest, "profile": taken.profile, "oracle": taken.oracle}
    for name, rows in tables.items():
        rows.to_parquet(folder / f"{name}.parquet", index=False)


def _returned(manifest: "pd.DataFrame", files: "pd.DataFrame") -> "pd.Series[bool]":
    came = files[files.label_drop.notna() & (files.outcome != "rejected")]
    return manifest.frame_id.isin(came.frame_id)


def _least_sound(files: "pd.DataFrame", parameters: GatherParameters) -> int:
    """Return how many of the labels that came back must be sound for the night to go on."""
    came = files[files.label_drop.notna()]
    tolerated = (
        parameters.sources[name].tolerated_fraction() * count for name, count in came.source.value_counts().items()
    )
    return max(0, len(came) - max(parameters.tolerated_labels, int(sum(tolerated))))


STAGE = Stage(
    name="gather",
    summary="Put what arrived and what the registry holds together into the night's one manifest, and say whether there is news.",
    inputs=(Port(name="arrived", about="frames folders, one a batch", many=True), BASE),
    outputs=(
        Port(
            name="frames",
            about="tonight's frames: manifest, profile, rejected and hidden; taken/: what is new; corrections.csv: labels that go back",
            gate_table=True,
        ),
    ),
    value="news",
    parameters=GatherParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=4),
    run=run,
)
