"""ensemble: train the networks whose disagreement says which frames would teach most."""

from dataclasses import dataclass

from components.contract import Needs, Paths, Port, Stage, log
from components.learning import LearningParameters, labelled_so_far
from components.parameters import require


@dataclass(frozen=True, kw_only=True)
class EnsembleParameters(LearningParameters):
    """Choose the ensemble and how it is trained."""

    members: int = 4  # networks trained jointly; the penalty's expectation is finite from 4 on
    beta: float = 1e-7  # weight of the KL penalty over members beside the cross-entropy; 0: a plain ensemble, with L2

    direction: str = "pq"  # pq: KL(prior || members), the paper's expression; qp: KL(members || prior)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.members >= 1, "members", self.members, "must be at least 1")
        require(self.beta >= 0, "beta", self.beta, "must not be negative")
        require(
            self.beta == 0 or self.members >= 4,
            "members",
            self.members,
            "must be at least 4 with the KL penalty (beta > 0)",
        )


def run(inputs: Paths, outputs: Paths, parameters: EnsembleParameters) -> None:
    """Train a Deep Probabilistic Ensemble on what is labelled so far and write its members."""
    import torch

    from perception.data.loading import pixel_counts
    from perception.training.loop import class_weights
    from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
    from perception.uncertainty.ensemble import make_ensemble, save_ensemble

    parameters.prepare()
    labelled = parameters.frame_set(labelled_so_far(inputs))
    log(f"{parameters.members} members learn from {len(labelled)} labelled frames")
    ensemble = make_ensemble(lambda _: parameters.new_network(), parameters.members, parameters.seed)
    settings = EnsembleLoss(
        penalty="dpe" if parameters.beta else "l2", beta=parameters.beta, direction=parameters.direction
    )
    loss = ensemble_loss(settings, torch.from_numpy(class_weights(pixel_counts(labelled))).float())
    parameters.train(ensemble, labelled, what="ensemble", loss=loss)
    save_ensemble(
        ensemble, outputs.one("ensemble"), {"beta": str(parameters.beta), "labelled_frames": str(len(labelled))}
    )


STAGE = Stage(
    name="ensemble",
    summary="Train a Deep Probabilistic Ensemble on the frames that are labelled so far.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from"),
    ),
    outputs=(Port(name="ensemble", kind="ensemble", about="weights of every member"),),
    parameters=EnsembleParameters,
    needs=Needs(
        image="torch",
        loads="torch",
        cpu_cores=2,
        memory_gib=8,
        gpu_count=1,
        timeout_minutes=240,
        shared_memory_gib=8,
        distributed=True,
    ),
    run=run,
)
