"""Say in plain words what a test set shows about failures, and what it does not."""

from perception.metrics.evidence import Evidence
from perception.reporting.evaluation_panel import in_words


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _million(miles: float) -> str:
    return f"{miles / 1e6:,.1f} million" if miles >= 1e5 else f"{miles:,.0f}"


def what_it_supports(evidence: Evidence) -> list[str]:
    """List the statements that hold at the evidence's confidence."""
    sure = f"With {evidence.confidence:.0%} confidence"
    said = [
        f"{sure}, at most {_percent(evidence.upper)} of frames like these fail: {evidence.failures} of {evidence.frames} "
        f"failed, on {evidence.drives} {'drive' if evidence.drives == 1 else 'drives'}.",
        f"{sure}, at most {_percent(evidence.upper_drives)} of drives like these hold a failed frame: "
        f"{evidence.failed_drives} of {evidence.drives} did.",
    ]
    known = [cell for cell in evidence.cells if cell.known]
    if known:
        worst = known[0]
        said.append(
            f"{sure} for all {len(evidence.cells)} cells at once, the worst cell with enough frames, {in_words(worst.name)}, "
            f"fails in at most {_percent(worst.upper)} of its frames ({worst.failures} of {worst.frames})."
        )
    if evidence.miles_upper is not None:
        said.append(
            f"{sure}, at most one failure in {_million(1 / evidence.miles_upper)} miles: {evidence.miles_failures} on "
            f"{_million(evidence.miles)} miles driven with exactly this network."
        )
    return said


def what_it_does_not_support(evidence: Evidence) -> list[str]:
    """List what a reader might conclude and must not, with what it would take."""
    said = [
        f"That the frames are {evidence.frames} independent trials: neighbouring frames fail together (intraclass "
        f"correlation {evidence.correlation:.2f}), so they are worth about {evidence.effective_frames} (design effect "
        f"{evidence.design_effect:.1f}). Taken as independent the bound would read {_percent(evidence.upper_frames)}, too low."
    ]
    if evidence.upper > evidence.claim_rate:
        said.append(
            f"That at most {_percent(evidence.claim_rate)} of frames fail: it would take {evidence.frames_needed} "
            f"independent frames without a failure, about {evidence.test_frames_needed} from drives like these."
        )
    unseen = evidence.cells_of_domain - evidence.cells_seen
    unknown = evidence.cells_seen - evidence.cells_known
    if unseen or unknown:
        said.append(
            f"Anything about {unseen} of the {evidence.cells_of_domain} cells of the operating domain, which no test frame "
            f"shows, and little about {unknown} more with too few frames or drives: they are unknown, not passed."
        )
    if evidence.miles_upper is None:
        said.append(
            f"Any rate per mile: no driven mile was counted. {_million(evidence.miles_needed['crash'])} miles without a "
            f"failure would show parity with human drivers' crash rate, {_million(evidence.miles_needed['injury'])} with "
            f"the injury and {_million(evidence.miles_needed['fatality'])} with the fatality rate."
        )
    elif evidence.miles < evidence.miles_needed["crash"]:
        said.append(
            f"Parity with human drivers' crash rate: it would take {_million(evidence.miles_needed['crash'])} miles without "
            "a failure."
        )
    said.append(
        "Anything about another network: a retrained one starts the count again, and so does fixing a failure and counting on."
    )
    return said
