"""What a night costs: section `prices` of params.yaml, by what the stages declare that they need."""

from typing import Annotated

from perception.parameters import NotNegative, checked, matching
from pipelines.cluster import Cluster
from pipelines.graph import Graph


@checked
class Prices:
    """Say what an hour of cores, memory and GPUs costs; a task's work counts as if it had all that it asks for on a cluster."""

    currency: Annotated[str, matching("[A-Z]{3}", "must be three capital letters such as EUR")] = "EUR"
    core_hour: NotNegative = 0.0  # of a processor core
    memory_gib_hour: NotNegative = 0.0  # of a GiB of memory
    gpu_hour: NotNegative = 0.0  # of a GPU, beside the cores and the memory of its step

    def by_task(self, night: Graph, cluster: Cluster) -> dict[str, float]:
        """Return the price of an hour of each task; empty where nothing has a price."""
        prices = {name: self._of(task.stage.name, cluster) for name, task in night.tasks.items()}
        return prices if any(prices.values()) else {}

    def _of(self, stage: str, cluster: Cluster) -> float:
        needs = cluster.needs(stage)
        price = self.core_hour * needs.cpu_cores + self.memory_gib_hour * needs.memory_gib
        return round((price + self.gpu_hour * needs.gpu_count) * cluster.nodes.get(stage, 1), 6)
