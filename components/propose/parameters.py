"""What a review points out, and when no person is needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.stage.parameters import require

if TYPE_CHECKING:
    from perception.versioning.approval import ApprovalRules
    from perception.versioning.review import ReviewSettings


@dataclass(frozen=True, kw_only=True)
class ProposeParameters:
    """Say where the registry is, what a review points out, and when no person is needed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    seed: int  # of the pictures drawn
    registry: str  # git repository of the data registry: a folder or a URL
    run: str  # name of the run
    profile: str
    least_frames: int = 10  # a class and condition cell that fewer frames show is named as thin
    share_change: float = 0.25  # relative change of a class's pixel share that is pointed out
    near_bits: int = 6  # images whose difference hashes differ in at most so many of 64 bits look alike
    worse_by: float = 0.02  # mIoU by which a condition counts as worse
    automatic: bool = (
        False  # release without a person where none of the next rules objects and the test set is the same
    )
    max_removed_frames: int = 0
    max_changed_frames: int = 0  # relabelled, moved or with other image bytes
    max_added_share: float = 0.5  # of the frames of the version that is current
    max_gate_warnings: int = 0

    def __post_init__(self) -> None:
        require(self.least_frames >= 1, "least_frames", self.least_frames, "must be at least 1")
        require(0 <= self.near_bits < 64, "near_bits", self.near_bits, "must lie in 0..63")

    def review_settings(self) -> "ReviewSettings":
        """Return what a review points out."""
        from perception.versioning.review import ReviewSettings

        return ReviewSettings(
            least_frames=self.least_frames,
            share_change=self.share_change,
            near_bits=self.near_bits,
            worse_by=self.worse_by,
        )

    def rules(self) -> "ApprovalRules":
        """Return the rules of automatic approval."""
        from perception.versioning.approval import ApprovalRules

        return ApprovalRules(
            max_removed_frames=self.max_removed_frames,
            max_changed_frames=self.max_changed_frames,
            max_added_share=self.max_added_share,
            max_gate_warnings=self.max_gate_warnings,
        )
