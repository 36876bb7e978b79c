"""Where frames come from: the files of a data set through its reader, or scenes rendered here."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.ingest import IngestParameters, Source

if TYPE_CHECKING:
    from perception.quality.intake import Arrival


def arrivals(source: Source, parameters: IngestParameters) -> "tuple[Iterator[Arrival], int]":
    """Return the source's frames one by one, bytes not yet decoded, and how many there are."""
    if source.format == "label_drop":
        return _from_annotation(source, parameters)
    return _rendered(source, parameters) if source.format == "scenes" else _from_files(source)


def _from_annotation(source: Source, parameters: IngestParameters) -> "tuple[Iterator[Arrival], int]":
    """Return the labelled frames of the label drops below `path`; their images come from the store, not from the drop."""
    from perception.data.annotation import drop_label, newest_labels, open_drops
    from perception.data.decoding import BadFrame
    from perception.data.store import open_store
    from perception.quality.intake import Arrival

    store = open_store(parameters.store)
    labelled = list(newest_labels(open_drops(Path(source.path))))

    def each() -> "Iterator[Arrival]":
        for drop, frame in labelled:
            try:
                label = drop_label(drop, frame.frame_id, (int(frame.height_px), int(frame.width_px)))
                problem = None
            except BadFrame as bad:
                label, problem = None, bad
            yield Arrival(
                facts=frame,
                image=store.get(frame.image_uri),
                image_path=frame.image_uri,
                label=label,
                label_path=f"{drop.folder}: {frame.frame_id}",
                label_taxonomy=drop.taxonomy.name,
                problem=problem,
                label_drop=drop.name,
            )

    return each(), len(labelled)


def _from_files(source: Source) -> "tuple[Iterator[Arrival], int]":
    from perception.data.decoding import BadFrame
    from perception.data.readers import open_reader
    from perception.quality.intake import Arrival

    reader = open_reader(source.format)
    wants_labels = source.labels != "none"
    frames = list(reader.frames(Path(source.path), source.part or None, source.labels == "given"))

    def each() -> "Iterator[Arrival]":
        for frame in frames:
            try:
                image = reader.image(frame)
                label = reader.label(frame) if frame.label_path and wants_labels else None
                instances = reader.instances(frame) if label is not None else None
                problem = None
            except BadFrame as bad:
                image, label, instances, problem = b"", None, None, bad
            yield Arrival(
                facts=frame,
                image=image,
                image_path=frame.image_name,
                label=label,
                label_path=str(frame.label_path),
                label_taxonomy=frame.label_taxonomy or reader.taxonomy,
                instances=instances,
                problem=problem,
            )

    return each(), len(frames)


def _rendered(source: Source, parameters: IngestParameters) -> "tuple[Iterator[Arrival], int]":
    from perception.quality.intake import Arrival
    from perception.simulator.folder import encode_scene, scene_frames

    size = {"height_px": parameters.height_px, "width_px": parameters.width_px}

    def each() -> "Iterator[Arrival]":
        for facts, scene in scene_frames(
            source.world,
            source.rendering,
            seed=parameters.seed,
            drives=source.drives,
            frames_per_drive=source.frames_per_drive,
            first_drive=source.first_drive,
            **size,
        ):
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

    return each(), source.drives * source.frames_per_drive
