"""What a source of frames is, as params.yaml names it."""

from dataclasses import dataclass, field

from components.stage.parameters import require


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
