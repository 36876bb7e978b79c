"""Several networks that answer together: joint ensembles, snapshots of one run, Monte Carlo dropout.

All of them are a *committee*: an nn.Module with `member_logits`, `forward` (the stack of them) and `embed`, so that
training, scoring and evaluation do not ask which kind they were given.
"""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perception.data.files import file_sha256, replace_file
from perception.errors import InputError
from perception.models.checkpoint import load_network, save_network
from perception.models.registry import NETWORKS, Networks
from perception.training.setup import seeded
from perception.uncertainty.priors import Prior, parameter_priors

ENSEMBLE_FILE = "ensemble.json"


class Committee(nn.Module):
    """Stand for several networks over the same classes; subclasses say how each member answers."""

    def member_logits(self, images: Tensor) -> Iterator[Tensor]:
        """Yield one member's logits after the other, so that only one of them needs to be in memory.

        images: (frame, 3, height, width) float32. Each yield: (frame, class, height, width), or (frame, class).
        """
        raise NotImplementedError

    def encoder(self) -> nn.Module:
        """Return the network whose features are the embeddings."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of all members: (member, frame, class, height, width), or (member, frame, class)."""
        return torch.stack(list(self.member_logits(images)))

    def embed(self, images: Tensor) -> Tensor:
        """Describe each image by the global average pool of the first member's features.

        The first member alone: channel k means something else in every member, so an average over members would mix
        unrelated channels and shrink the distances that selection lives on, at the cost of all encoders.

        images: (frame, 3, height, width) float32. Returns (frame, dimension) float32: the pool of what `encode` gives or,
        in a network that has none, of what its last layer reads.
        """
        network = self.encoder()
        encode = getattr(network, "encode", None)
        features: Tensor = encode(images) if callable(encode) else last_features(network, images)
        return features.flatten(2).mean(2).float() if features.dim() > 2 else features.float()


def last_features(network: nn.Module, images: Tensor) -> Tensor:
    """Return what the last convolution or linear layer of a network reads, channels second, for images as in forward.

    Raises InputError for a network without such a layer.
    """
    read: dict[str, Tensor] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        read["last"] = given[0].movedim(-1, 1) if isinstance(layer, nn.Linear) else given[0]

    layers = [module for module in network.modules() if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))]
    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(keep))
        network(images)
    if not read:
        raise InputError(
            f"network {type(network).__name__} has no method encode(images) and no convolution or linear layer that it "
            "calls, so it has no embeddings; add the method, or score without embeddings"
        )
    return read["last"]


class Ensemble(Committee):
    """Answer with every one of its members; one member is the single-network baseline."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise InputError("ensemble has 0 members; at least 1 is needed: pass the networks it is made of")
        self.members = nn.ModuleList(members)

    def __len__(self) -> int:
        return len(self.members)

    def encoder(self) -> nn.Module:
        return self.members[0]

    def member_logits(self, images: Tensor) -> Iterator[Tensor]:
        for member in self.members:
            yield member(images)


class DropoutEnsemble(Committee):
    """Answer with `passes` thinned copies of one network (MC dropout, Gal and Ghahramani 2016).

    Each pass draws one dropout mask per dropout layer from (seed, pass, layer) and uses it for every image. So a pass
    is one fixed network, and a frame's score does not depend on the batch or the shard it is in.
    """

    def __init__(self, network: nn.Module, passes: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self.passes = passes
        self.seed = seed
        self.layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
        if passes < 1:
            raise InputError(f"passes = {passes}; Monte Carlo dropout needs at least 1 pass: use for example 8")
        if not any(layer.p > 0 for layer in self.layers):
            raise InputError(
                f"network {type(network).__name__} has no dropout layer with p > 0; every pass would be equal: "
                "train it with dropout, or use an ensemble"
            )

    def __len__(self) -> int:
        return self.passes

    def encoder(self) -> nn.Module:
        return self.network

    def member_logits(self, images: Tensor) -> Iterator[Tensor]:
        self.network.eval()
        for number in range(self.passes):
            with ExitStack() as masks:
                for index, layer in enumerate(self.layers):
                    hook = _fixed_mask_hook(layer, (self.seed, number, index))
                    masks.enter_context(layer.register_forward_hook(hook))
                logits = self.network(images)
            yield logits


def _fixed_mask_hook(layer: nn.modules.dropout._DropoutNd, seed: tuple[int, int, int]) -> Callable[..., Tensor]:
    """Return a forward hook that multiplies the layer's output by one mask shared by all frames of the batch."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    keep = 1.0 - layer.p
    whole_channels = not isinstance(layer, nn.Dropout | nn.AlphaDropout)

    def multiply(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = output.shape[1:2] + (1,) * (output.dim() - 2) if whole_channels else output.shape[1:]
        mask = (torch.rand(shape, generator=generator) < keep).to(output) / max(keep, torch.finfo(output.dtype).tiny)
        return output * mask

    return multiply


def make_ensemble(
    build: Callable[[int], nn.Module], members: int, seed: int, priors: Mapping[str, Prior] | None = None
) -> Ensemble:
    """Build an ensemble whose members start from different weights.

    build: makes one network from the integer seed it is given; torch's global generator is seeded with the same
    number around the call and given back untouched. Parameters that every network starts with the same value in
    (normalisation scales and shifts, often biases) are drawn from their priors: members that are equal there have no
    spread, and the first steps on the DPE penalty would be as good as infinite. priors: by parameter name, in place of
    those of parameter_priors; what has one there may be equal in all that build gives. The same seed always gives the same
    ensemble; a single member is left as it was built.
    Raises InputError when members < 1 or when two members come out with equal weights.
    """
    if members < 1:
        raise InputError(f"members = {members}; an ensemble needs at least 1: set members to 8, as published")
    seeds = np.random.SeedSequence(seed).generate_state(members).tolist()
    networks = [seeded(partial(build, member_seed), member_seed) for member_seed in seeds]
    _refuse_equal_members(networks, priors or {})
    if members > 1:
        _draw_equal_parameters(networks, seeds, priors or {})
    return Ensemble(networks)


@torch.no_grad()
def _draw_equal_parameters(networks: Sequence[nn.Module], seeds: Sequence[int], priors: Mapping[str, Prior]) -> None:
    generators = [torch.Generator().manual_seed(member_seed) for member_seed in seeds]
    for name, prior in {**parameter_priors(networks[0]), **priors}.items():
        tensors = [network.get_parameter(name) for network in networks]
        if all(values.requires_grad and torch.equal(values, tensors[0]) for values in tensors):
            for values, generator in zip(tensors, generators, strict=True):
                noise = torch.randn(values.shape, generator=generator)
                values.copy_(torch.as_tensor(prior.mean, device="cpu") + math.sqrt(prior.variance) * noise)


def _refuse_equal_members(networks: Sequence[nn.Module], known: Collection[str]) -> None:
    """Raise InputError for two networks that are equal in all that is not known; what is known is drawn for each."""
    own = [{name: values for name, values in each.named_parameters() if name not in known} for each in networks]
    for (first, ours), (index, theirs) in combinations(enumerate(own), 2):
        if ours and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours):
            raise InputError(
                f"members {first} and {index} start from equal weights; an ensemble of equal members cannot disagree: "
                "let build() initialise from the seed it is given"
            )


def snapshots(network: nn.Module, epochs: Sequence[int]) -> tuple[nn.ModuleList, Callable[..., None]]:
    """Return copies of the network, one an epoch, and the `after_epoch` of `fit` that gives each its epoch's weights.

    An ensemble contributes all its members, so that seeds times snapshots members come together, as in Chitta et al.,
    arXiv 1905.12737. Afterwards `Ensemble(copies)` is the snapshot ensemble. The copies are on the CPU.
    """
    networks = list(network.members) if isinstance(network, Ensemble) else [network]
    copies = nn.ModuleList(copy.deepcopy(each).cpu().eval() for _ in epochs for each in networks)

    def after_epoch(epoch: int, _network: nn.Module, _optimizer: object) -> None:
        if epoch in epochs:
            first = epochs.index(epoch) * len(networks)
            for place, each in enumerate(networks, first):
                copies[place].load_state_dict(each.state_dict())

    return copies, after_epoch


def save_ensemble(ensemble: Ensemble, folder: Path, metadata: dict[str, str], networks: Networks = NETWORKS) -> str:
    """Write the members and ensemble.json, which names them, into a folder; return the ensemble's model_sha256.

    ensemble.json is written last and moved into place whole, so a folder that has it is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for index, member in enumerate(ensemble.members):
        name = f"member_{index:02d}.safetensors"
        members.append({"file": name, "sha256": save_network(member, folder / name, metadata, networks)})
    model_sha256 = _combine([member["sha256"] for member in members])
    text = json.dumps({"model_sha256": model_sha256, "members": members, "metadata": metadata}, indent=2) + "\n"
    replace_file(folder / ENSEMBLE_FILE, text.encode())
    return model_sha256


def load_ensemble(folder: Path, networks: Networks = NETWORKS) -> Ensemble:
    """Load an ensemble in eval mode from a folder that `save_ensemble` wrote, checking every member's sha256.

    Raises InputError when ensemble.json is missing or damaged or a member's file is not the one it names.
    """
    members = _read_ensemble_file(folder)["members"]
    for member in members:
        path = folder / member["file"]
        if not path.is_file():
            raise InputError(f"{path} does not exist though {ENSEMBLE_FILE} names it; fetch the ensemble again")
        if (found := file_sha256(path)) != member["sha256"]:
            said = f"{ENSEMBLE_FILE} says {member['sha256']}"
            raise InputError(f"{path} has sha256 {found}, {said}; fetch the ensemble again")
    return Ensemble([load_network(folder / member["file"], networks) for member in members]).eval()


def load_committee(folder: Path, networks: Networks = NETWORKS) -> Committee:
    """Load what `save_ensemble` wrote as what it was: an ensemble, or the passes of Monte Carlo dropout.

    The latter is an ensemble of one whose metadata have dropout_passes and dropout_seed.
    """
    ensemble, metadata = load_ensemble(folder, networks), _read_ensemble_file(folder).get("metadata") or {}
    if "dropout_passes" not in metadata:
        return ensemble
    try:
        passes, seed = int(metadata["dropout_passes"]), int(metadata["dropout_seed"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder / ENSEMBLE_FILE} is damaged ({error!r}); train the ensemble again") from None
    return DropoutEnsemble(ensemble.members[0], passes, seed)


def ensemble_sha256(folder: Path) -> str:
    """Return the model_sha256 of a saved ensemble: the sha256 over its members' sha256s in their order."""
    record = _read_ensemble_file(folder)
    model_sha256 = _combine([member["sha256"] for member in record["members"]])
    if record["model_sha256"] != model_sha256:
        raise InputError(
            f"{folder / ENSEMBLE_FILE}: model_sha256 {record['model_sha256']} is not that of its members; "
            "the file was edited: train or fetch the ensemble again"
        )
    return model_sha256


def _combine(member_sha256s: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(member_sha256s).encode()).hexdigest()


def _read_ensemble_file(folder: Path) -> dict[str, Any]:
    path = folder / ENSEMBLE_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        names = [str(member["file"]) for member in record["members"]]
        complete = all(isinstance(member["sha256"], str) for member in record["members"]) and record["model_sha256"]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; a saved ensemble has it: run the ensemble stage first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); train or fetch the ensemble again") from None
    if not names or not complete or any(Path(name).name != name or name in ("", ".", "..") for name in names):
        raise InputError(f"{path}: members {names} must be plain file names beside it: fetch the ensemble again")
    return record
