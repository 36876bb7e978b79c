"""gate: judge the table that a stage wrote, and stop the night where it is not good enough."""

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from components.contract import Needs, Paths, Port, Refused, Stage, log
from components.parameters import require


@dataclass(frozen=True, kw_only=True)
class GateParameters:
    """Choose the suite and give its bounds."""

    suite: str  # name of a suite in perception/quality/suites
    profile: str  # profile of the night; a waiver may apply to one profile only
    bounds: dict[str, object] = field(default_factory=dict)  # value of every $PARAMETER of the suite
    today: str = ""  # day by which waivers expire, as YYYY-MM-DD; empty: the day on which the gate runs
    enforce: bool = True  # end with exit code 3 on a refusal; a pipeline that branches on the decision says false

    def __post_init__(self) -> None:
        try:
            self.judged_on()
        except ValueError:
            require(False, "today", self.today, "must be a day such as 2026-11-23, or empty")

    def judged_on(self) -> date:
        """Return the day by which waivers expire."""
        return date.fromisoformat(self.today) if self.today else datetime.now(UTC).date()


def run(inputs: Paths, outputs: Paths, parameters: GateParameters) -> dict[str, str]:
    """Write verdict.json and verdict.md; raise Refused where a critical expectation failed without a waiver."""
    import pandas as pd

    from perception.quality.gate import judge, write_verdict
    from perception.quality.suites import load_suite
    from perception.quality.waivers import load_waivers

    subject = inputs.one("subject")
    table = pd.read_parquet(subject / "gate.parquet")
    # What a bound is compared with may only be known at night, such as the class shares of what was learned from.
    measured = json.loads((subject / "gate_bounds.json").read_text()) if (subject / "gate_bounds.json").exists() else {}
    suite, today = load_suite(parameters.suite), parameters.judged_on()
    verdict = judge(suite, table, measured | parameters.bounds, load_waivers(), today, profile=parameters.profile)
    write_verdict(verdict, outputs.one("verdict"))
    log(f"gate {suite.name}: {verdict.decision}; {len(verdict.checked)} expectations, {len(verdict.failed)} failed")
    for failure in verdict.failed:
        log(f"  [{failure.severity}] {failure.id}: {failure.rule}; observed {failure.observed}{_waived(failure.waived_by)}")
    if verdict.decision == "refuse" and parameters.enforce:
        first = next(failure for failure in verdict.failed if failure.severity == "critical" and not failure.waived_by)
        raise Refused(f"gate {suite.name} refused: {first.rule}; observed {first.observed}; {first.remedy}")
    return {"decision": verdict.decision}


def _waived(waived_by: str | None) -> str:
    return f" (waived: {waived_by})" if waived_by else ""


STAGE = Stage(
    name="gate",
    summary="Judge what a stage gave against a reviewed suite of expectations.",
    inputs=(Port(name="subject", kind="any", about="folder that holds a gate.parquet table"),),
    outputs=(Port(name="verdict", kind="verdict", about="verdict.json and verdict.md, with the offending frames"),),
    values=("decision",),
    parameters=GateParameters,
    needs=Needs(image="gates", memory_gib=3, retries=1, timeout_minutes=20),
    run=run,
)
