"""gate: judge the table that a stage wrote, and stop the night where it is not good enough."""

from dataclasses import dataclass, field

from components.contract import Needs, Paths, Port, Refused, Stage, log


@dataclass(frozen=True, kw_only=True)
class GateParameters:
    """Choose the suite and give its bounds."""

    suite: str  # name of a suite in perception/quality/suites
    profile: str  # profile of the night; a waiver may apply to one profile only
    bounds: dict[str, object] = field(default_factory=dict)  # values of the suite's $PARAMETERs; stages give measured ones
    today: str = ""  # day by which waivers expire, as YYYY-MM-DD; empty: the day on which the gate runs
    enforce: bool = True  # end with exit code 3 on a refusal; a pipeline that branches on the decision says false


def run(inputs: Paths, outputs: Paths, parameters: GateParameters) -> dict[str, str]:
    """Write verdict.json and verdict.md; raise Refused where a critical expectation failed without a waiver."""
    from perception.quality.gate import judge_folders, write_verdict

    subject, names = [inputs.one("subject")], (parameters.profile,)
    verdict = judge_folders(subject, parameters.suite, parameters.bounds, applies_to=names, today=parameters.today)
    write_verdict(verdict, outputs.one("verdict"))
    log(f"gate {verdict.suite}: {verdict.decision}; {verdict.checked} expectations, {len(verdict.failed)} failed")
    for failure in verdict.failed:
        log(f"  [{failure.severity}] {failure.id}: {failure.rule}; observed {failure.observed}{_waived(failure.waived_by)}")
    if verdict.decision == "refuse" and parameters.enforce:
        first = next(failure for failure in verdict.failed if failure.severity == "critical" and not failure.waived_by)
        raise Refused(f"gate {verdict.suite} refused: {first.rule}; observed {first.observed}; {first.remedy}")
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
