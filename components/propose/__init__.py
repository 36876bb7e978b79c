"""propose: put tonight's version before people: what was measured, the network, and the page to decide by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.parameters import absolute, require
from components.stage.records import log

if TYPE_CHECKING:
    from perception.versioning.approval import ApprovalRules
    from perception.versioning.review import ReviewSettings

GATES = ("ingest", "select", "curate", "adapt", "train_prune", "compress", "evaluate")


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


def run(inputs: Paths, outputs: Paths, parameters: ProposeParameters) -> dict[str, str]:
    """Record evidence and network beside the version; write review.html, review.md and review.json; return the state."""
    from components.propose.evidence import gather_evidence, network_files
    from perception.data.tables import read_record
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.records import PublishedVersion
    from perception.reporting.review_page import write_review
    from perception.versioning.approval import approve_automatically, objections
    from perception.versioning.models import propose
    from perception.versioning.records import Published
    from perception.versioning.review_sides import NOTHING

    registry = absolute(parameters.registry)
    tag = read_record(inputs.one("version") / "version.json", PublishedVersion).tag
    base = inputs.one("base") / "run.json"
    before = read_record(base, Published)["tag"] if base.exists() else NOTHING
    evidence = gather_evidence(inputs, parameters.run, parameters.profile, GATES)
    with network_files(inputs) as model:
        propose(registry, tag, evidence, model=model, facts={"run": parameters.run, **evidence["lineage"]})
    facts, commands, pictures, taxonomy = _review(registry, tag, before, parameters)
    if parameters.automatic:
        reasons = objections(facts, parameters.rules())
        log(f"a person must look: {'; '.join(reasons)}" if reasons else "released by the automatic rules")
        if approve_automatically(registry, facts, parameters.rules()):
            facts, commands, pictures, taxonomy = _review(registry, tag, before, parameters)
    write_review(outputs.one("review"), facts, commands, pictures, load_taxonomy(taxonomy))
    log(f"review of {tag}: {facts['answers']['changed']} Leaking? {facts['answers']['leaking']}")
    return {"state": "proposed"}


def _review(registry: str, tag: str, base: str, parameters: ProposeParameters) -> Any:
    from perception.data.store import open_store
    from perception.versioning.review_sides import review

    store, settings = open_store(parameters.store), parameters.review_settings()
    return review(registry, tag, base, settings=settings, store=store, seed=parameters.seed)


_OPTIONAL = {
    "selection": "the chosen frames",
    "comparison": "strategy against random, and the labels that the ensemble doubts",
    "compressed": "the network that was trained on the version",
    "evaluation": "its figures on the frozen test set",
}

STAGE = Stage(
    name="propose",
    summary="Put tonight's version and network before people, with the page to decide by.",
    inputs=(
        Port(name="base", kind="version", about="the data version that the night started from"),
        Port(name="version", kind="version", about="the published data version"),
        *(Port(name=name, kind="any", about=about, optional=True) for name, about in _OPTIONAL.items()),
        *(
            Port(name=f"verdict_{gate}", kind="verdict", about=f"verdict of the {gate} gate", optional=True)
            for gate in GATES
        ),
    ),
    values=("state",),
    outputs=(Port(name="review", kind="report", about="review.html, review.md and review.json"),),
    parameters=ProposeParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=4),
    run=run,
)
