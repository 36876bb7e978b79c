"""What a frame was taken in: as its sender says, and as annotators tagged the image, which is what it is judged by."""

import pandas as pd

from perception.data.manifest import SCENES, TAGGED, TIMES_OF_DAY, WEATHERS

CONDITIONS = {"time_of_day": TIMES_OF_DAY, "weather": WEATHERS, "scene": SCENES}


def as_judged(frames: pd.DataFrame) -> pd.DataFrame:
    """Return manifest rows with the conditions that they are judged by: an annotator's tag, else what the sender said."""
    tagged = {name: column for name in CONDITIONS if (column := TAGGED + name) in frames and name in frames}
    return frames.assign(**{name: frames[column].fillna(frames[name]) for name, column in tagged.items()})
