"""Compression-aware training: sparsity and low rank while a network learns, a smaller network before it is done.

Alvarez and Salzmann, Compression-aware Training of Deep Networks, NIPS 2017. The proximal steps come once an epoch (or
step), the network shrinks at the reload epochs, and the epochs that remain are cheaper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from perception.compression.cost import count_parameters
from perception.compression.latency_budget import (
    CostModel,
    Lost,
    block_costs,
    measured_costs,
    parameter_costs,
    set_costs,
    zero_to_cost,
)
from perception.compression.low_rank import LayerChoice, factorise_by_energy
from perception.compression.nuclear import calibrate_nuclear_strength, nuclear_step
from perception.parameters import (
    BrokenRule,
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    ShareFromZero,
    ShareToOne,
    checked,
)
from perception.sparsity.branches import Branch, find_branches
from perception.sparsity.closing import close_zero_branches
from perception.sparsity.groups import Groups, find_groups
from perception.sparsity.proximal import calibrate_strength, measure_sparsity, proximal_step
from perception.sparsity.ranking import loss_importance
from perception.sparsity.removal import LayerRemoval, remove_zero_channels
from perception.training import distributed

Costs = Literal["blocks", "measured", "parameters"]
Importance = Literal["norm", "loss"]
_COST_MODELS: dict[Costs, Callable[[nn.Module, Groups, Tensor], CostModel]] = {
    "blocks": block_costs,
    "measured": measured_costs,
    "parameters": parameter_costs,
}


@checked
class ShrinkSettings:
    """How a network loses weight while it learns; raises InputError for a value out of range."""

    # of the median neuron norm that one proximal step takes at the first learning rate
    strength_share: ShareFromZero = 0.05
    alpha: ShareFromZero = 0.0  # 0 group lasso; between 0 and 1 sparse group lasso
    nuclear_share: ShareFromZero = 0.0  # of the median singular value that one nuclear step takes; 0: none
    reload_epochs: tuple[CountOrZero, ...] = ()  # after these epochs (from 0) zero channels leave the network
    # at the last reload layers become low-rank pairs that keep this energy
    factorise_energy: ShareToOne | None = None
    # of the network's cost, by the model of `costs`, that may be left after the last reload
    target_cost_share: ShareToOne | None = None
    costs: Costs = "blocks"  # the model: block_costs (repeatable), measured_costs, or parameter_costs
    importance: Importance = "norm"  # of a neuron, for target_cost_share: its norm, or its estimated share in the loss
    lost: Lost = "sum"  # of it: by neurons alone, or as a share of what their layer has left, against bottlenecks
    # power of a neuron's share in the latency by which it is pressed harder; 0: alike
    strength_by_cost: Fraction = 0.0
    first_layers: int = 3  # layers that are protected
    first_factor: NotNegative = 0.4  # of the strength that protected layers get
    close_branches: bool = False  # residual branches may leave whole: those that are zero, and others for a cost
    minimum_channels: Count = 4  # output channels that every layer keeps
    multiple_of: Count = 1  # a group set keeps a multiple of this many neurons

    def __post_init__(self) -> None:
        if (self.factorise_energy or self.target_cost_share) and not self.reload_epochs:
            raise BrokenRule("reload_epochs", (), "must name an epoch: factorise_energy and the target act at a reload")


@dataclass(frozen=True)
class ShrinkRecord:
    """The state after one epoch: the percentage of proximal.Sparsity, and the parameters of the whole network."""

    epoch: int
    neurons_zero: float
    parameters: int
    removed: tuple[LayerRemoval, ...] = ()
    factorised: tuple[LayerChoice, ...] = ()
    closed: tuple[str, ...] = ()  # residual branches, by name; their layers are in `removed` with no channel left


class CompressionAwareTraining:
    """Hooks for a training loop: proximal steps, and the reload of a smaller network, in place.

    After the last reload the steps end and the smaller network learns undisturbed; without reloads they never end.
    Residual branches without a neuron left are closed there; what they add is then their normalisation's bias.
    With several reloads a target is approached in equal ratios, as HALP does it. Give `after_epoch` (or `after_step`
    for a step each iteration) to perception.training.loop.fit. `groups` and `records` tell the present state. A network
    that is resumed must have the shape that it had when it was saved, closed branches included.
    """

    def __init__(
        self,
        network: nn.Module,
        example_input: Tensor,
        learning_rate: float,
        settings: ShrinkSettings,
        averaged: Sequence[nn.Module] = (),
    ) -> None:
        self.settings = settings
        self.example_input = example_input
        self.averaged = tuple(averaged)
        self.groups: Groups = find_groups(network, example_input)
        self.branches: tuple[Branch, ...] = ()  # those that are open
        if settings.close_branches and settings.reload_epochs:
            self.branches = find_branches(network, self.groups, example_input)
        weighs = settings.target_cost_share is not None or settings.strength_by_cost > 0
        self._cost_at_start = self._costs(network).cost() if weighs else 0.0
        self.strength = self._calibrated(network, learning_rate)
        self.nuclear_strength = 0.0
        if settings.nuclear_share > 0:
            self.nuclear_strength = calibrate_nuclear_strength(network, learning_rate, settings.nuclear_share)
        self.records: list[ShrinkRecord] = []

    def _costs(self, network: nn.Module) -> CostModel:
        """Give process 0's cost model to all: times that each measured itself would prune each process differently."""
        return distributed.gather(_COST_MODELS[self.settings.costs](network, self.groups, self.example_input))[0]

    def _calibrated(self, network: nn.Module, learning_rate: float) -> dict[str, float]:
        settings = self.settings
        if settings.strength_share == 0:
            return {group.name: 0.0 for group in self.groups.sets}
        strength = calibrate_strength(
            self.groups,
            network,
            learning_rate,
            settings.strength_share,
            first_layers=settings.first_layers,
            first_factor=settings.first_factor,
            alpha=settings.alpha,
        )
        if settings.strength_by_cost == 0:
            return strength
        model = self._costs(network)
        costs = set_costs(self.groups, model, max(settings.multiple_of, model.block))
        mean = sum(costs[group.name] * group.neurons for group in self.groups.sets) / self.groups.neurons
        return {name: value * (costs[name] / mean) ** settings.strength_by_cost for name, value in strength.items()}

    def after_step(self, _: int, network: nn.Module, optimizer: Optimizer) -> None:
        """Apply the proximal steps at the present learning rate (nuclear first: it must not undo exact zero rows)."""
        step_size = float(optimizer.param_groups[0]["lr"])
        if self.nuclear_strength > 0:
            nuclear_step(network, step_size, self.nuclear_strength)
        if any(self.strength.values()):
            proximal_step(self.groups, step_size, self.strength, self.settings.alpha)

    def after_epoch(self, epoch: int, network: nn.Module, optimizer: Optimizer) -> None:
        """Apply the proximal steps once, record the sparsity, and reload where the settings say so."""
        if epoch <= max(self.settings.reload_epochs, default=epoch):
            self.after_step(epoch, network, optimizer)
        self.observe(epoch, network, optimizer)

    def observe(self, epoch: int, network: nn.Module, optimizer: Optimizer) -> None:
        """Record the sparsity and reload: what after_epoch does where the steps are taken each iteration."""
        settings, last = self.settings, epoch == max(self.settings.reload_epochs, default=-1)
        reloads = epoch in settings.reload_epochs
        if reloads and settings.target_cost_share is not None:
            self._spend(epoch, network, optimizer, settings.target_cost_share)
        neurons_zero = measure_sparsity(self.groups).neurons
        changes = self._reload(network, optimizer, last) if reloads else {}
        self.records.append(ShrinkRecord(epoch, neurons_zero, count_parameters(network), **changes))

    def _spend(self, epoch: int, network: nn.Module, optimizer: Optimizer, target: float) -> None:
        """Zero neurons until the network costs what it may cost after this reload."""
        reloads = sorted(set(self.settings.reload_epochs))
        share = target ** ((reloads.index(epoch) + 1) / len(reloads))
        zero_to_cost(
            self.groups,
            self._costs(network),
            share * self._cost_at_start,
            bundle=self.settings.multiple_of,
            minimum_channels=max(self.settings.multiple_of, self.settings.minimum_channels),
            importance=loss_importance(self.groups, optimizer) if self.settings.importance == "loss" else None,
            lost=self.settings.lost,
            branches=self.branches,
        )

    def _reload(self, network: nn.Module, optimizer: Optimizer, last: bool) -> dict[str, Any]:
        """Close branches, remove channels and, at the last reload, factorise layers; say so as ShrinkRecord does."""
        channels = {layer: len(numbers) for layer, numbers in self.groups.layer_neurons.items()}
        closing = close_zero_branches(
            network, self.groups, self.branches, settle=True, optimizer=optimizer, averaged=self.averaged
        )
        removal = remove_zero_channels(
            network,
            closing.groups,
            minimum_channels=self.settings.minimum_channels,
            multiple_of=self.settings.multiple_of,
            optimizer=optimizer,
            averaged=self.averaged,
        )
        self.groups, self.branches = removal.groups, closing.open
        kept = {item.layer: item for item in removal.layers}
        factorised: tuple[LayerChoice, ...] = ()
        if last and self.settings.factorise_energy is not None:
            factorised = factorise_by_energy(network, self.settings.factorise_energy, optimizer=optimizer).layers
            self.groups = find_groups(network, self.example_input)
            # The pairs have other groups than the layers had, so the old strengths no longer name them: shrinking ends.
            self.strength, self.nuclear_strength = {group.name: 0.0 for group in self.groups.sets}, 0.0
        return {
            "removed": tuple(kept.get(name, LayerRemoval(name, count, 0)) for name, count in channels.items()),
            "factorised": factorised,
            "closed": tuple(branch.name for branch in closing.closed),
        }
