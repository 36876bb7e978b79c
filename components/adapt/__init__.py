"""adapt: learn from the simulator, then from what that says about unlabelled real frames."""

from components.adapt.parameters import AdaptParameters
from components.stage.declaration import Paths, Port, Stage
from components.stage.learning import by_all_processes, training_needs


@by_all_processes
def run(inputs: Paths, outputs: Paths, parameters: AdaptParameters) -> None:
    """Train segmenter and detector on the simulator, fuse them, pseudo-label real frames, and train on both; write it all."""
    from components.adapt.networks import adapt

    adapt(inputs, outputs.one("adaptation"), parameters)


STAGE = Stage(
    name="adapt",
    summary="Learn from the simulator, then from confident predictions on unlabelled real frames.",
    inputs=(
        Port(name="frames", about="the night's frames: simulator, pool and val frames"),
        Port(name="curated", about="the curated frames: known labels to measure pseudo-labels against"),
    ),
    outputs=(
        Port(
            name="adaptation",
            about="segmenter, detector and student, the pseudo-labelled frames and their quality",
            gate_table=True,
        ),
    ),
    parameters=AdaptParameters,
    needs=training_needs(timeout_minutes=480),
    run=run,
)
