"""Predict a night of a whole fleet, stage after stage, from measured costs a frame."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from perception.parameters import BrokenRule, Count, NotNegative, Positive, ShareFromZero, ShareToOne, checked

HOUR_S, TB, GIB = 3600.0, 1e12, 2.0**30
SHORTLIST_OF_BUDGET = 2.0  # assumed: frames that the strategy looks at, for each that it chooses


@checked
class Fleet:
    """Say how much footage there is; fleet.yaml explains every number."""

    bytes_a_year: Positive
    frame_bytes: Positive
    pool_every: Count
    curated_share: Positive
    nights_a_year: Count
    window_hours: Positive

    def __post_init__(self) -> None:
        if self.curated_share * self.pool_every > 1:
            raise BrokenRule("curated_share", self.curated_share, "must fit into the pool")

    @property
    def raw_frames(self) -> float:
        """Return the frames of a night's footage."""
        return self.bytes_a_year / self.nights_a_year / self.frame_bytes

    @property
    def pool_frames(self) -> int:
        """Return the frames of a night that are ingested and scored."""
        return round(self.raw_frames / self.pool_every)

    @property
    def curated_frames(self) -> int:
        """Return the frames that a night adds to the data version."""
        return round(self.raw_frames * self.curated_share)


@checked
class FleetCluster:
    """Say what the night runs on."""

    cpu_pods: Count
    cores_a_pod: Count
    gpus: Count
    training_gpus: Count
    training_efficiency: ShareToOne
    store_gbit_s: Positive
    pod_start_s: NotNegative
    ingest_pods: Count
    score_shards: Count
    shard_spread: NotNegative
    death_share: ShareFromZero

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Return the store's bandwidth for all pods together."""
        return self.store_gbit_s * 1e9 / 8

    def trainer(self, network_frames: float, rate: float) -> float:
        """Return the seconds of a training of so many passes of frames through a network, on its GPUs."""
        efficiency = self.training_efficiency if self.training_gpus > 1 else 1.0
        return network_frames / (rate * self.training_gpus * efficiency)


@checked
class Limits:
    """Say what Kubernetes and KFP allow."""

    workflow_nodes: Count
    nodes_an_iteration: Count
    etcd_request_bytes: Positive
    parameter_bytes: Positive
    pod_memory_gib: Positive


@checked
class Gpu:
    """Hold the measured speed of one GPU."""

    trained_frames_a_s: Positive  # of one network, forward and backward
    forward_share: Positive  # of that time that the forward pass takes

    @property
    def forward_frames_a_s(self) -> float:
        """Return the frames a second that pass forward through one network."""
        return self.trained_frames_a_s / self.forward_share


@checked
class Prices:
    """Hold prices, in one currency; assumptions."""

    gpu_hour: float
    core_hour: float
    stored_tb_month: float
    moved_tb: float


@checked
class Rates:
    """Hold what this project's own code costs a frame on a processor: docs/results/fleet_rates.json (measured)."""

    ingest_core_s: Positive  # decode, measure, hash and store a frame of 2 megapixels
    gather_row_s: Positive  # seconds a row of the one process that puts manifests together
    gate_row_s: Positive  # of the gate, libraries loaded
    gate_start_s: Positive  # of the gate, however many rows there are
    select_row_s: Positive  # of streaming the scores and joining the pool's facts
    select_pair_s: Positive  # of k-centre, a shortlisted frame and a chosen one
    curate_core_s: Positive  # of packing a chosen frame into a shard
    diff_row_s: Positive  # of comparing two manifests
    gather_row_bytes: Positive  # memory of the one process, a row
    gate_row_bytes: Positive
    score_row_bytes: Positive  # of every shard's process, a row of the whole pool: it reads the night's manifest
    select_row_bytes: Positive


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold what the night's parameters ask of its stages: passes of frames through a network, and counts."""

    members: int
    ensemble_passes: float
    compare_passes: float
    adapt_passes: float
    train_passes: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Plan":
        """Read the passes out of a night's settings (pipelines.settings.load_settings)."""
        ensemble, compare, adapt, train = (settings[name] for name in ("ensemble", "compare", "adapt", "train_prune"))
        # a student with masks, one without
        epochs = adapt["epochs"] + 2 * adapt["student_epochs"] + adapt["detector_epochs"]
        return cls(
            members=ensemble["members"],
            ensemble_passes=float(ensemble["members"] * ensemble["epochs"] * ensemble["epoch_frames"]),
            compare_passes=2.0 * compare.get("seeds", 1) * compare["epochs"] * compare["epoch_frames"],
            adapt_passes=float(epochs * adapt["epoch_frames"]),
            train_passes=float((train["epochs"] + train["pruned_epochs"]) * train["epoch_frames"]),
        )


@dataclass(frozen=True, kw_only=True)
class World:
    """Hold everything that a prediction starts from."""

    fleet: Fleet
    cluster: FleetCluster
    limits: Limits
    gpu: Gpu
    prices: Prices
    rates: Rates
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class StageForecast:
    """Say what one stage of the night takes."""

    name: str
    hours: float
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    moved_tb: float = 0.0  # to and from the store
    pods: int = 1
    memory_gib: float = 0.0  # of its largest process, where it holds the whole pool
    critical: bool = True  # the night waits for it
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Say how a night goes."""

    stages: tuple[StageForecast, ...]
    bottleneck: str  # what must be doubled to shorten the night most
    hours_if_doubled: Mapping[str, float]  # hours of the night with twice as much of each resource
    exceeded: tuple[str, ...]  # limits that the night does not keep, in words
    cost: Mapping[str, float]  # of the night, by kind

    @property
    def hours(self) -> float:
        """Return the hours of the critical path."""
        return night_hours(self.stages)

    @property
    def gpu_hours(self) -> float:
        """Return the GPU-hours of all stages."""
        return sum(stage.gpu_hours for stage in self.stages)


def forecast(world: World) -> Forecast:
    """Predict the night, and by how much twice as much of each resource would shorten it."""
    stages = stages_of(world)
    doubled = {name: night_hours(stages_of(each)) for name, each in _doubled(world).items()}
    return Forecast(
        stages=stages,
        bottleneck=min(doubled, key=lambda name: doubled[name]),
        hours_if_doubled=doubled,
        exceeded=tuple(_exceeded(world, stages)),
        cost=_cost(world, stages),
    )


def night_hours(stages: tuple[StageForecast, ...]) -> float:
    """Add up the stages that the night waits for."""
    return sum(stage.hours for stage in stages if stage.critical)


def stages_of(world: World) -> tuple[StageForecast, ...]:
    """Predict every stage of the night, in its order."""
    fleet, rates, cluster = world.fleet, world.rates, world.cluster
    pool, curated = fleet.pool_frames, fleet.curated_frames
    ingest_s = pool * rates.ingest_core_s / cluster.cores_a_pod
    uploaded = 2 * pool * fleet.frame_bytes  # from where cars upload to, and into the store
    pairs = SHORTLIST_OF_BUDGET * curated * curated
    trained = {
        "ensemble": world.plan.ensemble_passes, "compare": world.plan.compare_passes, "adapt": world.plan.adapt_passes,
        "train_prune": world.plan.train_passes,
    }  # fmt: skip
    training = {name: _training(world, name, passes) for name, passes in trained.items()}
    return (
        _fan_out(world, "ingest", cluster.ingest_pods, ingest_s, uploaded, cluster.cpu_pods, gpus_a_pod=0),
        _single(world, "gather", pool * rates.gather_row_s, pool * rates.gather_row_bytes),
        _single(world, "gate_ingest", rates.gate_start_s + pool * rates.gate_row_s, pool * rates.gate_row_bytes),
        training["ensemble"],
        _score(world),
        _single(world, "select", pool * rates.select_row_s + pairs * rates.select_pair_s, pool * rates.select_row_bytes),
        _single(world, "curate", curated * rates.curate_core_s, 0.0, moved=2 * curated * fleet.frame_bytes),
        _single(world, "publish", curated * rates.diff_row_s, 0.0, moved=2 * curated * fleet.frame_bytes),
        replace(training["compare"], critical=False, note="beside adapt"),
        training["adapt"],
        training["train_prune"],
        _single(world, "gates, compress, evaluate, propose, report", 10 * rates.gate_start_s, 0.0, steps=11),
    )  # fmt: skip


def _score(world: World) -> StageForecast:
    fleet, cluster = world.fleet, world.cluster
    seconds = fleet.pool_frames * world.plan.members / world.gpu.forward_frames_a_s
    moved = fleet.pool_frames * fleet.frame_bytes
    found = _fan_out(world, "score", cluster.score_shards, seconds, moved, cluster.gpus, gpus_a_pod=1)
    return replace(found, memory_gib=fleet.pool_frames * world.rates.score_row_bytes / GIB)


def _fan_out(
    world: World, name: str, count: int, seconds: float, moved: float, pods: int, *, gpus_a_pod: int
) -> StageForecast:
    """Predict shards that take `seconds` in all on one pod and move `moved` bytes: waves of pods, or what the store can bring.

    A wave lasts as long as its slowest shard: of n log-normal ones exp(spread * sqrt(2 ln n)) times the median, at most.
    A try that dies does so half way in the mean.
    """
    cluster = world.cluster
    tries = count / (1 - cluster.death_share)
    at_once = min(pods, count)
    longest = seconds / count * math.exp(cluster.shard_spread * math.sqrt(2 * math.log(at_once)))
    waves = math.ceil(tries / pods) * (cluster.pod_start_s + longest)
    needed = max(waves, moved / cluster.bandwidth_bytes_per_s + cluster.pod_start_s)
    pod_seconds = tries * cluster.pod_start_s + seconds * (1 + (tries / count - 1) / 2)
    return StageForecast(
        name=name,
        hours=needed / HOUR_S,
        gpu_hours=gpus_a_pod * pod_seconds / HOUR_S,
        core_hours=cluster.cores_a_pod * pod_seconds / HOUR_S,
        moved_tb=moved / TB,
        pods=round(tries),
        note=f"{count} shards{'; waits for the store' if needed > waves else ''}",
    )


def _training(world: World, name: str, passes: float) -> StageForecast:
    cluster = world.cluster
    seconds = cluster.trainer(passes, world.gpu.trained_frames_a_s)
    hours = (seconds + cluster.pod_start_s) / HOUR_S
    return StageForecast(
        name=name,
        hours=hours,
        gpu_hours=cluster.training_gpus * hours,
        core_hours=cluster.cores_a_pod * cluster.training_gpus * hours,
        note=f"{passes / 1e6:.1f} million passes",
    )


def _single(
    world: World, name: str, seconds: float, memory_bytes: float, *, moved: float = 0.0, steps: int = 1
) -> StageForecast:
    """Predict a stage of one process: the slower of its own work and its bytes, and its pods' start."""
    cluster = world.cluster
    seconds = max(seconds, moved / cluster.bandwidth_bytes_per_s) + steps * cluster.pod_start_s
    return StageForecast(
        name=name,
        hours=seconds / HOUR_S,
        core_hours=cluster.cores_a_pod * seconds / HOUR_S,
        moved_tb=moved / TB,
        pods=steps,
        memory_gib=memory_bytes / GIB,
    )


# ---------------------------------------------------------------- what is short


def _doubled(world: World) -> dict[str, World]:
    """Give the night twice as much of one resource after the other."""
    cluster, rates = world.cluster, world.rates
    names = (each.name for each in fields(rates) if each.name.endswith("_s") and each.name != "ingest_core_s")
    single = {name: getattr(rates, name) / 2 for name in names}
    changed = {
        "processor pods": replace(cluster, cpu_pods=2 * cluster.cpu_pods),
        "GPUs that score": replace(cluster, gpus=2 * cluster.gpus),
        "GPUs that train": replace(cluster, training_gpus=2 * cluster.training_gpus),
        "the store's bandwidth": replace(cluster, store_gbit_s=2 * cluster.store_gbit_s),
        "starts of pods (half as long)": replace(cluster, pod_start_s=cluster.pod_start_s / 2),
    }
    worlds = {name: replace(world, cluster=each) for name, each in changed.items()}
    return worlds | {"stages of one process (twice as fast)": replace(world, rates=replace(rates, **single))}


def _exceeded(world: World, stages: tuple[StageForecast, ...]) -> list[str]:
    """Name the limits that the night does not keep, each with what to do."""
    limits, cluster, found = world.limits, world.cluster, []
    nodes = limits.nodes_an_iteration * (cluster.ingest_pods + cluster.score_shards) + 60
    if nodes > limits.workflow_nodes:
        found.append(
            f"the workflow has {nodes:,} nodes, about {limits.workflow_nodes:,} fit into one object: larger sources and "
            "shards, or let Argo offload the state of its nodes to a database"
        )
    for loop, count in (("sources", cluster.ingest_pods), ("shards", cluster.score_shards)):
        listed = 8 * count  # a number or short name with its quotes and comma
        if listed > min(limits.parameter_bytes, limits.etcd_request_bytes):
            found.append(
                f"the list of {loop} takes {listed:,} bytes, above {limits.parameter_bytes:,.0f}: fewer of them"
            )
    found += [
        f"{stage.name} holds {stage.memory_gib:.0f} GiB, above the {limits.pod_memory_gib:.0f} GiB of the largest pod: a "
        "smaller pool, or this stage by parts"
        for stage in stages
        if stage.memory_gib > limits.pod_memory_gib
    ]
    if (hours := night_hours(stages)) > world.fleet.window_hours:
        found.append(f"the night takes {hours:.1f} h, its window has {world.fleet.window_hours:g} h")
    return found


def _cost(world: World, stages: tuple[StageForecast, ...]) -> dict[str, float]:
    prices, fleet = world.prices, world.fleet
    kept = (fleet.pool_frames + fleet.curated_frames) * fleet.frame_bytes / TB
    return {
        "GPUs": prices.gpu_hour * sum(stage.gpu_hours for stage in stages),
        "processors": prices.core_hour * sum(stage.core_hours for stage in stages),
        "traffic": prices.moved_tb * sum(stage.moved_tb for stage in stages),
        "storage of a month": prices.stored_tb_month * kept,
    }
