"""What a cluster is like: section `cluster` of params.yaml, and what a stage needs there."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads no other below Python 3.12

from components.stage.declaration import Needs
from components.stage.night import FAREWELL_SECONDS
from components.stage.parameters import build_parameters, plain_values
from components.stage.registry import all_stages
from perception.errors import did_you_mean
from perception.parameters import BrokenRule, CountOrZero, checked, matching

_NAME = "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"


@with_config(ConfigDict(extra="forbid", strict=True))
class Toleration(TypedDict, total=False):
    """Let pods of a stage onto nodes with a taint, in Kubernetes' own words."""

    key: str
    operator: Literal["Exists", "Equal"]
    value: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    tolerationSeconds: int


WAITING: dict[str, Any] = {"cpu_cores": 0.25, "memory_gib": 1.0, "gpu_count": 0, "shared_memory_gib": 0.0}  # for a job

KubernetesName = Annotated[str, matching(_NAME, "must be the name of a Kubernetes object")]
NameOrNone = Annotated[str, matching(f"({_NAME})?", "must be the name of a Kubernetes object, or empty")]
Labels = dict[str, str]
_FOLDER = "/data/[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*"
SourceFolder = Annotated[str, matching(_FOLDER, "must be a folder below /data, such as /data/fleet")]


@checked
class Cluster:
    """Say what this cluster adds to what the stages declare; secrets and claims are named, never held."""

    s3_secret: KubernetesName = "nightdrive-s3"  # keys endpoint, access_key, secret_key
    # key credentials, a git-credential-store file; empty: no secret is mounted
    git_secret: NameOrNone = "nightdrive-git"
    # key key, the private half of the night's own ssh key (publish in the registry's list): of the steps that write the registry, which
    # sign with it; empty: the registry is not signed
    signing_secret: NameOrNone = ""
    # of the farewell: keys named like the variables of perception/reporting/outside.py; empty: nobody else is told
    outside_secret: NameOrNone = ""
    # resource name; a slice of a GPU is one too, nvidia.com/mig-1g.10gb
    accelerator: Annotated[
        str, matching("[a-z0-9.-]+/[A-Za-z0-9._-]+", "must be a resource name such as nvidia.com/gpu")
    ] = "nvidia.com/gpu"
    gpu_node_selector: Labels = Field(default_factory=dict)  # of steps with a GPU
    gpu_tolerations: tuple[Toleration, ...] = ()  # of steps with a GPU
    cpu_node_selector: Labels = Field(default_factory=dict)  # of all others
    cpu_tolerations: tuple[Toleration, ...] = ()  # of all others
    # by volume claim: the folder at which the steps that read footage see it; the folder of every source lies in one
    source_claims: dict[KubernetesName, SourceFolder] = Field(default_factory=dict)
    queue: NameOrNone = ""  # Kueue's local queue, which admits pods by priority and quota; empty: none
    # volume claim that outlives pods: a training killed with its node goes on; empty: none
    checkpoints_claim: NameOrNone = ""
    spot: tuple[str, ...] = ()  # stages that run on nodes which may be taken away
    spot_node_selector: Labels = Field(default_factory=dict)  # of such stages
    spot_tolerations: tuple[Toleration, ...] = ()  # of such stages
    spot_retries: CountOrZero = 10  # of a stage on such nodes, in place of its own
    parallel_steps: Annotated[int, Field(ge=0, le=1000)] = 0  # batches or shards at once; 0: all
    # after which a night is ended: before the next one starts
    night_hours: Annotated[float, Field(gt=0, le=24 * 7)] = 20.0
    # how often the watch tries a night again that lost a pod
    watch_retries: CountOrZero = 2
    # by stage: train over so many nodes, as a TrainJob
    nodes: dict[str, Annotated[int, Field(ge=2)]] = Field(default_factory=dict)
    # volume claim that every node can mount at once; trainings over several nodes need it
    shared_claim: NameOrNone = ""
    stages: dict[str, dict[str, object]] = Field(default_factory=dict)  # by stage: fields of its Needs that differ here

    def __post_init__(self) -> None:
        known = all_stages()
        for field in ("spot", "nodes", "stages"):
            for name in getattr(self, field):
                if name not in known:
                    raise BrokenRule(field, name, f"is no stage{did_you_mean(name, list(known))}")
        for name, count in self.nodes.items():
            if not known[name].needs.distributed:
                raise BrokenRule(f"nodes.{name}", count, "must be of a stage that trains")
            if not self.shared_claim:
                raise BrokenRule("shared_claim", "", f"must be named: {name} trains over {count} nodes")
        most = self.night_hours * 60 - FAREWELL_SECONDS / 60
        for name in known:
            if (minutes := self.needs(name).timeout_minutes) > most:
                rule = f"must be at most {most:g}: night_hours = {self.night_hours:g}, less what the farewell takes"
                raise BrokenRule(f"stages.{name}.timeout_minutes", minutes, rule)

    def needs(self, stage: str) -> Needs:
        """Return what a stage needs on this cluster."""
        declared = plain_values(all_stages()[stage].needs)
        if stage in self.spot:
            declared["retries"] = self.spot_retries
        return build_parameters(Needs, declared | self.stages.get(stage, {}), where=f"cluster.stages.{stage}")

    def step_needs(self, stage: str, shares: int = 0) -> Needs:
        """Return what the step of a stage itself needs: where a job does the work, the step only waits.

        shares: how many indices of a job the step waits for; 0: it is no fan-out.
        """
        needs = self.needs(stage)
        if shares:
            waves = -(-shares // (self.parallel_steps or shares))
            longest = min(needs.timeout_minutes * waves, round(self.night_hours * 60))
            return dataclasses.replace(needs, **WAITING, timeout_minutes=longest)
        return dataclasses.replace(needs, gpu_count=0, shared_memory_gib=0.0) if stage in self.nodes else needs
