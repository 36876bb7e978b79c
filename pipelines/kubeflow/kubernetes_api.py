"""The Kubernetes API of the current context: what the commands ask it beside Kubeflow Pipelines' own API."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

NAMESPACE_VARIABLE, DEFAULT_NAMESPACE = "NIGHTDRIVE_NAMESPACE", "nightdrive"
KUBEFLOW = "kubeflow"  # the namespace that Kubeflow Pipelines itself runs in
INSTALL_CONFIG = "pipeline-install-config"  # the config map of its settings
TIMEOUT_SECONDS = 10


def namespace() -> str:
    """Return the namespace that nights run in."""
    return os.environ.get(NAMESPACE_VARIABLE, DEFAULT_NAMESPACE)


def connect_kubernetes() -> tuple[Any, str]:
    """Return the client of the current context's API and an empty text, or None and why there is none."""
    from kubernetes import client, config

    # Named here, because the client reads the variable only once, when it is imported.
    named = {"config_file": os.environ["KUBECONFIG"]} if os.environ.get("KUBECONFIG") else {}
    try:
        config.load_config(**named)
    except (config.ConfigException, OSError) as error:
        return None, " ".join(str(error).split())
    return client.ApiClient(), ""


def answer(question: Callable[[], Any]) -> tuple[Any, int, str]:
    """Ask the API; return its answer, the HTTP status (0: it cannot be reached) and what to say where it gave none."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return question(), 200, ""
    except ApiException as error:
        return None, int(error.status or 0), f"the Kubernetes API answered {error.status}; ask who may look"
    except HTTPError as error:
        return None, 0, f"the Kubernetes API cannot be reached ({type(error).__name__})"


def install_config() -> tuple[dict[str, str] | None, str]:
    """Return the settings that Kubeflow Pipelines was installed with, or None and why they cannot be read from here."""
    from kubernetes import client

    api, reason = connect_kubernetes()
    if api is None:
        return None, reason
    core = client.CoreV1Api(api)
    question = partial(core.read_namespaced_config_map, INSTALL_CONFIG, KUBEFLOW, _request_timeout=TIMEOUT_SECONDS)
    found, _, reason = answer(question)
    return (dict(found.data or {}), "") if found else (None, reason)
