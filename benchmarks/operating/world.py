"""A fleet whose truth is known: drives with random effects, and networks that differ by a loss that somebody chose.

Every quantity is a parameter (`SET="world.paired_sd=0.2"`); networks are judged on the same frames, as the night judges them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from perception.metrics.confusion import mean_iou
from perception.metrics.segmentation import SegmentationScore
from perception.metrics.slices import CONDITIONS
from perception.parameters import Count, NotNegative, Positive, ShareToOne, checked

Floats = NDArray[np.float64]
CLASSES = (
    "road",
    "building",
    "sky",
    "vegetation",
    "sidewalk",
    "car",
    "terrain",
    "pole",
    "person",
    "traffic sign",
    "bicycle",
)
_COMMON, _OWN = 0.6, 0.8  # how much of a drive's effect all classes share, and each has for itself; squares sum to 1


@checked
class World:
    """Say how drives, frames and networks differ; effects are on the logit of a pixel's being right."""

    time_of_day: dict[str, NotNegative] = Field(
        default_factory=lambda: {
            "day": 0.64,
            "twilight": 0.11,
            "night": 0.09,
            "artificial_light": 0.06,
            "backlit": 0.10,
        }
    )  # share of drives
    weather: dict[str, NotNegative] = Field(
        default_factory=lambda: {"clear": 0.50, "cloudy": 0.27, "rain": 0.12, "fog": 0.05, "snow": 0.06}
    )
    scene: dict[str, NotNegative] = Field(default_factory=lambda: {"urban": 0.60, "freeway": 0.22, "unmarked": 0.18})
    class_shares: tuple[Positive, ...] = (
        0.33,
        0.22,
        0.15,
        0.08,
        0.07,
        0.05,
        0.04,
        0.03,
        0.015,
        0.01,
        0.005,
    )  # of pixels
    class_presence: tuple[ShareToOne, ...] = (
        1.0,
        0.97,
        1.0,
        0.8,
        0.9,
        0.9,
        0.7,
        0.85,
        0.6,
        0.45,
        0.35,
    )  # in a drive at all
    class_logits: tuple[float, ...] = (2.6, 1.9, 2.3, 1.2, 1.4, 0.8, 0.6, 0.2, 0.0, -0.4, -0.6)
    condition_logits: dict[str, float] = Field(
        default_factory=lambda: {
            "night": -0.7, "twilight": -0.3, "artificial_light": -0.4, "backlit": -0.3, "rain": -0.4, "fog": -0.5, "snow": -0.5,
        }
    )  # fmt: skip
    share_sd_drive: NotNegative = 0.7  # of the logarithm of a class's share
    share_sd_frame: NotNegative = 0.4
    drive_sd: NotNegative = 0.6  # what makes a drive hard for every network
    frame_sd: NotNegative = 0.4
    paired_sd: NotNegative = 0.12  # between two networks, by drive; 0.35 is a stress value
    paired_frame_sd: NotNegative = 0.25  # likewise by frame
    confusion_power: Positive = 0.7  # a wrong pixel goes to a class in proportion to its share to this power
    frames_per_drive: Count = 2
    pixels_per_frame: Annotated[int, Field(ge=100)] = 12_800

    def shares(self, column: str) -> Mapping[str, float]:
        """Return the share of drives that have each value of a column of conditions."""
        return {"time_of_day": self.time_of_day, "weather": self.weather, "scene": self.scene}[column]


@dataclass(frozen=True, eq=False)
class Fleet:
    """Hold drawn drives: facts as SegmentationScore.groups; labelled pixels and logits (drive, frame, class)."""

    world: World
    groups: pd.DataFrame
    pixels: NDArray[np.int64]
    logits: Floats

    def rows(self, condition: str) -> NDArray[np.bool_]:
        """Return which drives have a condition, column=value, or all of them for "overall": (drive,) bool."""
        column, _, value = condition.partition("=")
        return np.asarray(self.groups[column] == value, bool) if value else np.ones(len(self.groups), bool)

    def score(self, generator: np.random.Generator, loss: Floats | float = 0.0) -> SegmentationScore:
        """Judge a network of its own on these drives; loss: what is taken from its logits, to be broadcast (drive, frame, class)."""
        drives, _, classes = self.pixels.shape
        own = _effect(generator, drives, classes, self.world.paired_sd / np.sqrt(2))
        each = generator.normal(0.0, self.world.paired_frame_sd / np.sqrt(2), self.pixels.shape)
        recall = 1.0 / (1.0 + np.exp(-(self.logits + own[:, None] + each - loss)))
        right = generator.binomial(self.pixels, recall).sum(axis=1)
        wrong = self.pixels.sum(axis=1) - right
        counts = generator.multinomial(wrong, _confusions(self.world))
        counts[:, np.arange(classes), np.arange(classes)] += right
        return SegmentationScore(groups=self.groups, counts=counts, frames=_frame_names(self.groups))

    def expected_miou(self, rows: NDArray[np.bool_], loss: Floats | float = 0.0) -> float:
        """Return the mIoU on some drives of a network without effects of its own: the truth, on a large fleet."""
        recall = 1.0 / (1.0 + np.exp(-(self.logits[rows] - loss)))
        right = (self.pixels[rows] * recall).sum(axis=(0, 1))
        wrong = self.pixels[rows].sum(axis=(0, 1)) - right
        return mean_iou(np.diag(right) + wrong[:, None] * _confusions(self.world))


def draw_fleet(world: World, drives: int, generator: np.random.Generator, *, always: str = "", least: int = 0) -> Fleet:
    """Draw drives with their conditions, pixels and hardness.

    always: a condition, column=value, that every drive has; least: drives that every time of day and weather has, taken from
    the most frequent one, as a test set is put together by people.
    """
    facts = {column: _drawn(world, column, drives, generator, always) for column in CONDITIONS}
    for column in CONDITIONS[:2] if least else ():
        _fill_up(facts[column], list(world.shares(column)), least)
    names = [f"d{number:05d}" for number in range(drives)]
    groups = pd.DataFrame({"drive_id": names, **facts, "frames": world.frames_per_drive})
    classes, shape = len(world.class_shares), (drives, world.frames_per_drive, len(world.class_shares))
    shares = np.array(world.class_shares) * (generator.random((drives, classes)) < world.class_presence)
    shares = shares * np.exp(generator.normal(0.0, world.share_sd_drive, (drives, classes)))
    shares = shares[:, None] * np.exp(generator.normal(0.0, world.share_sd_frame, shape))
    pixels = generator.multinomial(world.pixels_per_frame, shares / shares.sum(axis=-1, keepdims=True))
    hardness = sum(np.array([world.condition_logits.get(value, 0.0) for value in values]) for values in facts.values())
    logits = np.array(world.class_logits) + np.asarray(hardness)[:, None]
    logits = logits + _effect(generator, drives, classes, world.drive_sd)
    each = generator.normal(0.0, world.frame_sd, (*shape[:2], 1))
    return Fleet(world, groups, pixels, logits[:, None] + each)


def logit_loss(world: World, condition: str, points: float, seed: int = 0) -> float:
    """Return what to take from the logits of a condition's drives so that the true mIoU there falls by `points` (of 100)."""
    fleet = draw_fleet(world, 4000, np.random.default_rng(seed), always=condition if "=" in condition else "")
    rows = fleet.rows(condition)
    wanted, low, high = fleet.expected_miou(rows) - points / 100, -3.0, 6.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if fleet.expected_miou(rows, middle) > wanted else (low, middle)
    return (low + high) / 2


def _drawn(world: World, column: str, drives: int, generator: np.random.Generator, always: str) -> NDArray[np.object_]:
    if always.startswith(f"{column}="):
        return np.full(drives, always.partition("=")[2], object)
    shares = world.shares(column)
    weights = np.array(list(shares.values()))
    return np.asarray(generator.choice(np.array(list(shares), object), drives, p=weights / weights.sum()))


def _fill_up(drawn: NDArray[np.object_], values: Sequence[str], least: int) -> None:
    for value in values:
        names, counts = np.unique(drawn.astype(str), return_counts=True)
        common = np.flatnonzero(drawn == names[counts.argmax()])
        short = max(0, least - int((drawn == value).sum()))
        drawn[common[:short]] = value


def _effect(generator: np.random.Generator, drives: int, classes: int, deviation: float) -> Floats:
    """Draw a drive's effect, partly common to the classes: (drive, class)."""
    common, own = generator.normal(size=(drives, 1)), generator.normal(size=(drives, classes))
    return deviation * (_COMMON * common + _OWN * own)


def _confusions(world: World) -> Floats:
    """Return where a class's wrong pixels go: (class, class), rows sum to 1, nothing on the diagonal."""
    weights = np.array(world.class_shares) ** world.confusion_power
    table = np.tile(weights, (len(weights), 1)) * (1 - np.eye(len(weights)))
    return table / table.sum(axis=1, keepdims=True)


def _frame_names(groups: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"frame_id": groups.drive_id, "drive_id": groups.drive_id})
