"""What a review points out, and when a version needs no person: read by whoever declares these as parameters."""

from typing import Annotated

from pydantic import Field

from perception.parameters import Count, CountOrZero, NotNegative, checked


@checked
class ReviewSettings:
    """Say what counts as worth a look."""

    least_frames: Count = 10  # a class and condition cell that fewer frames show is named as thin
    share_change: NotNegative = 0.25  # relative change of a class's pixel share that is pointed out
    # images whose difference hashes differ in at most so many of 64 bits look alike
    near_bits: Annotated[int, Field(ge=0, lt=64)] = 6


@checked
class ApprovalRules:
    """Bounds within which a version needs no person."""

    max_removed_frames: CountOrZero = 0  # more than these ask for a person
    max_changed_frames: CountOrZero = 0  # relabelled, moved to another split, or with other image bytes
    max_added_share: NotNegative = 0.5  # of the frames of the version that is current
    max_gate_warnings: CountOrZero = 0  # broken rules of any severity but info, waived ones included
