"""ingest: turn one source of footage into a manifest, blobs in the store and a table of facts about every frame."""

from dataclasses import dataclass, field

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.parameters import build_parameters, did_you_mean, require
from components.stage.records import log, progress_line
from perception.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Describe one source of frames."""

    format: str  # scenes: rendered here; label_drop: see labels; camvid, ... (docs/formats.md): read from `path`
    split: str  # what the frames are for: pool, train, val or test
    domain: str  # real or synthetic
    labels: (
        str  # given: every frame has its label; oracle: hidden until a frame is selected; drop: from annotation; none
    )
    path: str = ""  # root folder of the data set; {data} stands for DATA=
    part: str = ""  # the data set's own name of the part to read, such as train or val
    initial_labelled_frames: int = 0  # of an oracle source: drawn at random, labelled from the start
    max_rejected_fraction: float = 0.1  # broken frames are left out and listed; above this share the source is refused
    rendering: str = "street"  # scenes: simulator or street
    drives: int = 0  # scenes: number of drives
    frames_per_drive: int = 0  # scenes: near-duplicate frames in a drive
    first_drive: int = 0  # scenes: number of the first drive; sources with other drives share none
    world: dict[str, object] = field(
        default_factory=dict
    )  # scenes: parameters of the world, see perception/data/scenes

    def __post_init__(self) -> None:
        require(self.split in ("pool", "train", "val", "test"), "split", self.split, "must be pool, train, val or test")
        require(self.domain in ("real", "synthetic"), "domain", self.domain, "must be real or synthetic")
        known = ("given", "oracle", "none", "drop")
        require(self.labels in known, "labels", self.labels, "must be given, oracle, none or drop")
        returned = self.format == "label_drop"
        require((self.labels == "drop") == returned, "labels", self.labels, "is drop exactly for format label_drop")
        require(not returned or self.split == "train", "split", self.split, "of a label_drop source must be train")
        require(self.rendering in ("simulator", "street"), "rendering", self.rendering, "must be simulator or street")
        share = self.max_rejected_fraction
        require(0 <= share < 1, "max_rejected_fraction", share, "must lie in [0, 1)")
        first = self.initial_labelled_frames
        require(first >= 0, "initial_labelled_frames", first, "must not be negative")
        require(0 <= self.first_drive < 10**9, "first_drive", self.first_drive, "must lie in 0..10^9 - 1")
        if self.format != "scenes":
            require(
                bool(self.path),
                "path",
                self.path,
                "names the folder of the data set, DATA=DIR gives it on the command line",
            )
        if self.format == "scenes":
            require(
                self.drives > 0 and self.frames_per_drive > 0,
                "drives",
                self.drives,
                "scenes need drives and frames_per_drive above 0",
            )


@dataclass(frozen=True, kw_only=True)
class IngestParameters:
    """Choose the source to ingest and say where its frames go."""

    source: str  # name of one entry of `sources`
    sources: dict[str, dict[str, object]]  # every source of the night by name
    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: str  # pixels of labels are counted by its classes
    height_px: int  # scenes are rendered at this size; data sets keep their own
    width_px: int
    seed: int  # of the rendered world and of the initial random draw

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed", self.seed, "must lie in 0..2^63 - 1")
        for name in ("height_px", "width_px"):
            require(0 < getattr(self, name) <= 16384, name, getattr(self, name), "must lie in 1..16384")

    def chosen(self) -> Source:
        """Return the chosen source, its fields checked."""
        if self.source not in self.sources:
            names = list(self.sources)
            hint = did_you_mean(self.source, names)
            raise InputError(f"source = {self.source!r}: no such source{hint}; params.yaml names {', '.join(names)}")
        return build_parameters(Source, self.sources[self.source], where=f"sources.{self.source}")


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
