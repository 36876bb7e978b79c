"""What a release needs, as the section `release` of params.yaml says."""

from pydantic import Field

from perception.metrics.contract import Contract
from perception.parameters import checked
from perception.versioning.settings import ReleasePolicy


@checked
class Release(ReleasePolicy):
    """Say what a night releases by itself, and what must be judged before any network is released."""

    # what must be judged, by how much a network may fall behind the champion and the reference release in each figure, and who
    # has signed for what cannot be judged
    contract: Contract = Field(default_factory=Contract)
