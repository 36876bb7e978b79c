"""Where frames come from: the files of a data set through its reader, label drops, or scenes rendered here."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.sources import Source

if TYPE_CHECKING:
    import pandas as pd

    from perception.data.footage import Footage
    from perception.data.readers import RawFrame, Reader
    from perception.data.store import Store
    from perception.quality.intake import Arrival

LISTING_COLUMNS = ("source", "frame_id", "drive_id", "files")


def list_arrivals(name: str, source: Source) -> "pd.DataFrame":
    """Return what a source holds, opening no image: columns LISTING_COLUMNS, one row a frame.

    files: size in bytes and time of change of the frame's files, so that a frame whose file changed is another row.
    Raises InputError for a folder that breaks its layout.
    """
    import pandas as pd

    if source.format == "scenes":
        from perception.simulator.folder import scene_names

        named = scene_names(source.rendering, source.first_drive, source.drives, source.frames_per_drive)
        rows = [(name, frame_id, drive_id, "") for _, drive_id, frame_ids in named for frame_id in frame_ids]
    else:
        from perception.data.footage import open_footage

        with open_footage(source.path) as footage:
            rows = [(name, *row) for row in _listed(source, footage)]
    return pd.DataFrame(rows, columns=list(LISTING_COLUMNS), dtype=object)


def _listed(source: Source, footage: "Footage") -> Iterator[tuple[str, str, str]]:
    if source.format == "label_drop":
        from perception.data.annotation import label_files

        for drop, frame in _labelled(footage):
            yield str(frame.frame_id), str(frame.drive_id), _signature(label_files(drop, frame.frame_id))
        return
    for each in _files(source, footage):
        yield each.frame_id, each.drive_id, _signature((each.image_path, each.label_path, each.instances_path))


def arrivals(
    source: Source, listed: "pd.DataFrame", store: "Store", seed: int, size: tuple[int, int]
) -> "Iterator[Arrival]":
    """Yield the listed frames of a source one by one, bytes not yet decoded.

    size: (height, width) of rendered scenes in pixels; seed: of their world. store: where the images of label drops lie.
    """
    if source.format == "label_drop":
        return _from_annotation(source, set(listed.frame_id), store)
    if source.format == "scenes":
        return _rendered(source, set(listed.drive_id), seed, size)
    return _from_files(source, set(listed.frame_id))


def _signature(files: "Iterable[Path | None]") -> str:
    stats = [path.stat() for path in files if path is not None and path.exists()]
    return " ".join(f"{each.st_size}:{each.st_mtime_ns}" for each in stats)


def _labelled(footage: "Footage") -> "Iterator[tuple[Any, Any]]":
    from perception.data.annotation import newest_labels, open_drops

    return newest_labels(open_drops(footage.root))


def _files(source: Source, footage: "Footage") -> "Iterator[Any]":
    from perception.data.readers import open_reader

    return open_reader(source.format).frames(footage.root, source.part or None, source.labels == "given")


def _from_annotation(source: Source, wanted: set[str], store: "Store") -> "Iterator[Arrival]":
    """Yield the labelled frames of the label drops below `path`; their images come from the store, not from the drop."""
    from perception.data.annotation import drop_label, label_files
    from perception.data.decoding import BadFrame
    from perception.data.footage import open_footage
    from perception.quality.intake import Arrival

    with open_footage(source.path) as footage:
        for drop, frame in _labelled(footage):
            if frame.frame_id not in wanted:
                continue
            with footage.whole(label_files(drop, frame.frame_id)):
                try:
                    label = drop_label(drop, frame.frame_id, (int(frame.height_px), int(frame.width_px)))
                    problem = None
                except BadFrame as bad:
                    label, problem = None, BadFrame(footage.name(str(bad.path)), bad.rule, bad.remedy)
            yield Arrival(
                facts=frame,
                image=store.get(frame.image_uri),
                image_path=frame.image_uri,
                label=label,
                label_path=footage.name(f"{drop.folder}: {frame.frame_id}"),
                label_taxonomy=drop.taxonomy.name,
                problem=problem,
                label_drop=drop.name,
            )


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


def _rendered(source: Source, wanted: set[str], seed: int, size: tuple[int, int]) -> "Iterator[Arrival]":
    from perception.quality.intake import Arrival
    from perception.simulator.folder import encode_scene, scene_frames, scene_names

    world, rendering = source.world, source.rendering
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
