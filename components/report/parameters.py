"""The parameters of the report, and the gates whose verdicts it shows."""

from dataclasses import dataclass, field

from components.stage.learning import FrameParameters

GATES = ("ingest", "select", "curate", "adapt", "train_prune", "compress", "evaluate")


@dataclass(frozen=True, kw_only=True)
class ReportParameters(FrameParameters):
    """Say whose night it was and where its pictures are."""

    run: str  # name of the run
    profile: str
    registry: str  # git repository of the data registry, for the command that reproduces the version
    settings: dict[str, object] = field(
        default_factory=dict
    )  # every parameter of the night, for the page's last section
    final_status: dict[str, object] = field(default_factory=dict)  # what a pipeline says of a run that ended early
