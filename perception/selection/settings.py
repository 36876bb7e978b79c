"""What a selection is told: how many frames, by which strategy, with which quotas."""

from typing import Literal

from perception.parameters import BrokenRule, Count, CountOrZero, NotNegative, Seed, ShareToOne, checked


@checked
class Quota:
    """Ask that a share of the budget goes to one kind of frame: a condition, or frames that show a class.

    A condition: column and value. A class: class_id and class_share, the least predicted share of pixels.
    """

    minimum_share: ShareToOne  # share of the budget that goes to these frames, if the pool has them
    column: str | None = None  # column of the candidates, for example time_of_day
    value: str | None = None  # value that the column must have, for example night
    class_id: CountOrZero | None = None  # class of the taxonomy, for example 11 (person)
    class_share: ShareToOne = 0.001  # share of the pixels predicted as that class from which a frame shows it

    def __post_init__(self) -> None:
        condition = (self.column is not None, self.value is not None)
        if condition not in ((True, True), (False, False)) or condition[0] == self.shows_class:
            raise BrokenRule("column", self.column, "must come with value, or else a class: name one of the two")

    @property
    def shows_class(self) -> bool:
        """Return whether the quota is for frames that show a class."""
        return self.class_id is not None

    @property
    def name(self) -> str:
        """Return the quota in words, for reasons and reports."""
        return f"class {self.class_id}" if self.class_id is not None else f"{self.column} {self.value}"


@checked
class SelectionSettings:
    """Say how many frames are labelled tonight and by which rule."""

    budget_frames: Count  # frames to label tonight
    # by which frames are chosen
    strategy: Literal["top_n", "k_centre", "kmeans_plus_plus", "core_set", "random"] = "k_centre"
    shortlist_frames: Count = 20_000  # most uncertain frames of the whole pool that the strategy looks at
    metric: Literal["euclidean", "cosine"] = "euclidean"  # distance between embeddings; cosine compares directions only
    seed: Seed = 0  # of what is drawn at random: by the strategies random, kmeans_plus_plus and core_set
    # frames of one drive with embeddings closer than this are near-duplicates; 0: no such rule
    duplicate_distance: NotNegative = 0.0
    # frames of one drive closer than this in time are near-duplicates; 0: no such rule
    duplicate_gap_s: NotNegative = 0.0
    duplicate_gap_frames: CountOrZero = 0  # frames of one drive fewer places apart in its order; 0: no such rule
    duplicate_rule: Literal["any", "all"] = "any"  # any: one of the limits is enough; all: each that is set must hold
    quotas: tuple[Quota, ...] = ()  # least shares of the budget for conditions and classes

    def __post_init__(self) -> None:
        if self.shortlist_frames < self.budget_frames:
            raise BrokenRule("shortlist_frames", self.shortlist_frames, "must hold the budget")

    @property
    def uses_embeddings(self) -> bool:
        """Return whether the rule needs embeddings."""
        return self.strategy in ("k_centre", "kmeans_plus_plus", "core_set") or self.duplicate_distance > 0
