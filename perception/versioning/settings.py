"""What a review points out, and what is released without a person: read by whoever declares these as parameters."""

from typing import Annotated, Literal

from pydantic import Field

from perception.parameters import Count, NotNegative, checked


@checked
class ReviewSettings:
    """Say what counts as worth a look."""

    least_frames: Count = 10  # a class and condition cell that fewer frames show is named as thin
    share_change: NotNegative = 0.25  # relative change of a class's pixel share that is pointed out
    # images whose difference hashes differ in at most so many of 64 bits look alike
    near_bits: Annotated[int, Field(ge=0, lt=64)] = 6


@checked
class ReleasePolicy:
    """Say what a night releases by itself; what it does not waits for people."""

    data: Literal["by_hand", "when_gates_pass"] = "by_hand"  # whether its data version becomes the current one
    network: Literal["by_hand", "when_verdict_promotes"] = "by_hand"  # whether its network becomes the champion
