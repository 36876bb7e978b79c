"""ensemble: train the networks whose disagreement says which frames would teach most."""

from dataclasses import dataclass

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import LearningParameters, labelled_so_far
from components.stage.parameters import require
from components.stage.records import log

KINDS = ("dpe", "plain", "snapshots", "mc_dropout")


@dataclass(frozen=True, kw_only=True)
class EnsembleParameters(LearningParameters):
    """Choose the ensemble and how it is trained."""

    kind: str = "dpe"  # dpe: trained jointly with the KL penalty; plain: with L2; snapshots of one run; mc_dropout
    members: int = 4  # networks, snapshots or dropout passes; the KL penalty's expectation is finite from 4 on
    beta: float = 1e-7  # weight of the KL penalty over members beside the cross-entropy; 0 is kind plain

    direction: str = "pq"  # pq: KL(prior || members), the paper's expression; qp: KL(members || prior)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.members >= 1, "members", self.members, "must be at least 1")
        require(self.beta >= 0, "beta", self.beta, "must not be negative")
        require(self.kind in KINDS, "kind", self.kind, f"must be one of {', '.join(KINDS)}")
        penalised = self.kind == "dpe" and self.beta > 0
        require(
            not penalised or self.members >= 4,
            "members",
            self.members,
            "must be at least 4 with the KL penalty (beta > 0)",
        )
        kept = self.members if self.kind == "snapshots" else 0
        require(self.epochs >= kept, "epochs", self.epochs, "must be at least as many as the snapshots")
        require(
            self.kind != "mc_dropout" or self.dropout > 0, "dropout", self.dropout, "must be above 0 for mc_dropout"
        )


def run(inputs: Paths, outputs: Paths, parameters: EnsembleParameters) -> None:
    """Train a Deep Probabilistic Ensemble, or a baseline, on what is labelled so far and write its members."""
    import torch

    from perception.data.loading import pixel_counts
    from perception.training.loop import class_weights
    from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
    from perception.uncertainty.ensemble import Ensemble, make_ensemble, save_ensemble, snapshot_collector

    parameters.prepare()
    labelled = parameters.frame_set(labelled_so_far(inputs))
    networks = parameters.members if parameters.kind in ("dpe", "plain") else 1
    log(
        f"{networks} network{'s' if networks > 1 else ''} ({parameters.kind}) learn from {len(labelled)} labelled frames"
    )
    ensemble = make_ensemble(lambda _: parameters.new_network(), networks, parameters.seed)
    penalty = "dpe" if parameters.kind == "dpe" and parameters.beta else "l2"
    settings = EnsembleLoss(penalty=penalty, beta=parameters.beta, direction=parameters.direction)
    loss = ensemble_loss(settings, torch.from_numpy(class_weights(pixel_counts(labelled))).float())
    kept: list[torch.nn.Module] = []
    last = range(parameters.epochs - parameters.members, parameters.epochs) if parameters.kind == "snapshots" else ()
    parameters.train(ensemble, labelled, what="ensemble", loss=loss, after_epoch=snapshot_collector(last, kept))
    about = {"kind": parameters.kind, "beta": str(parameters.beta), "labelled_frames": str(len(labelled))}
    if parameters.kind == "mc_dropout":
        about |= {"dropout_passes": str(parameters.members), "dropout_seed": str(parameters.seed)}
    save_ensemble(Ensemble(kept) if kept else ensemble, outputs.one("ensemble"), about)


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
