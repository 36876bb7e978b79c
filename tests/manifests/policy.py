"""Rules that a Kubernetes server enforces and that need no server to be checked: PodSecurity `restricted`, rights, immutable fields.

Sources: the Pod Security Standards (policy `restricted`, version latest), and Kubernetes' validation of updates of a claim, a Job
and a RoleBinding.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Object = Mapping[str, Any]

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
_SECCOMP = ("RuntimeDefault", "Localhost")
# What an update may not change, by kind: everything below the path, but for the paths that it may.
_FIXED: dict[str, tuple[tuple[str, ...], ...]] = {
    "PersistentVolumeClaim": (("spec", "accessModes"), ("spec", "storageClassName"), ("spec", "volumeName")),
    "Job": (("spec", "template"), ("spec", "selector"), ("spec", "completions"), ("spec", "completionMode")),
    "RoleBinding": (("roleRef",),),
}


def not_restricted(pod: Object) -> list[str]:
    """Return what PodSecurity `restricted` forbids in a pod's spec, in the words of its admission message."""
    return [*_of_pod(pod), *(problem for each in _containers(pod) for problem in _of_container(pod, each))]


def allowed(rules: Iterable[Object], verb: str, group: str, resource: str, name: str = "") -> bool:
    """Say whether a role's rules allow a verb on a resource; name: of the one object, empty for any of them."""
    return any(
        verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
        for rule in rules
    )


def refused_updates(applied: Iterable[Object], wanted: Iterable[Object]) -> list[str]:
    """Return the fields that `wanted`, applied over `applied`, would change although they are immutable."""
    before = {_identity(item): item for item in applied}
    return [
        f"{item['kind']} {item['metadata']['name']}: {'.'.join(path)}"
        for item in wanted
        for path in _FIXED.get(item["kind"], ())
        if _identity(item) in before and _at(before[_identity(item)], path) != _at(item, path)
    ]


def _of_pod(pod: Object) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"host namespaces ({field}=true)"
    for volume in pod.get("volumes", ()):
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield f"restricted volume types (volume {volume['name']!r} uses {kind})"


def _of_container(pod: Object, container: Object) -> Iterator[str]:
    name, own, shared = container["name"], container.get("securityContext", {}), pod.get("securityContext", {})
    both = {**shared, **own}
    dropped = own.get("capabilities", {})
    if own.get("privileged"):
        yield f"privileged (container {name!r})"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"allowPrivilegeEscalation != false (container {name!r})"
    if "ALL" not in dropped.get("drop", ()) or set(dropped.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"unrestricted capabilities (container {name!r})"
    if both.get("runAsNonRoot") is not True:
        yield f"runAsNonRoot != true (container {name!r})"
    if both.get("runAsUser") == 0:
        yield f"runAsUser=0 (container {name!r})"
    if both.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield f"seccompProfile (container {name!r})"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"hostPort (container {name!r})"


def _containers(pod: Object) -> Iterator[Object]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(field, ())


def _identity(item: Object) -> tuple[str, str, str]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _at(item: Any, path: Iterable[str]) -> Any:
    for key in path:
        item = item.get(key) if isinstance(item, dict) else None
    return item
