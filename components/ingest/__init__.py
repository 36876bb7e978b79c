"""ingest: turn one batch of what has arrived into a manifest, blobs in the store and a table of facts about every frame."""

from collections.abc import Iterator

from components.ingest.sources import Source
from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import Taxonomy
from components.stage.parameters import shared_fields
from components.stage.records import log, progress_line
from perception.parameters import BrokenRule, Count, CountOrZero, Pixels, Seed, checked


@checked
class IngestParameters:
    """Choose the batch and say where its frames go."""

    batch: CountOrZero  # which share of the listing is taken in
    batch_count: Count  # shares that the listing is divided into
    sources: dict[str, Source]  # every source of the night by name
    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    height_px: Pixels  # scenes are rendered at this size; data sets keep their own
    width_px: Pixels  # likewise
    seed: Seed  # of the rendered world

    def __post_init__(self) -> None:
        if self.batch >= self.batch_count:
            raise BrokenRule("batch", self.batch, f"must lie in 0..{self.batch_count - 1}")


def run(inputs: Paths, outputs: Paths, parameters: IngestParameters) -> None:
    """Write the batch's frames folder: manifest, profile, rejected and the hidden labels; of an empty batch an empty one."""
    from dataclasses import replace

    import pandas as pd

    from components.ingest.arrivals import arrivals, footage_arrivals, holds_one_frame_each
    from components.ingest.returned import returned
    from perception.data.deny_list import read_deny_list
    from perception.data.store import open_store
    from perception.quality.intake import (
        Arrival,
        IntakeSettings,
        Skipped,
        admit_frames,
        join_intakes,
        write_frames_folder,
    )

    listing = pd.read_parquet(inputs.one("arrivals") / "listing.parquet")
    handed_out = pd.read_parquet(inputs.one("arrivals") / "handed_out.parquet")
    denied = read_deny_list(inputs.one("arrivals"))
    store, size, intakes = open_store(parameters.store), (parameters.height_px, parameters.width_px), []
    for name, listed in listing.groupby("source"):
        source = parameters.sources[str(name)]
        settings = shared_fields(IntakeSettings, source, source=str(name), taxonomy=parameters.taxonomy)
        arriving: Iterator[Arrival | Skipped]
        if source.labels == "drop":
            arriving = returned(source, listed, store, handed_out, parameters.taxonomy)
        elif source.format == "footage":
            arriving = footage_arrivals(source, listed)
        else:
            arriving = arrivals(source, listed, parameters.seed, size)
        progress = progress_line(f"ingest {name}") if holds_one_frame_each(source) else None
        intake = admit_frames(arriving, len(listed), store, settings, denied, progress=progress)
        signatures = listed.set_index("object").signature
        intakes.append(replace(intake, read=intake.read.assign(signature=intake.read.object.map(signatures))))
    intake = join_intakes(intakes)
    write_frames_folder(intake, outputs.one("arrived"), repeats=True)
    log(f"batch {parameters.batch}: {len(intake.manifest)} frames, {len(intake.rejected)} rejected")


STAGE = Stage(
    name="ingest",
    summary="Turn one batch of what has arrived into a manifest, blobs in the store and facts about every frame.",
    inputs=(Port(name="arrivals", about="the batch's share of the listing", shares="batch"),),
    outputs=(Port(name="arrived", about="manifest, profile and list of rejected files of the batch"),),
    parameters=IngestParameters,
    needs=Needs(image="torch", loads="pandas", cpu_cores=2, memory_gib=4),
    run=run,
)
