"""Footage on a cluster: the folder of every source lies on a volume claim that the steps which read footage mount."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from perception.errors import InputError
from pipelines.cluster import Cluster


def mount_sources(step: Any, cluster: Cluster) -> None:
    """Mount the claims of footage into a step; Kubeflow cannot mount one twice, nor read-only: that is the claim's access mode."""
    from kfp import kubernetes

    for claim, folder in sorted(cluster.source_claims.items()):
        kubernetes.mount_pvc(step, claim, folder)


def claims_by_source(sources: Mapping[str, Mapping[str, Any]], cluster: Cluster) -> dict[str, str]:
    """Return the claim that each source with a folder lies on, by the source's name.

    Raises InputError for a folder that no claim holds: no step of the cluster could read it.
    """
    found = {}
    for name, source in sources.items():
        if source.get("path"):
            found[name] = _claim(name, str(source["path"]), cluster)
    return found


def _claim(name: str, path: str, cluster: Cluster) -> str:
    folder = PurePosixPath(path)
    holding = [
        (len(PurePosixPath(mounted).parts), claim)
        for claim, mounted in cluster.source_claims.items()
        if folder.is_relative_to(mounted) and ".." not in folder.parts
    ]
    if not holding:
        raise InputError(
            f"sources.{name}.path = {path!r}: no volume claim is mounted there, so that no step could read it; name the claim that "
            f"holds the footage: SET='cluster.source_claims={{CLAIM: {path if path.startswith('/data/') else '/data/' + name}}}'"
        )
    return max(holding)[1]
