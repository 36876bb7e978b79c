"""How segmenter and detector are trained, how they are fused, and what becomes a pseudo-label."""

from typing import Annotated, Literal

from pydantic import Field

from components.stage.learning import LearningParameters, check_classes
from perception.parameters import (
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    Positive,
    ShareFromZero,
    ShareToOne,
    checked,
)


@checked
class SourceParameters(LearningParameters):
    """Say how the networks are trained that the simulator alone teaches."""

    # above 0 the moving average of the weights is what labels and what is kept; 0: none
    average_decay: ShareFromZero = 0.0
    # passes over the simulator's frames with instances; 0: no detector, and nothing is fused
    detector_epochs: CountOrZero
    # the detector's channels times this, where it has no backbone of the segmenter's; 1 is for one CPU core
    detector_width: Annotated[float, Field(ge=0.25, le=8)] = 1.0
    # frames in one step of the detector's training; normalisation needs more than one
    detector_batch_frames: Annotated[int, Field(ge=2)] = 8
    detector_learning_rate: Positive = 0.003  # of AdamW, falling to zero
    texture_share: Fraction = 0.5  # of the instances get a random texture, so that only their shape tells them


@checked
class AdaptParameters(SourceParameters):
    """Say how segmenter and detector are trained, how they are fused, and what becomes a pseudo-label."""

    pseudo_frames: Count  # unlabelled real frames that get pseudo-labels
    student_epochs: Count  # the network goes on for these with pseudo-labelled frames beside the simulator's
    kept_share: ShareToOne = 0.6  # of each class the most confident share of its pixels becomes a pseudo-label
    highest_threshold: ShareToOne = 0.9  # confidence that always suffices, so that a class which is sure keeps more
    simulator_share: ShareFromZero = 0.25  # of the frames that the student learns from, the rest has pseudo-labels
    target_statistics: bool = True  # the student's normalisation layers end with the averages of the pool's frames
    # below 1 the student meets frames with rare classes more often; 0: all alike
    rare_class_temperature: NotNegative = 0.0

    score_threshold: Fraction = 0.0  # instances with a lower score are left out; the paper leaves none out
    class_score_thresholds: dict[str, Fraction] = Field(default_factory=dict)  # likewise by class name
    # foreground classes that pseudo-labels take from masks
    trust_detector: Literal["measured", "all", "none"] = "measured"
    least_precision: Fraction = 0.3  # with measured: the share of a class's mask pixels that must be right
    least_right_share: Fraction = 0.5  # likewise: right pixels of its masks, as a share of those of the segmentation

    def __post_init__(self) -> None:
        check_classes("class_score_thresholds", self.class_score_thresholds, self.taxonomy)
