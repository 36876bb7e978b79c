"""What an exported network is judged by."""

from typing import Annotated, Literal

from pydantic import Field

from components.stage.learning import FrameParameters
from perception.metrics.contract import Contract
from perception.metrics.settings import IntervalSettings
from perception.parameters import Count, CountOrZero, NotNegative, Share, checked


@checked
class JudgeParameters(FrameParameters, IntervalSettings):
    """Say what is measured, when a frame has failed, and when a network is worse than the champion."""

    # frames are resized to this before a network sees them; one of a user may take any size
    height_px: Annotated[int, Field(ge=1, le=16384)]
    width_px: Annotated[int, Field(ge=1, le=16384)]  # likewise
    batch_frames: Count = 8  # frames in memory at once
    # what of the data set is independent of each other and so stands for one drive in every interval: its drives, or the cities that they
    # were filmed in, of drives that are named CITY_SEQUENCE (Cityscapes)
    unit: Literal["drive", "city"] = "drive"
    slice_columns: tuple[str, ...] = ("time_of_day", "weather", "scene")  # manifest columns that slices are cut by
    failure_pixel_accuracy: Share = 0.5  # a frame with a smaller share of right pixels counts as failed
    claim_failure_rate: Share = 0.01  # the report says what it would take to show that no more frames than this fail
    # share of operation by cell, such as "time_of_day=night,weather=rain,scene=urban": 0.1; empty: the test set's own
    operating_mix: dict[str, NotNegative] = Field(default_factory=dict)
    miles: NotNegative = 0.0  # driven under observation with exactly this network, where that is known
    miles_failures: CountOrZero = 0  # failures on those miles
    # what must be judged before a network is released; of a night, that of release: in params.yaml
    contract: Contract = Field(default_factory=Contract)
    # standard deviation of a figure (overall, time_of_day=night, class=bus) between trainings that differ only by their
    # seed; benchmarks/scale/no_regression.py measures it. A refusal needs more than what two seeds differ by
    seed_spread: dict[str, NotNegative] = Field(default_factory=dict)
    test_set_sha256: str = ""  # the frozen test set's identity; another one is refused; empty: not pinned
    latency_batch_frames: tuple[Count, ...] = (1, 2, 4, 8)  # batch sizes at which latency and throughput are measured
    latency_repeats: Annotated[int, Field(ge=2)] = 10  # measurements at each batch size; the median counts
    shift_frames: CountOrZero = 24  # test frames that are also judged under corruptions; 0: none
    worst_frames: CountOrZero = 24  # test frames in whose pictures failures are looked for
