"""Which measure of uncertainty ranks the frames, and how a map of it becomes one number."""

from typing import Literal, get_args

from perception.parameters import BrokenRule, NotNegative, ShareFromZero, ShareToOne, checked

Measure = Literal["ensemble_entropy", "mean_entropy", "mutual_information", "variance", "variation_ratio"]
MEASURES: tuple[str, ...] = get_args(Measure)


@checked
class ScoreRule:
    """Say which measure of uncertainty ranks the frames and how its map becomes the frame's."""

    measure: Measure = "ensemble_entropy"  # of uncertainty, by which frames are ranked
    # how the pixels' uncertainty becomes the frame's
    reduction: Literal["mean", "max", "top_share", "region", "class_weighted"] = "mean"
    top_share: ShareToOne = 0.05  # share of the pixels, most uncertain first, that reduction top_share averages
    # share of the measure's greatest value above which a pixel belongs to a region
    region_threshold: ShareFromZero = 0.25


@checked
class ScoreSettings(ScoreRule):
    """Say how frames are scored, with the weights of their classes."""

    outputs: Literal["softmax", "sigmoid"] = "softmax"  # one class a pixel; or detection maps, each class by itself
    class_weights: tuple[NotNegative, ...] | None = None  # one weight a class, for reduction class_weighted

    def __post_init__(self) -> None:
        if (self.reduction == "class_weighted") != (self.class_weights is not None):
            raise BrokenRule("class_weights", self.class_weights, "goes with class_weighted: set both or neither")
