"""gather: put the manifests of all sources together into the night's one manifest."""

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.records import log
from perception.parameters import checked


@checked
class GatherParameters:
    """Take no parameters."""


def run(inputs: Paths, outputs: Paths, parameters: GatherParameters) -> None:
    """Write one frames folder out of all that arrived; an id that two sources share is an error."""
    from perception.quality.intake import gather_frames

    count = gather_frames(inputs.many("arrived"), outputs.one("frames"))
    log(f"{count} frames from {len(inputs.many('arrived'))} sources")


STAGE = Stage(
    name="gather",
    summary="Put the manifests of all sources together into the night's one manifest.",
    inputs=(Port(name="arrived", kind="frames", about="frames folders, one a source", many=True),),
    outputs=(
        Port(
            name="frames", kind="frames", about="the night's frames: manifest, profile, rejected files, hidden labels"
        ),
    ),
    parameters=GatherParameters,
    needs=Needs(image="torch", loads="pandas", memory_gib=4),
    run=run,
)
