"""What a review points out, and what is released without a person."""

from pydantic import Field

from perception.parameters import Seed, checked
from perception.versioning.settings import ReleasePolicy, ReviewSettings


@checked
class ProposeParameters(ReviewSettings):
    """Say where the registry is, what a review points out, and what is released without a person."""

    store: str  # blob store: a folder or s3://bucket/prefix
    seed: Seed  # of the pictures drawn
    registry: str  # git repository of the data registry: a folder or a URL
    run: str  # name of the run
    profile: str  # of the night
    release: ReleasePolicy = Field(default_factory=ReleasePolicy)  # the section of that name
