"""What a report is told about its night."""

from pydantic import Field

from components.stage.learning import NetworkParameters
from perception.parameters import checked


@checked
class ReportParameters(NetworkParameters):
    """Say whose night it was and where its pictures are."""

    run: str  # name of the run
    profile: str  # of the night
    registry: str  # git repository of the data registry, where the night is recorded
    settings_sha256: str = ""  # of all parameters of the night
    # by task: what an hour of it costs on what it was given; empty: nobody has said
    price_per_hour: dict[str, float] = Field(default_factory=dict)
    currency: str = ""  # of the prices
    settings: dict[str, str] = Field(default_factory=dict)  # every parameter of the night, for the page's last section
    final_status: dict[str, object] = Field(default_factory=dict)  # what a pipeline says of a run that ended early
