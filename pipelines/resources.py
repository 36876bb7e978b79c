"""What a stage declares that it needs, said in Kubeflow's words."""

from typing import Any

from components.contract import Needs

NEVER_CACHED = ("resolve", "publish", "farewell")  # what they read or write lies outside the pipeline


def apply_needs(step: Any, needs: Needs, name: str) -> Any:
    """Set the step's name, resources, retries, time-out and caching; return it."""
    from kfp import kubernetes

    step.set_display_name(name)
    step.set_cpu_request(f"{needs.cpu_cores:g}").set_memory_request(f"{needs.memory_gib:g}Gi").set_memory_limit(
        f"{needs.memory_gib:g}Gi"
    )
    if needs.gpu_count:
        step.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(needs.gpu_count)
    step.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="10m")
    step.set_caching_options(name not in NEVER_CACHED)
    kubernetes.set_timeout(step, needs.timeout_minutes * 60)
    return step
