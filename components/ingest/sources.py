"""What a source of frames is, as params.yaml names it."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from perception.data.footage.settings import NIGHT, FootageSettings, split_at_night
from perception.parameters import BrokenRule, CountOrZero, ShareFromZero, checked
from perception.simulator.world import World, with_all_weights


@checked
class Source:
    """Describe one source of frames."""

    # scenes: rendered here; label_drop: see labels; footage (docs/footage.md), camvid, ... (docs/formats.md): read from `path`
    format: str
    split: Literal["pool", "train", "val", "test"]  # what the frames are for
    domain: Literal["real", "synthetic"]  # where they come from
    # given: every frame has its label; oracle: hidden until a frame is selected; drop: from annotation; none
    labels: Literal["given", "oracle", "none", "drop"]
    # root folder of the data set, or s3://bucket/prefix; {data} stands for DATA=, and of footage {night} for the night's UTC date
    path: str = ""
    footage: FootageSettings = FootageSettings()  # of format footage: what of it is taken, and how
    part: str = ""  # the data set's own name of the part to read, such as train or val
    initial_labelled_frames: CountOrZero = 0  # of an oracle source: drawn at random, labelled from the start
    # broken frames are left out and listed; above this share the source is refused; unset: 0.1, or 0 where labels are given
    max_rejected_fraction: ShareFromZero | None = None
    rendering: Literal["simulator", "street"] = "street"  # of scenes
    drives: CountOrZero = 0  # scenes: number of drives
    frames_per_drive: CountOrZero = 0  # scenes: near-duplicate frames in a drive
    # scenes: number of the first drive; sources with other drives share none
    first_drive: Annotated[int, Field(ge=0, lt=10**9)] = 0
    # scenes: the ranges that a drive is drawn from
    world: Annotated[World, BeforeValidator(with_all_weights)] = World()

    def __post_init__(self) -> None:
        returned = self.format == "label_drop"
        if (self.labels == "drop") != returned:
            raise BrokenRule("labels", self.labels, "is drop exactly for format label_drop")
        if returned and self.split != "train":
            raise BrokenRule("split", self.split, "of a label_drop source must be train")
        if self.split == "test" and self.max_rejected_fraction:
            rule = "must be 0 for split test: a test set with a frame missing is another test set"
            raise BrokenRule("max_rejected_fraction", self.max_rejected_fraction, rule)
        if self.format == "footage" and self.labels != "none":
            raise BrokenRule("labels", self.labels, "must be none for format footage: labels come back from annotation")
        if self.format != "footage" and self.footage != FootageSettings():
            raise BrokenRule("footage", self.footage, "is for format footage alone")
        if self.is_of_the_night and (self.format != "footage" or split_at_night(self.path)[0] in ("", "s3:/")):
            raise BrokenRule("path", self.path, "may name {night} for format footage alone, below a folder or a bucket")
        if self.format != "scenes" and not self.path:
            rule = "names the folder of the data set, DATA=DIR gives it on the command line"
            raise BrokenRule("path", self.path, rule)
        if self.format == "scenes" and not self.drives * self.frames_per_drive:
            raise BrokenRule("drives", self.drives, "scenes need drives and frames_per_drive above 0")

    @property
    def is_of_the_night(self) -> bool:
        """Return whether each night has a place of its own, where nothing need have arrived."""
        return NIGHT in self.path

    def tolerated_fraction(self) -> float:
        """Return the share of its frames that may be broken: what was asked for, else what its labels allow."""
        if self.max_rejected_fraction is not None:
            return self.max_rejected_fraction
        return 0.0 if self.labels == "given" or self.split == "test" else 0.1
