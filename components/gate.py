"""gate: judge the table that a stage wrote, and stop the night where it is not good enough."""

from datetime import date
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from components.stage.declaration import Needs, Page, Paths, Port, Refused, Stage
from components.stage.records import log
from perception.parameters import checked

if TYPE_CHECKING:
    from perception.quality.gate import FailedExpectation

SHOWN_ROWS = 2  # offending rows in a line of the log; the verdict lists more


def _day(text: str) -> str:
    try:
        return text and date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("must be a day such as 2026-11-23, or empty") from None


@checked
class GateParameters:
    """Choose the suite and give its bounds."""

    suite: str  # name of a suite in perception/quality/suites
    profile: str  # of the night; a waiver may apply to one profile only
    # values of the suite's $PARAMETERs; stages give measured ones
    bounds: dict[str, object] = Field(default_factory=dict)
    # day by which waivers expire, as YYYY-MM-DD; empty: the day on which the gate runs
    today: Annotated[str, AfterValidator(_day)] = ""

    def __post_init__(self) -> None:
        from perception.quality.suites import load_suite, usable

        usable(load_suite(self.suite), self.bounds)


def run(inputs: Paths, outputs: Paths, parameters: GateParameters) -> None:
    """Write verdict.json and verdict.md; raise Refused where a critical expectation failed without a waiver."""
    from perception.quality.gate import judge_folders, write_verdict

    subject, names = [inputs.one("subject")], (parameters.profile,)
    verdict = judge_folders(subject, parameters.suite, parameters.bounds, applies_to=names, today=parameters.today)
    write_verdict(verdict, outputs.one("verdict"))
    log(f"gate {verdict.suite}: {verdict.decision}; {verdict.checked} expectations, {len(verdict.failed)} failed")
    for failure in verdict.failed:
        log(f"  [{failure.severity}] {_in_words(failure)}")
    if verdict.decision == "refuse":
        refusing = [each for each in verdict.failed if each.severity == "critical" and not each.waived_by]
        told = ("id", "rule", "bound", "observed", "remedy")
        failed = [{name: getattr(each, name) for name in told} for each in refusing]
        raise Refused(f"gate {verdict.suite} refused: {_in_words(refusing[0])}; {refusing[0].remedy}", failed)


def _in_words(failure: "FailedExpectation") -> str:
    rows = "; ".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in failure.frames[:SHOWN_ROWS])
    first = f" (first: {rows})" if rows else ""
    waived = f", waived: {failure.waived_by}" if failure.waived_by else ""
    return f"{failure.id}: {failure.rule}; observed {failure.observed}{first}{waived}"


STAGE = Stage(
    name="gate",
    summary="Judge what a stage gave against a reviewed suite of expectations.",
    inputs=(Port(name="subject", about="folder that holds a gate.parquet table"),),
    outputs=(Port(name="verdict", about="verdict.json and verdict.md, with the offending frames"),),
    pages=(Page(name="reasons", kind="Markdown", port="verdict", file="verdict.md"),),
    parameters=GateParameters,
    needs=Needs(image="gates", loads="great_expectations", memory_gib=3, retries=1, timeout_minutes=20),
    run=run,
)
