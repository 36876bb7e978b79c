"""Where frames come from: the files of a data set through its reader, or scenes rendered here. Label drops: returned.py."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.sources import Source
from perception.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from perception.data.footage import Footage
    from perception.data.readers import RawFrame, Reader
    from perception.quality.intake import Arrival

LISTING_COLUMNS = ("source", "object", "drive_id", "signature")


def list_arrivals(name: str, source: Source, seed: int, size: tuple[int, int]) -> "pd.DataFrame":
    """Return what a source holds, opening no image: columns LISTING_COLUMNS, one row a frame.

    object: the frame's name. signature: size in bytes and time of change of its files, of a scene what it is rendered from, so that a
    frame whose file changed is another row. seed, size: as in arrivals.
    Raises InputError for a folder that breaks its layout, or that holds nothing.
    """
    import pandas as pd

    if source.format == "scenes":
        from perception.simulator.folder import scene_names

        named = scene_names(source.rendering, source.first_drive, source.drives, source.frames_per_drive)
        drawn_from = repr((source.rendering, source.world, source.frames_per_drive, seed, size))
        signature = hashlib.sha256(drawn_from.encode()).hexdigest()[:16]
        rows = [(name, frame_id, drive_id, signature) for _, drive_id, frame_ids in named for frame_id in frame_ids]
    else:
        from perception.data.footage import open_footage

        with open_footage(source.path) as footage:
            rows = [(name, *row) for row in _listed(source, footage)]
    if not rows:
        raise InputError(
            f"source {name!r}: not one of its 0 frames can be used; mend its files or leave the source out"
        )
    return pd.DataFrame(rows, columns=list(LISTING_COLUMNS), dtype=object)


def _listed(source: Source, footage: "Footage") -> Iterator[tuple[str, str, str]]:
    for each in _files(source, footage):
        yield each.frame_id, each.drive_id, signature_of((each.image_path, each.label_path, each.instances_path))


def arrivals(source: Source, listed: "pd.DataFrame", seed: int, size: tuple[int, int]) -> "Iterator[Arrival]":
    """Yield the listed frames of a source one by one, bytes not yet decoded.

    size: (height, width) of rendered scenes in pixels; seed: of their world.
    """
    if source.format == "scenes":
        return _rendered(source, listed, seed, size)
    return _from_files(source, set(listed.object))


def signature_of(files: "Iterable[Path | None]") -> str:
    """Return what changes when one of some files does: sizes in bytes and times of change."""
    stats = [path.stat() for path in files if path is not None and path.exists()]
    return " ".join(f"{each.st_size}:{each.st_mtime_ns}" for each in stats)


def _files(source: Source, footage: "Footage") -> "Iterator[Any]":
    from perception.data.readers import open_reader

    return open_reader(source.format).frames(footage.root, source.part or None, source.labels == "given")


def _from_files(source: Source, wanted: set[str]) -> "Iterator[Arrival]":
    from perception.data.footage import open_footage
    from perception.data.readers import open_reader

    reader = open_reader(source.format)
    with open_footage(source.path) as footage:
        for frame in _files(source, footage):
            if frame.frame_id in wanted:
                with footage.whole((frame.image_path, frame.label_path, frame.instances_path)):
                    arrival = _read(source, reader, frame, footage)
                yield arrival


def _read(source: Source, reader: "Reader", frame: "RawFrame", footage: "Footage") -> "Arrival":
    from perception.data.decoding import BadFrame
    from perception.quality.intake import Arrival

    try:
        image = reader.image(frame)
        label = reader.label(frame) if frame.label_path and source.labels != "none" else None
        instances = reader.instances(frame) if label is not None else None
        problem = None
    except BadFrame as bad:
        image, label, instances = b"", None, None
        problem = BadFrame(footage.name(str(bad.path)), bad.rule, bad.remedy)
    return Arrival(
        facts=frame,
        image=image,
        image_path=footage.name(frame.image_name),
        label=label,
        label_path=footage.name(str(frame.label_path)),
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
