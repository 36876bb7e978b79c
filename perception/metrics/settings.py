"""How intervals are drawn, and when a slice is known: read by whoever declares these as parameters."""

from typing import Annotated

from pydantic import Field

from perception.parameters import Count, Seed, checked


@checked
class IntervalSettings:
    """Say how intervals are drawn and from how many frames and drives on a slice is known."""

    # of every interval and bound, and of the comparison with the champion
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Seed = 0  # of everything that is drawn
    minimum_frames: Count = 10  # slices with fewer test frames are unknown, and judged neither way
    minimum_drives: Annotated[int, Field(ge=2)] = 8  # likewise for drives
