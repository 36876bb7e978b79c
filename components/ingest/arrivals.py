"""Where frames come from: the files of a data set through its reader, footage, or scenes rendered here. Label drops: returned.py."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from components.ingest.sources import Source
from components.stage.records import log
from perception.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from perception.data.decoding import BadFrame
    from perception.data.footage.reading import FootageFrame, FootageObject
    from perception.data.readers import RawFrame, Reader
    from perception.data.source_files import SourceFiles
    from perception.quality.intake import Arrival, Skipped

# object: a file of footage or a tar file, which may hold many frames; else a frame_id, with the one to three files of that frame.
LISTING_COLUMNS = ("source", "object", "drive_id", "signature")


def holds_one_frame_each(source: Source) -> bool:
    """Return whether an object of a source is a frame; of footage and tar files how many each holds is known once it was read."""
    from perception.data.readers import READERS

    return source.format != "footage" and not (source.format in READERS and READERS[source.format].shards)


def list_arrivals(name: str, source: Source, seed: int, size: tuple[int, int], night: str = "") -> "pd.DataFrame":
    """Return what a source holds, opening no image: columns LISTING_COLUMNS, one row an object.

    signature: size in bytes and time of change (of footage in a bucket the ETag) of the object's files, of a scene what it is
    rendered from, so that an object that changed is another row. seed, size: as in arrivals. night: its UTC date, for which a
    path of footage may ask.
    Raises InputError for a folder that breaks its layout, or that holds nothing and is none of a night.
    """
    import pandas as pd

    rows = [(name, *row) for row in _listed(name, source, seed, size, night)]
    if not rows and not source.is_of_the_night:
        raise InputError(
            f"source {name!r}: not one of its 0 frames can be used; mend its files or leave the source out"
        )
    return pd.DataFrame(rows, columns=list(LISTING_COLUMNS), dtype=object)


def _listed(name: str, source: Source, seed: int, size: tuple[int, int], night: str) -> Iterator[tuple[str, str, str]]:
    if source.format == "scenes":
        return _listed_scenes(source, seed, size)
    return _listed_footage(name, source, night) if source.format == "footage" else _listed_files(source)


def _listed_scenes(source: Source, seed: int, size: tuple[int, int]) -> Iterator[tuple[str, str, str]]:
    from perception.simulator.folder import scene_names

    named = scene_names(source.rendering, source.first_drive, source.drives, source.frames_per_drive)
    drawn_from = repr((source.rendering, source.world, source.frames_per_drive, seed, size))
    signature = hashlib.sha256(drawn_from.encode()).hexdigest()[:16]
    return ((frame_id, drive_id, signature) for _, drive_id, frame_ids in named for frame_id in frame_ids)


def _listed_footage(name: str, source: Source, night: str) -> Iterator[tuple[str, str, str]]:
    from perception.data.footage.reading import open_footage

    left_out: Counter[str] = Counter()
    for each in open_footage(name, source.path, source.footage).objects(night, left_out):
        yield each.name, each.drive_id, each.signature
    if left_out.total():
        kinds = ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in left_out.most_common(5) if count
        )
        log(f"source {name}: {left_out.total()} files are no footage and are left out ({kinds})")


def _listed_files(source: Source) -> Iterator[tuple[str, str, str]]:
    from perception.data.readers import open_reader
    from perception.data.source_files import open_source_files

    with open_source_files(source.path) as files:
        if shards := open_reader(source.format).shards:
            for path in shards.paths(files.root, source.part or None):
                yield path.relative_to(files.root).as_posix(), path.stem, signature_of((path,))
            return
        for each in _files(source, files):
            yield each.frame_id, each.drive_id, signature_of((each.image_path, each.label_path, each.instances_path))


def arrivals(source: Source, listed: "pd.DataFrame", seed: int, size: tuple[int, int]) -> "Iterator[Arrival]":
    """Yield the listed frames of a source that is no footage one by one, bytes not yet decoded.

    size: (height, width) of rendered scenes in pixels; seed: of their world.
    """
    return (
        _rendered(source, listed, seed, size) if source.format == "scenes" else _from_files(source, set(listed.object))
    )


def signature_of(files: "Iterable[Path | None]") -> str:
    """Return what changes when one of some files does: sizes in bytes and times of change."""
    stats = [path.stat() for path in files if path is not None and path.exists()]
    return " ".join(f"{each.st_size}:{each.st_mtime_ns}" for each in stats)


def _files(source: Source, files: "SourceFiles") -> "Iterator[Any]":
    from perception.data.readers import open_reader

    return open_reader(source.format).frames(files.root, source.part or None, source.labels == "given")


def footage_arrivals(source: Source, listed: "pd.DataFrame") -> "Iterator[Arrival | Skipped]":
    """Yield the frames and damages of the listed objects of footage one by one, bytes not yet decoded, and what was skipped."""
    from perception.data.footage.reading import FootageObject, open_footage
    from perception.quality.intake import Skipped

    footage, total = open_footage(str(listed.source.iloc[0]), source.path, source.footage), Counter[str]()
    for row in listed.sort_values(["drive_id", "object"]).itertuples():
        object, counts = FootageObject(row.object, row.drive_id, row.signature), Counter[str]()
        for frame in footage.frames(object, counts):
            yield _footage_arrival(object, f"{footage.name}/{row.object}", frame)
        total.update(counts)
        told = counts.pop("taken", 0) + counts.pop("damages", 0)
        if +counts or not told:
            yield Skipped(row.object, _counted(counts) or "holds no picture")
    log(f"{len(listed)} objects of footage: {_counted(total)}")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _footage_arrival(object: "FootageObject", where: str, frame: "FootageFrame | BadFrame") -> "Arrival":
    """Return a frame of footage, or a damage of it, as it arrives; a damage is listed under the name of its object."""
    from perception.data.decoding import BadFrame
    from perception.data.footage.reading import Lost
    from perception.quality.intake import Arrival

    image, suffix, problem = b"", "", None
    facts = Lost(object) if isinstance(frame, BadFrame) else frame
    try:
        if isinstance(frame, BadFrame):
            raise frame
        image, suffix = frame.picture.encoded()
    except BadFrame as error:
        problem = error
    return Arrival(
        facts=facts, object=object.name, image=image, image_path=f"{where}: {facts.frame_id}.{suffix}",
        label=None, label_path="", label_taxonomy="cityscapes19", problem=problem,
    )  # fmt: skip


def _from_files(source: Source, wanted: set[str]) -> "Iterator[Arrival]":
    from perception.data.readers import open_reader
    from perception.data.source_files import open_source_files

    reader = open_reader(source.format)
    with open_source_files(source.path) as files:
        if reader.shards:
            yield from _from_shards(source, reader, files, wanted)
            return
        for frame in _files(source, files):
            if frame.frame_id in wanted:
                with files.whole((frame.image_path, frame.label_path, frame.instances_path)):
                    arrival = _read(source, reader, frame, files)
                yield arrival


def _from_shards(source: Source, reader: "Reader", files: "SourceFiles", wanted: set[str]) -> "Iterator[Arrival]":
    """Yield the frames of tar files; one that cannot be read is listed as a whole, and the others go on."""
    from perception.data.decoding import BadFrame
    from perception.quality.intake import Arrival

    assert reader.shards is not None
    for path in reader.shards.paths(files.root, source.part or None):
        name = path.relative_to(files.root).as_posix()
        if name not in wanted:
            continue
        with files.whole((path,)):
            try:
                frames = list(reader.shards.frames(path, source.labels == "given"))
            except InputError as error:
                where, _, said = str(error).partition(": ")
                rule, _, remedy = said.partition("; ")
                lost = SimpleNamespace(frame_id=name, drive_id=path.stem)
                problem = BadFrame(files.name(where), rule, remedy)
                yield Arrival(
                    facts=lost, object=name, image=b"", image_path=files.name(where), label=None, label_path="",
                    label_taxonomy=reader.taxonomy, problem=problem,
                )  # fmt: skip
                continue
            for frame in frames:
                yield replace(_read(source, reader, frame, files), object=name)


def _read(source: Source, reader: "Reader", frame: "RawFrame", files: "SourceFiles") -> "Arrival":
    from perception.data.decoding import BadFrame
    from perception.quality.intake import Arrival

    try:
        image = reader.image(frame)
        label = reader.label(frame) if frame.label_path and source.labels != "none" else None
        instances = reader.instances(frame) if label is not None else None
        problem = None
    except BadFrame as bad:
        image, label, instances = b"", None, None
        problem = BadFrame(files.name(str(bad.path)), bad.rule, bad.remedy)
    return Arrival(
        facts=frame,
        image=image,
        image_path=files.name(frame.image_name),
        label=label,
        label_path=files.name(str(frame.label_path)),
        label_taxonomy=frame.label_taxonomy or reader.taxonomy,
        instances=instances,
        problem=problem,
    )


def _rendered(source: Source, listed: "pd.DataFrame", seed: int, size: tuple[int, int]) -> "Iterator[Arrival]":
    from perception.quality.intake import Arrival
    from perception.simulator.folder import encode_scene, scene_frames, scene_names

    world, rendering, wanted = source.world, source.rendering, set(listed.drive_id)
    for drive, drive_id, _ in scene_names(rendering, source.first_drive, source.drives, source.frames_per_drive):
        if drive_id not in wanted:
            continue
        for facts, scene in scene_frames(world, rendering, seed, 1, source.frames_per_drive, *size, first_drive=drive):
            encoded = encode_scene(scene)
            yield Arrival(
                facts=facts,
                image=encoded.image_jpg,
                image_path=f"{facts.frame_id}.jpg",
                label=encoded.label_png,
                label_path=f"{facts.frame_id}.label.png",
                label_taxonomy="cityscapes19",
                instances=encoded.instances_png,
            )
