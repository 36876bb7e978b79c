"""How sure intervals are, and when a slice is known: read by whoever declares these as parameters."""

from typing import Annotated

from pydantic import Field

from perception.parameters import Count, checked

Confidence = Annotated[float, Field(gt=0.5, lt=1)]


@checked
class IntervalSettings:
    """Say how sure intervals are, and from how many frames and drives on a slice is known."""

    # of every interval and bound, and of the comparison with the champion
    confidence: Confidence = 0.95
    minimum_frames: Count = 10  # slices with fewer test frames are unknown, and judged neither way
    minimum_drives: Annotated[int, Field(ge=2)] = 8  # likewise for drives
