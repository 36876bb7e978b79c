"""What a review points out, and when no person is needed."""

from perception.parameters import Seed, checked
from perception.versioning.settings import ApprovalRules, ReviewSettings


@checked
class ProposeParameters(ReviewSettings, ApprovalRules):
    """Say where the registry is, what a review points out, and when no person is needed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    seed: Seed  # of the pictures drawn
    registry: str  # git repository of the data registry: a folder or a URL
    run: str  # name of the run
    profile: str  # of the night
    # release without a person where none of the rules objects and the test set is the same
    automatic: bool = False
