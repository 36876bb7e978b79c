"""propose: put tonight's version before people: what was measured, the network, and the page to decide by."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import Count, CountOrZero, NotNegative, Seed, checked

if TYPE_CHECKING:
    from perception.versioning.approval import ApprovalRules

GATES = ("ingest", "select", "curate", "adapt", "train_prune", "compress", "evaluate")


@checked
class ProposeParameters:
    """Say where the registry is, what a review points out, and when no person is needed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    seed: Seed  # of the pictures drawn
    registry: str  # git repository of the data registry: a folder or a URL
    run: str  # name of the run
    profile: str  # of the night
    least_frames: Count = 10  # a class and condition cell that fewer frames show is named as thin
    share_change: NotNegative = 0.25  # relative change of a class's pixel share that is pointed out
    # images whose difference hashes differ in at most so many of 64 bits look alike
    near_bits: Annotated[int, Field(ge=0, lt=64)] = 6
    worse_by: NotNegative = 0.02  # mIoU by which a condition counts as worse
    # release without a person where none of the next rules objects and the test set is the same
    automatic: bool = False
    max_removed_frames: CountOrZero = 0  # with automatic: frames that leave
    max_changed_frames: CountOrZero = 0  # with automatic: frames relabelled, moved or with other image bytes
    max_added_share: NotNegative = 0.5  # with automatic: of the frames of the version that is current
    max_gate_warnings: CountOrZero = 0  # with automatic: warnings of all gates


def run(inputs: Paths, outputs: Paths, parameters: ProposeParameters) -> dict[str, str]:
    """Record evidence and network beside the version; write review.html, review.md and review.json; return the state."""
    from components.propose.evidence import gather_evidence, network_files
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.review_page import write_review
    from perception.versioning.approval import approve_automatically, objections
    from perception.versioning.models import propose

    registry = absolute(parameters.registry)
    tag = read_json(inputs.one("version") / "version.json")["tag"]
    base = read_json(inputs.one("base") / "run.json").get("tag") or "none"
    evidence = gather_evidence(inputs, parameters)
    with network_files(inputs) as model:
        propose(registry, tag, evidence, model=model, facts={"run": parameters.run, **evidence["lineage"]})
    facts, commands, pictures, taxonomy = _review(registry, tag, base, parameters)
    if parameters.automatic:
        reasons = objections(facts, _rules(parameters))
        log(f"a person must look: {'; '.join(reasons)}" if reasons else "released by the automatic rules")
        if approve_automatically(registry, facts, _rules(parameters)):
            facts, commands, pictures, taxonomy = _review(registry, tag, base, parameters)
    write_review(outputs.one("review"), facts, commands, pictures, load_taxonomy(taxonomy))
    log(f"review of {tag}: {facts['answers']['changed']} Leaking? {facts['answers']['leaking']}")
    return {"state": "proposed"}


def _review(registry: str, tag: str, base: str, parameters: ProposeParameters) -> Any:
    from perception.data.store import open_store
    from perception.versioning.review import ReviewSettings
    from perception.versioning.review_sides import review

    settings = ReviewSettings(
        least_frames=parameters.least_frames,
        share_change=parameters.share_change,
        near_bits=parameters.near_bits,
        worse_by=parameters.worse_by,
    )
    store = open_store(parameters.store)
    return review(registry, tag, base, settings=settings, store=store, seed=parameters.seed)


def _rules(parameters: ProposeParameters) -> "ApprovalRules":
    from perception.versioning.approval import ApprovalRules

    return ApprovalRules(
        max_removed_frames=parameters.max_removed_frames,
        max_changed_frames=parameters.max_changed_frames,
        max_added_share=parameters.max_added_share,
        max_gate_warnings=parameters.max_gate_warnings,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that a stage may have written; empty where it did not."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


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
