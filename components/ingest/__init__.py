"""ingest: turn one source of footage into a manifest, blobs in the store and a table of facts about every frame."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import Taxonomy
from components.stage.parameters import did_you_mean
from components.stage.records import log, progress_line
from perception.errors import InputError
from perception.parameters import BrokenRule, CountOrZero, Pixels, Seed, ShareFromZero, checked
from perception.simulator.world import World, with_all_weights


@checked
class Source:
    """Describe one source of frames."""

    format: str  # scenes: rendered here; label_drop: see labels; camvid, ... (docs/formats.md): read from `path`
    split: Literal["pool", "train", "val", "test"]  # what the frames are for
    domain: Literal["real", "synthetic"]  # where they come from
    # given: every frame has its label; oracle: hidden until a frame is selected; drop: from annotation; none
    labels: Literal["given", "oracle", "none", "drop"]
    path: str = ""  # root folder of the data set; {data} stands for DATA=
    part: str = ""  # the data set's own name of the part to read, such as train or val
    initial_labelled_frames: CountOrZero = 0  # of an oracle source: drawn at random, labelled from the start
    # broken frames are left out and listed; above this share the source is refused
    max_rejected_fraction: ShareFromZero = 0.1
    rendering: Literal["simulator", "street"] = "street"  # of scenes
    drives: CountOrZero = 0  # scenes: number of drives
    frames_per_drive: CountOrZero = 0  # scenes: near-duplicate frames in a drive
    # scenes: number of the first drive; sources with other drives share none
    first_drive: Annotated[int, Field(ge=0, lt=10**9)] = 0
    # scenes: the ranges that a drive is drawn from
    world: Annotated[World, BeforeValidator(with_all_weights)] = Field(default_factory=World)

    def __post_init__(self) -> None:
        returned = self.format == "label_drop"
        if (self.labels == "drop") != returned:
            raise BrokenRule("labels", self.labels, "is drop exactly for format label_drop")
        if returned and self.split != "train":
            raise BrokenRule("split", self.split, "of a label_drop source must be train")
        if self.format != "scenes" and not self.path:
            rule = "names the folder of the data set, DATA=DIR gives it on the command line"
            raise BrokenRule("path", self.path, rule)
        if self.format == "scenes" and not self.drives * self.frames_per_drive:
            raise BrokenRule("drives", self.drives, "scenes need drives and frames_per_drive above 0")


@checked
class IngestParameters:
    """Choose the source to ingest and say where its frames go."""

    source: str  # name of one entry of `sources`
    sources: dict[str, Source]  # every source of the night by name
    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    height_px: Pixels  # scenes are rendered at this size; data sets keep their own
    width_px: Pixels  # likewise
    seed: Seed  # of the rendered world and of the initial random draw

    def chosen(self) -> Source:
        """Return the chosen source."""
        if self.source not in self.sources:
            names = list(self.sources)
            hint = did_you_mean(self.source, names)
            raise InputError(f"source = {self.source!r}: no such source{hint}; params.yaml names {', '.join(names)}")
        return self.sources[self.source]


def run(inputs: Paths, outputs: Paths, parameters: IngestParameters) -> None:
    """Write the frames folder of the source: manifest, profile, rejected and, for an oracle, the hidden labels."""
    from components.ingest.arrivals import arrivals
    from perception.data.store import open_store
    from perception.quality.intake import IntakeSettings, admit_frames, write_frames_folder

    source = parameters.chosen()
    settings = IntakeSettings(
        source=parameters.source,
        split=source.split,
        domain=source.domain,
        labels=source.labels,
        taxonomy=parameters.taxonomy,
        initial_labelled_frames=source.initial_labelled_frames,
        max_rejected_fraction=source.max_rejected_fraction,
        seed=parameters.seed,
    )
    arriving, count = arrivals(source, parameters)
    progress = progress_line(f"ingest {parameters.source}")
    intake = admit_frames(arriving, count, open_store(parameters.store), settings, progress=progress)
    write_frames_folder(intake, outputs.one("arrived"))
    log(f"{parameters.source}: {len(intake.manifest)} frames, {len(intake.rejected)} rejected")


STAGE = Stage(
    name="ingest",
    summary="Turn one source of footage into a manifest, blobs in the store and facts about every frame.",
    outputs=(Port(name="arrived", kind="frames", about="manifest, profile and list of rejected files of the source"),),
    parameters=IngestParameters,
    needs=Needs(image="torch", loads="pandas", cpu_cores=2, memory_gib=4),
    run=run,
)
