"""ensemble: train the networks whose disagreement says which frames would teach most."""

from typing import TYPE_CHECKING, Literal

from components.stage.declaration import BASE, FRAMES, Paths, Port, Stage
from components.stage.learning import (
    LearningParameters,
    by_all_processes,
    check_network,
    labelled_so_far,
    networks_of,
    new_network,
    open_frames,
    started_network,
    train,
    train_settings,
    training_needs,
)
from components.stage.records import log
from components.stage.starting import Start, find_start
from perception.parameters import BrokenRule, Count, NotNegative, checked

if TYPE_CHECKING:
    from torch import nn

    from perception.uncertainty.priors import Prior


@checked
class EnsembleParameters(LearningParameters):
    """Choose the ensemble and how it is trained."""

    # dpe: trained jointly with the KL penalty; plain: with L2; snapshots of one run; mc_dropout
    kind: Literal["dpe", "plain", "snapshots", "mc_dropout"] = "dpe"
    members: Count = 4  # networks, snapshots or dropout passes; the KL penalty's expectation is finite from 4 on
    beta: NotNegative = 1e-7  # weight of the KL penalty over members beside the cross-entropy; 0 is kind plain
    direction: Literal["pq", "qp"] = "pq"  # pq: KL(prior || members), the paper's expression; qp: KL(members || prior)

    def __post_init__(self) -> None:
        if self.kind == "dpe" and self.beta > 0 and self.members < 4:
            raise BrokenRule("members", self.members, "must be at least 4 with the KL penalty (beta > 0)")
        if self.kind == "snapshots" and self.epochs < self.members:
            raise BrokenRule("epochs", self.epochs, "must be at least as many as the snapshots")


@by_all_processes
def run(inputs: Paths, outputs: Paths, parameters: EnsembleParameters) -> None:
    """Train a Deep Probabilistic Ensemble, or a baseline, on what is labelled so far and write its members."""
    import torch

    from perception.training.losses import class_weights, pixel_counts
    from perception.uncertainty.dpe import EnsembleLoss, ensemble_loss
    from perception.uncertainty.ensemble import DropoutEnsemble, Ensemble, make_ensemble, save_ensemble, snapshots

    check_network(parameters)
    labelled = open_frames(labelled_so_far(inputs), parameters)
    networks = parameters.members if parameters.kind in ("dpe", "plain") else 1
    log(
        f"{networks} network{'s' if networks > 1 else ''} ({parameters.kind}) learn from {len(labelled)} labelled frames"
    )
    training = train_settings(parameters)
    priors, start = _known_priors(inputs, parameters, training.device)
    ensemble = make_ensemble(lambda _: _member(parameters, start), networks, parameters.seed, priors)
    if parameters.kind == "mc_dropout":
        DropoutEnsemble(ensemble.members[0], parameters.members, parameters.seed)  # refuses a network without dropout
    penalty: Literal["dpe", "l2"] = "dpe" if parameters.kind == "dpe" and parameters.beta else "l2"
    settings = EnsembleLoss(penalty=penalty, beta=parameters.beta, direction=parameters.direction)
    weights = class_weights(pixel_counts(labelled))
    loss = ensemble_loss(settings, torch.as_tensor(weights, dtype=torch.float32, device=training.device), priors)
    last = range(parameters.epochs - parameters.members, parameters.epochs) if parameters.kind == "snapshots" else ()
    kept, keep = snapshots(ensemble, last)
    copies = kept if last else None
    train(ensemble, labelled, training, parameters, what="ensemble", loss=loss, after_epoch=keep, kept=copies)
    about = {"kind": parameters.kind, "beta": str(parameters.beta), "labelled_frames": str(len(labelled))}
    about |= {"started_from": start.started_from, "start_reason": start.reason}
    if parameters.kind == "mc_dropout":
        about |= {"dropout_passes": str(parameters.members), "dropout_seed": str(parameters.seed)}
    trained = Ensemble(list(kept)) if last else ensemble
    save_ensemble(trained, outputs.one("ensemble"), about, networks_of(parameters))


def _known_priors(inputs: Paths, parameters: EnsembleParameters, device: str) -> "tuple[dict[str, Prior], Start]":
    """Return what members start from, and the priors of these parameters: what they are there."""
    from perception.uncertainty.priors import started_priors

    network, taken = started_network(parameters)
    own, names = network.state_dict(), taken.taken if taken else ()
    brought = Start(started_from="pretrained" if names else "scratch", state={name: own[name] for name in names})
    start = find_start(parameters.start_from, inputs.one("base"), network, parameters.taxonomy, brought)
    log(f"members start from {start.started_from}: {start.reason}")
    network.load_state_dict(start.state, strict=False)
    return started_priors(network.to(device), start.state), start


def _member(parameters: EnsembleParameters, start: Start) -> "nn.Module":
    network = new_network(parameters)
    network.load_state_dict(start.state, strict=False)
    return network


STAGE = Stage(
    name="ensemble",
    summary="Train a Deep Probabilistic Ensemble on the frames that are labelled so far.",
    inputs=(FRAMES, BASE),
    outputs=(Port(name="ensemble", about="weights of every member"),),
    parameters=EnsembleParameters,
    needs=training_needs(timeout_minutes=240),
    run=run,
)
