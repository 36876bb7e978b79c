"""The verdict: may the challenger be released, by what the contract asks and what was found against every other network?"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from perception.metrics.comparison import Comparison, Gap, Judgement
from perception.metrics.contract import Contract

_LISTED = 12  # figures that one sentence names


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Say whether the challenger may be released, with reasons, weightiest first, and what that rests on.

    decision: promote, hold, refuse, or not_enough_evidence where the contract names what could not be judged.
    """

    decision: str
    reasons: tuple[str, ...]
    judged: tuple[str, ...]  # figures of the contract that were judged against every other network
    not_judged: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Return the reasons in one line."""
        return "; ".join(self.reasons)


def decide(comparisons: Mapping[str, Comparison], contract: Contract, night: date) -> Verdict:
    """Decide by what was found against other networks, by what they are called: the champion, the reference release.

    Every figure that the contract requires must be no worse than each of them; one that could not be judged holds the release,
    unless an exemption is in force on this night. Any figure that is worse refuses it.
    """
    found = [(other, each) for other, comparison in comparisons.items() for each in comparison.judgements]
    required = [(other, each) for other, each in found if each.required]
    gaps = {gap.name: gap for comparison in comparisons.values() for gap in comparison.gaps if gap.required}
    exempt = {name: each for name, each in contract.exempt(night).items() if name in gaps}
    missing = [gap for name, gap in gaps.items() if name not in exempt]
    judged = tuple(dict.fromkeys(each.name for _, each in required if each.name not in gaps))
    worse = [_worse_in_words(other, each) for other, each in found if each.outcome == "worse"]
    still_open = [_open_in_words(other, each) for other, each in required if each.outcome == "open"]
    signed = [
        f"{name} was not judged: exempt until {each.last_night}, {each.by}: {each.reason}"
        for name, each in exempt.items()
    ]
    lacking = _missing_in_words(missing)
    if worse:
        decision, reasons = "refuse", worse
    elif missing or not judged:
        decision, reasons = "not_enough_evidence", [*lacking, *still_open]
    elif still_open:
        decision, reasons = "hold", still_open
    else:
        decision, reasons = "promote", [_promoted_in_words(tuple(comparisons), required, judged)]
    if worse:
        reasons += lacking
    return Verdict(decision=decision, reasons=(*reasons, *signed), judged=judged, not_judged=tuple(gaps))


def _promoted_in_words(others: tuple[str, ...], required: list[tuple[str, Judgement]], judged: tuple[str, ...]) -> str:
    better = sorted({name for name in judged if all(j.outcome == "better" for _, j in required if j.name == name)})
    margins = [each.margin for _, each in required]
    said = (
        f"no worse than {' and '.join(others)} in each of the {len(judged)} figures that were judged, by margins of "
        f"{100 * min(margins):.1f} to {100 * max(margins):.1f} points"
    )
    return said + (f"; better in {', '.join(better[:_LISTED])}" if better else "")


def _missing_in_words(missing: list[Gap]) -> list[str]:
    if not missing:
        return []
    each = [f"{gap.name} ({gap.drives} of {gap.drives_needed})" for gap in missing]
    more = f" and {len(each) - _LISTED} more" if len(each) > _LISTED else ""
    return [f"not judged, too few drives that show it: {', '.join(each[:_LISTED])}{more}; the contract asks for them"]


def _worse_in_words(other: str, each: Judgement) -> str:
    if each.apart is not None and each.apart_margin is not None and each.apart < -each.apart_margin:
        more = f", {-100 * each.apart:.1f} more than on all other frames, where it may be {100 * each.apart_margin:.1f}"
    else:
        more = ""
    return (
        f"{each.name}: {100 * each.challenger:.1f} % against {100 * each.champion:.1f} % of {other}, "
        f"worse by {-100 * each.difference:.1f} points (allowed {100 * each.margin:.1f}; surely by {-100 * each.upper:.1f}){more}"
    )


def _open_in_words(other: str, each: Judgement) -> str:
    needed = (
        f"about {each.drives_needed} drives would tell" if each.drives_needed else "more drives alone will not show it"
    )
    return (
        f"{each.name}: {100 * each.difference:+.1f} points to {other}, but up to {-100 * each.lower:.1f} worse cannot be ruled out "
        f"on {each.drives} drives (allowed {100 * each.margin:.1f}; {needed})"
    )
