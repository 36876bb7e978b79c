"""What a selection is told: how many frames, by which strategy, with which quotas."""

import math
from dataclasses import dataclass

from perception.errors import InputError

STRATEGIES = ("top_n", "k_centre", "kmeans_plus_plus", "core_set", "random")
METRICS = ("euclidean", "cosine")
DUPLICATE_RULES = ("any", "all")


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Ask that a share of the budget goes to one kind of frame: a condition, or frames that show a class.

    A condition: column and value. A class: class_id and class_share, the least predicted share of pixels.
    """

    minimum_share: float  # share of the budget that goes to these frames, if the pool has them
    column: str | None = None  # column of the candidates, for example time_of_day
    value: str | None = None  # value that the column must have, for example night
    class_id: int | None = None  # class of the taxonomy, for example 11 (person)
    class_share: float = 0.001  # share of the pixels predicted as that class from which a frame shows it

    def __post_init__(self) -> None:
        condition, shows = (self.column is not None, self.value is not None), self.class_id is not None
        if condition not in ((True, True), (False, False)) or condition[0] == shows:
            raise InputError(f"quota {self.name} must name either column and value or class_id: set one of the two")
        for name in ("minimum_share", "class_share"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"quota {self.name}: {name} = {getattr(self, name)} must be above 0 and at most 1: "
                    "use for example 0.2"
                )

    @property
    def name(self) -> str:
        """Return the quota in words, for reasons and reports."""
        return f"class {self.class_id}" if self.class_id is not None else f"{self.column} {self.value}"


@dataclass(frozen=True, kw_only=True)
class SelectionSettings:
    """Say how many frames are labelled tonight and by which rule."""

    budget_frames: int  # frames to label tonight
    strategy: str = "k_centre"  # one of STRATEGIES
    shortlist_frames: int = 20_000  # most promising frames of the whole pool that the strategy looks at
    metric: str = "euclidean"  # distance between embeddings; cosine compares directions only
    seed: int = 0  # seed of the strategies random, kmeans_plus_plus and core_set
    duplicate_distance: float | None = None  # frames of a drive closer than this in embedding are near-duplicates
    duplicate_gap_s: float | None = None  # frames of a drive closer than this in time are near-duplicates, seconds
    duplicate_gap_frames: int | None = None  # frames of a drive fewer places apart in its order are near-duplicates
    duplicate_rule: str = "any"  # any: one of the limits is enough; all: every one that is set must hold
    quotas: tuple[Quota, ...] = ()  # least shares of the budget for conditions and classes

    def __post_init__(self) -> None:
        for name, known in (
            ("strategy", STRATEGIES),
            ("metric", METRICS),
            ("duplicate_rule", DUPLICATE_RULES),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)!r} is unknown; use one of {', '.join(known)}")
        if self.budget_frames < 1:
            raise InputError(f"budget_frames = {self.budget_frames} must be at least 1: set how many to label")
        if self.shortlist_frames < self.budget_frames:
            raise InputError(
                f"shortlist_frames = {self.shortlist_frames} is below budget_frames = {self.budget_frames}; "
                "the strategy chooses from the shortlist: make it some times the budget"
            )
        for name in ("duplicate_distance", "duplicate_gap_s", "duplicate_gap_frames"):
            limit = getattr(self, name)
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise InputError(f"{name} = {limit} must be finite and above 0: leave it out to switch it off")

    @property
    def uses_embeddings(self) -> bool:
        """Return whether the rule needs embeddings."""
        return self.strategy in ("k_centre", "kmeans_plus_plus", "core_set") or self.duplicate_distance is not None
