"""How footage and labels arrive in a season: section `season` of params.yaml."""

from perception.parameters import Count, ShareFromZero, checked


@checked
class SeasonParameters:
    """Say how footage arrives in a season, and how its annotator answers."""

    stretch_frames: Count = 50  # footage arrives by drive, and within a drive by so many frames
    late_share: ShareFromZero = 0.1  # of the labels: come a night late
    wrong_share: ShareFromZero = 0.05  # of the labels: come as a file that is not whole, and are mended a night later
