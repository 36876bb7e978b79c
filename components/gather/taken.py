"""What the night takes in of the files that arrived: one frame for the same bytes, and none for a name that has other bytes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from components.ingest.sources import Source
from components.stage.declaration import Paths
from components.stage.parameters import shared_fields
from perception.data.deny_list import DenyList
from perception.data.store import Store
from perception.data.tables import read_table
from perception.errors import InputError
from perception.quality.intake import Intake, SourceRules, check_source, join_intakes, read_intake, reveal_first
from perception.versioning.growing import Book
from perception.versioning.growing import read_table as read_book
from perception.versioning.pool import ADMITTED, FRAMES, known_arrivals, sort_arrivals

if TYPE_CHECKING:
    from components.gather import GatherParameters


def take_files(
    inputs: Paths, book: Book, parameters: "GatherParameters", store: Store, denied: DenyList
) -> tuple[Intake, pd.DataFrame]:
    """Return the frames that the night takes in, with what was rejected, and every file that it read with its outcome.

    Raises InputError when too many files of a source are broken, and for a source with labels whose frames changed.
    """
    arrived = join_intakes([read_intake(path) for path in inputs.many("arrived")])
    columns = {"source": "text", "object": "text", "frame_id": "text?"}
    listed = read_table(inputs.one("base") / "listed.parquet", columns)
    for name, source in parameters.sources.items():
        rule = shared_fields(SourceRules, source, max_rejected_fraction=source.tolerated_fraction())
        known = listed["object" if source.format == "footage" else "frame_id"][listed.source == name].nunique()
        check_source(arrived, name, rule, known)
    arrived = _one_content_an_image(arrived, book)
    named = arrived.read.assign(name=arrived.read.frame_id)
    files = sort_arrivals(named, known_arrivals(book, arrived.read), denied)
    clashes = files[files.outcome == "clash"]
    _check_unchanged(clashes, parameters.sources)
    taken = _admitted(arrived, files)
    labelled = set(read_book(book, FRAMES, columns=["source"], where={"label_source": ["human"]}).source)
    for name, source in parameters.sources.items():
        if source.initial_labelled_frames and name not in labelled:
            taken = reveal_first(
                taken, name, source.initial_labelled_frames, store, parameters.taxonomy, parameters.seed
            )
    told = clashes.assign(path=clashes.object, rule=clashes.reason, remedy="give it another name")
    rejected = [arrived.rejected, told[["source", "path", "frame_id", "rule", "remedy"]]]
    return replace(taken, rejected=pd.concat([each for each in rejected if len(each)] or rejected[:1])), files


def _one_content_an_image(arrived: Intake, book: Book) -> Intake:
    """Give frames with one stored image one source_sha256: that of the known frame, which a label comes back to, else of the first."""
    of_images = ["image_sha256", "source_sha256"]
    known = read_book(book, FRAMES, columns=of_images, where={"image_sha256": arrived.manifest.image_sha256.tolist()})
    key = ["source", "frame_id", "source_sha256"]
    images = arrived.manifest[[*key, "image_sha256"]].drop_duplicates(key)
    read = arrived.read.sort_values(["source", "object", "frame_id"]).merge(images, how="left", on=key)
    first = pd.concat([known, read[of_images].dropna()]).drop_duplicates("image_sha256")
    content = first.set_index("image_sha256").source_sha256
    return replace(
        arrived,
        manifest=arrived.manifest.assign(source_sha256=arrived.manifest.image_sha256.map(content)),
        read=read.assign(source_sha256=read.image_sha256.map(content).astype(object).fillna(read.source_sha256)).drop(
            columns="image_sha256"
        ),
    )


def _check_unchanged(clashes: pd.DataFrame, sources: Mapping[str, Source]) -> None:
    given = clashes[clashes.source.map({name: source.labels == "given" for name, source in sources.items()}).eq(True)]
    if len(given):
        first = given.iloc[0]
        raise InputError(
            f"source {first.source!r}: {len(given)} of its files have other bytes than the frames of their names that the "
            f"registry holds ({first.frame_id} first); give them other names, or the night another registry (common.registry)"
        )


def _admitted(arrived: Intake, files: pd.DataFrame) -> Intake:
    """Return the rows of admitted files under their frames' names; of a frame that came twice the last one."""
    rows = files[files.outcome.isin(ADMITTED)]
    keys = zip(rows.source, rows["name"], rows.source_sha256, strict=True)
    names = {key: (place, frame_id) for place, (key, frame_id) in enumerate(zip(keys, rows.frame_id, strict=True))}

    def renamed(table: pd.DataFrame, sha256: "pd.Series[str]") -> pd.DataFrame:
        found = [names.get(key) for key in zip(table.source, table.frame_id, sha256, strict=True)]
        here = pd.Series([each is not None for each in found], table.index, dtype=bool)
        places, ids = zip(*filter(None, found), strict=True) if here.any() else ((), ())
        mine = table[here].assign(frame_id=list(ids), place=list(places)).sort_values("place")
        return mine.drop_duplicates("frame_id", keep="last").drop(columns="place").reset_index(drop=True)

    frames, oracle = arrived.manifest, arrived.oracle.drop_duplicates(["source", "frame_id"])
    return replace(
        arrived,
        manifest=renamed(frames, frames.source_sha256),
        profile=renamed(
            arrived.profile, _content_of(arrived.profile, frames.assign(image_sha256_actual=frames.image_sha256))
        ),
        oracle=renamed(oracle, _content_of(oracle, frames)),
    )


def _content_of(table: pd.DataFrame, frames: pd.DataFrame) -> "pd.Series[str]":
    """Return source_sha256 of each row's frame, which is found by the columns that both have of a frame and its image."""
    keys = [name for name in ("source", "frame_id", "image_sha256_actual") if name in table]
    known = frames.drop_duplicates(keys)[[*keys, "source_sha256"]]
    return table[keys].merge(known, how="left", on=keys).source_sha256
