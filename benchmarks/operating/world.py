"""A fleet whose truth is known: drives with random effects, and networks that differ by a loss that somebody chose.

Every quantity is a parameter (`SET="world.paired_sd=0.2"`); networks are judged on the same frames, as the night judges them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import interpolate, special

from perception.errors import InputError
from perception.metrics.confusion import iou_of_tallies, mean_known, tallies
from perception.metrics.contract import CLASS
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
LARGE = 10_000  # drives, to know the truth by
_AMOUNTS = np.linspace(-3.0, 5.0, 25)  # taken from logits, between which the truth is interpolated
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

    def rows(self, figure: str) -> NDArray[np.bool_]:
        """Return which drives a figure rests on: those in its condition, or all: (drive,) bool."""
        column, _, value = figure.partition("=")
        return (
            np.asarray(self.groups[column] == value, bool) if column in CONDITIONS else np.ones(len(self.groups), bool)
        )

    def loss(self, figure: str, amount: float) -> Floats:
        """Return what is taken from the logits where a figure alone gets worse: to be broadcast (drive, frame, class)."""
        only = class_of(figure)
        classes = (
            np.ones(len(self.world.class_shares)) if only is None else np.arange(len(self.world.class_shares)) == only
        )
        return amount * self.rows(figure)[:, None, None] * classes

    def score(self, generator: np.random.Generator, loss: Floats | float = 0.0) -> SegmentationScore:
        """Judge a network of its own on these drives; loss: what is taken from its logits, to be broadcast (drive, frame, class)."""
        classes = self.pixels.shape[-1]
        recall = special.expit(self.logits + self._own(generator) - loss)
        right = generator.binomial(self.pixels, recall).sum(axis=1)
        wrong = self.pixels.sum(axis=1) - right
        counts = generator.multinomial(wrong, _confusions(self.world))
        counts[:, np.arange(classes), np.arange(classes)] += right
        return SegmentationScore(groups=self.groups, counts=counts, frames=_frame_names(self.groups))

    def _own(self, generator: np.random.Generator) -> Floats:
        """Draw the effects that a network has for itself, so that two differ by what the world says: (drive, frame, class)."""
        drives, _, classes = self.pixels.shape
        by_drive = _effect(generator, drives, classes, self.world.paired_sd / np.sqrt(2))
        return by_drive[:, None] + generator.normal(0.0, self.world.paired_frame_sd / np.sqrt(2), self.pixels.shape)

    def expected(self, figure: str, loss: Floats | float = 0.0) -> float:
        """Return the figure that networks have in the mean: the truth, on a large fleet."""
        rows = self.rows(figure)
        recall = special.expit(self.logits + self._own(np.random.default_rng(0)) - loss)[rows]
        right = (self.pixels[rows] * recall).sum(axis=(0, 1))
        wrong = self.pixels[rows].sum(axis=(0, 1)) - right
        values = iou_of_tallies(tallies(np.diag(right) + wrong[:, None] * _confusions(self.world)))
        only = class_of(figure)
        return float(mean_known(values) if only is None else values[only])


def draw_fleet(world: World, drives: int, generator: np.random.Generator, *, always: str = "", least: int = 0) -> Fleet:
    """Draw drives with their conditions, pixels and hardness.

    always: a condition, column=value, that every drive has; least: drives that every time of day and weather has, taken from
    the most frequent one, as a test set is put together by people.
    """
    facts = {column: _drawn(world, column, drives, generator, always) for column in CONDITIONS}
    for column in CONDITIONS[:2]:
        if not always.startswith(f"{column}="):
            _fill_up(facts[column], list(world.shares(column)), least, generator)
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


def class_of(figure: str) -> int | None:
    """Return the number of the class that a figure is of; None for mIoU."""
    return CLASSES.index(figure.removeprefix(CLASS)) if figure.startswith(CLASS) else None


def population(world: World, figure: str, least_share: float) -> Fleet:
    """Return drives enough to know a figure's truth by, mixed as in a test set; all are in the figure's condition, if it has one.

    least_share: of the test set, that every time of day and weather was filled up to.
    """
    always = figure if figure.partition("=")[0] in CONDITIONS else ""
    return draw_fleet(world, LARGE, np.random.default_rng(0), always=always, least=round(least_share * LARGE))


def logit_losses(truth: Fleet, figure: str, falls: Sequence[float]) -> list[float]:
    """Return what to take from the logits so that the true figure falls by as much, for each of several falls of it (0 to 1).

    The truth is worked out on a population at some amounts, and interpolated between them. Raises InputError for a fall out of reach.
    """
    values = np.array([truth.expected(figure, truth.loss(figure, amount)) for amount in _AMOUNTS])
    fallen = truth.expected(figure) - values
    if not fallen[0] < min(falls) <= max(falls) < fallen[-1]:
        raise InputError(
            f"a fall of {figure} by {max(falls):g}: must lie between {fallen[0]:.3f} and {fallen[-1]:.3f} in this world"
        )
    return [float(each) for each in interpolate.PchipInterpolator(fallen, _AMOUNTS)(falls)]


def with_share(world: World, condition: str, share: float) -> World:
    """Return a world where a condition, column=value, is of that share of the drives and all others of the column share the rest."""
    column, _, value = condition.partition("=")
    others = {name: each for name, each in world.shares(column).items() if name != value}
    scaled = {name: each * (1.0 - share) / sum(others.values()) for name, each in others.items()}
    return replace(world, **{column: scaled | {value: share}})


def _drawn(world: World, column: str, drives: int, generator: np.random.Generator, always: str) -> NDArray[np.object_]:
    if always.startswith(f"{column}="):
        return np.full(drives, always.partition("=")[2], object)
    shares = world.shares(column)
    weights = np.array(list(shares.values()))
    return np.asarray(generator.choice(np.array(list(shares), object), drives, p=weights / weights.sum()))


def _fill_up(drawn: NDArray[np.object_], values: Sequence[str], least: int, generator: np.random.Generator) -> None:
    """Turn drives of the value that is most frequent, whichever, into ones of each that too few have."""
    rows = {value: generator.permutation(np.flatnonzero(drawn == value)).tolist() for value in values}
    for own in rows.values():
        while len(own) < least:
            own.append(max(rows.values(), key=len).pop())
    for value, own in rows.items():
        drawn[own] = value


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
