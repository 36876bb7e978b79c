"""gate: judge the table that a stage wrote, and stop the night where it is not good enough."""

from dataclasses import dataclass, field

from components.contract import Needs, Paths, Port, Refused, Stage, log


@dataclass(frozen=True, kw_only=True)
class GateParameters:
    """Choose the suite and give its bounds."""

    suite: str  # name of a suite in perception/quality/suites
    bounds: dict[str, object] = field(default_factory=dict)  # value of every $PARAMETER of the suite
    waivers: tuple[str, ...] = ()  # what this night is (profile, sources): waivers that apply to one of these are heeded
    today: str = ""  # date by which waivers expire, as YYYY-MM-DD; empty: the day on which the gate runs
    enforce: bool = True  # end with exit code 3 on a refusal; a pipeline that branches on the verdict itself says false


def run(inputs: Paths, outputs: Paths, parameters: GateParameters) -> dict[str, str]:
    """Write verdict.json and verdict.md; raise Refused where a critical expectation failed without a waiver."""
    from perception.quality.gate import judge_folders, write_verdict

    verdict = judge_folders(
        inputs.many("subject"), parameters.suite, parameters.bounds, applies_to=parameters.waivers, today=parameters.today
    )
    write_verdict(verdict, outputs.one("verdict"))
    log(f"gate {parameters.suite}: {verdict.decision}, {verdict.checked} expectations, {len(verdict.failed)} failed")
    if verdict.decision == "refuse" and parameters.enforce:
        raise Refused(verdict.in_words())
    return {"decision": verdict.decision}


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
