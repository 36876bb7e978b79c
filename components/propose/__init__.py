"""propose: put tonight's version before people: what was measured, the network, and the page to decide by."""

from typing import Any

from components.propose.parameters import ProposeParameters
from components.stage.declaration import Needs, Page, Paths, Port, Stage
from components.stage.learning import TAUGHT_FILE
from components.stage.parameters import absolute
from components.stage.records import log


def run(inputs: Paths, outputs: Paths, parameters: ProposeParameters) -> dict[str, str | None]:
    """Record evidence and network beside the version, release what the policy allows; write review.html, review.md and review.json.

    Tells the decision, where there is one.
    """
    from components.propose.evidence import gather_evidence, network_files
    from perception.data.tables import read_record
    from perception.data.taxonomies import load_taxonomy
    from perception.reporting.records import PublishedVersion
    from perception.reporting.review_page import write_review
    from perception.versioning.models import propose
    from perception.versioning.records import Published
    from perception.versioning.review_sides import NOTHING

    registry = absolute(parameters.registry)
    tag = read_record(inputs.one("version") / "version.json", PublishedVersion).tag
    base = inputs.one("base") / "run.json"
    before = read_record(base, Published)["tag"] if base.exists() else NOTHING
    compared = None if before == tag else before  # a night that changed no data has the base's version: with its parent
    evidence = gather_evidence(inputs, parameters.run, parameters.profile)
    with network_files(inputs) as model:
        proposal = propose(registry, tag, evidence, model=model, facts={"run": parameters.run, **evidence["lineage"]})
    if proposal.model_sha256:
        _record_teachers(registry, proposal.model_sha256, inputs)
    facts, commands, pictures, taxonomy = _review(registry, tag, compared, parameters)
    decided = _release(registry, facts, parameters)
    if decided:
        facts, commands, pictures, taxonomy = _review(registry, tag, compared, parameters)
    write_review(outputs.one("review"), facts, commands, pictures, load_taxonomy(taxonomy))
    log(f"review of {tag}: {facts['answers']['changed']} Leaking? {facts['answers']['leaking']}")
    return {"decision": decided}


def _record_teachers(registry: str, model_sha256: str, inputs: Paths) -> None:
    import pandas as pd

    from perception.data.tables import read_record
    from perception.versioning.lineage import record_taught
    from perception.versioning.tonight import Tonight

    tonight = read_record(inputs.one("base") / "night.json", Tonight)
    rows = pd.read_parquet(inputs.one("compressed") / TAUGHT_FILE)
    record_taught(registry, model_sha256, rows, when=tonight.moment)


def _release(registry: str, facts: dict[str, Any], parameters: ProposeParameters) -> str | None:
    """Release what the policy allows; return the decision's action, None where people decide."""
    from perception.versioning.decisions import Stale
    from perception.versioning.policy import release_by_policy, told

    for line in told(facts, parameters.release):
        log(line)
    try:
        decision = release_by_policy(registry, facts, parameters.release)
    except Stale as stale:
        log(f"a person must look: {stale}")
        return None
    if decision is None:
        return None
    log(f"released by the policy: {decision.action} {decision.tag}")
    return decision.action


def _review(registry: str, tag: str, base: str | None, parameters: ProposeParameters) -> Any:
    from perception.data.store import open_store
    from perception.versioning.review_sides import review

    store = open_store(parameters.store)
    return review(registry, tag, base, settings=parameters, store=store, seed=parameters.seed)


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
        Port(name="base", about="the data version that the night started from"),
        Port(name="version", about="the published data version"),
        *(Port(name=name, about=about, optional=True) for name, about in _OPTIONAL.items()),
        Port(name="verdicts", about="verdict of each gate", many=True, optional=True),
    ),
    outputs=(Port(name="review", about="review.html, review.md and review.json"),),
    pages=(Page(name="page", kind="HTML", port="review", file="review.html"),),
    parameters=ProposeParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=4),
    run=run,
)
