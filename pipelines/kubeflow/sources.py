"""Footage on a cluster: every source lies in a bucket, or on a volume claim that the steps which read footage mount."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from perception.data.footage.settings import split_at_night
from perception.data.source_files import S3
from perception.errors import InputError
from pipelines.cluster import Cluster


@dataclass(frozen=True, kw_only=True)
class Place:
    """Say where a source lies."""

    path: str  # s3://bucket/prefix, or a folder of the claim
    claim: str = ""  # volume claim; empty: a bucket


def mount_sources(step: Any, cluster: Cluster) -> None:
    """Mount the claims of footage into a step; Kubeflow cannot mount one twice, nor read-only: that is the claim's access mode."""
    from kfp import kubernetes

    for claim, folder in sorted(cluster.source_claims.items()):
        kubernetes.mount_pvc(step, claim, folder)


def places_of_sources(sources: Mapping[str, Mapping[str, Any]], cluster: Cluster) -> dict[str, Place]:
    """Return where each source with a path lies, of one that names the night the place of all nights, by the source's name.

    Raises InputError for a folder that no claim holds: no step of the cluster could read it.
    """
    paths = {name: split_at_night(str(source["path"]))[0] for name, source in sources.items() if source.get("path")}
    return {
        name: Place(path=path) if path.startswith(S3) else _on_claim(name, path, cluster)
        for name, path in paths.items()
    }


def _on_claim(name: str, path: str, cluster: Cluster) -> Place:
    folder = PurePosixPath(path)
    holding = [
        (len(PurePosixPath(mounted).parts), claim, str(folder.relative_to(mounted)))
        for claim, mounted in cluster.source_claims.items()
        if folder.is_relative_to(mounted) and ".." not in folder.parts
    ]
    if not holding:
        raise InputError(
            f"sources.{name}.path = {path!r}: no volume claim is mounted there, so that no step could read it; name the claim that "
            f"holds the footage: SET='cluster.source_claims={{CLAIM: {path if path.startswith('/data/') else '/data/' + name}}}'"
        )
    _, claim, below = max(holding)
    return Place(path=below, claim=claim)
