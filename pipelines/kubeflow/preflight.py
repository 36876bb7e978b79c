"""`make preflight`: say before anything starts what the cluster lacks for this night."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.stage.program import EXIT_DONE, EXIT_FAILED
from perception.errors import Unreachable

NAMESPACE_VARIABLE, DEFAULT_NAMESPACE = "NIGHTDRIVE_NAMESPACE", "nightdrive"
TIMEOUT_SECONDS = 10
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)
_DOCKER_HUB = "registry-1.docker.io"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Say whether one thing that a night needs is there; None: it cannot be told from here."""

    what: str
    there: bool | None
    remedy: str = ""

    def line(self) -> str:
        """Return the finding as a line of the table."""
        mark = {True: "ok", False: "MISSING", None: "unknown"}[self.there]
        return f"  {mark:<8} {self.what}" + (f": {self.remedy}" if self.remedy and not self.there else "")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Gather what a compiled night refers to."""

    secrets: Mapping[str, tuple[str, ...]]  # name: keys that must be in it
    claims: tuple[str, ...]
    # resource, how many at once, labels of the node
    accelerators: tuple[tuple[str, int, tuple[tuple[str, str], ...]], ...]
    images: tuple[str, ...]


def look_first(
    profile: str, overrides: Sequence[str], data: str, images: Path | None, host: str, service_account: str
) -> int:
    """Print what a night needs of the cluster and whether it is there; return the exit code, 1 where something is missing."""
    from pipelines.kubeflow.compile import compile_pipeline
    from pipelines.kubeflow.images import pushed_images
    from pipelines.kubeflow.kfp_api import connect

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "nightdrive.yaml"
        compile_pipeline(profile, package, overrides, data, pushed_images(images))
        missing = run(package, service_account)
    try:
        server = Finding(what=f"Kubeflow Pipelines at {connect(host).host}", there=True)
    except Unreachable as error:
        server = Finding(what="Kubeflow Pipelines", there=False, remedy=str(error))
    print(server.line())
    return EXIT_DONE if server.there and not missing else EXIT_FAILED


def run(package: Path, service_account: str) -> int:
    """Print what the night of `package` needs and whether it is there; return how many things are missing."""
    findings = list(check(wanted_by(package), service_account))
    print("preflight:", flush=True)
    for finding in findings:
        print(finding.line(), flush=True)
    return sum(finding.there is False for finding in findings)


def wanted_by(package: Path) -> Wanted:
    """Read from a compiled pipeline what its steps need of the cluster."""
    import yaml

    spec, *platforms = yaml.safe_load_all(package.read_text())
    executors = spec["deploymentSpec"]["executors"]
    secrets: dict[str, set[str]] = {}
    claims: set[str] = set()
    accelerators: set[tuple[str, int, tuple[tuple[str, str], ...]]] = set()
    kubernetes = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platforms else {}
    for name, settings in kubernetes.items():
        for secret in settings.get("secretAsEnv", []):
            secrets.setdefault(secret["secretName"], set()).update(item["secretKey"] for item in secret["keyToEnv"])
        for secret in settings.get("secretAsVolume", []):
            secrets.setdefault(secret["secretName"], set()).add("credentials")
        claims |= {claim["constant"] for claim in settings.get("pvcMount", [])}
        asked = executors[name]["container"].get("resources", {}).get("accelerator")
        if asked:
            labels = settings.get("nodeSelector", {}).get("labels", {})
            accelerators.add((asked["resourceType"], int(asked["resourceCount"]), tuple(sorted(labels.items()))))
    return Wanted(
        secrets={name: tuple(sorted(keys)) for name, keys in sorted(secrets.items())},
        claims=tuple(sorted(claims)),
        accelerators=tuple(sorted(accelerators)),
        images=tuple(sorted({item["container"]["image"] for item in executors.values()})),
    )


def check(wanted: Wanted, service_account: str) -> Iterator[Finding]:
    """Yield a finding for everything that is wanted."""
    namespace = os.environ.get(NAMESPACE_VARIABLE, DEFAULT_NAMESPACE)
    api, reason = _cluster()
    if api is None:
        yield Finding(what="Kubernetes API", there=None, remedy=f"{reason}; set KUBECONFIG to look into the cluster")
    else:
        yield from _in_namespace(api, wanted, namespace, service_account)
        yield from _accelerators(api, wanted)
    for image in wanted.images:
        yield image_finding(image)


def image_finding(image: str) -> Finding:
    """Say whether a registry has an image; an image that no digest pins is refused."""
    if image.startswith("sha256:"):
        return Finding(
            what=f"image {image[:19]}", there=False, remedy="is local; run `make images REGISTRY=... PUSH=yes`"
        )
    if "@sha256:" not in image:
        remedy = (
            "is named without a digest; run `make images REGISTRY=... PUSH=yes` and compile with its file of digests"
        )
        return Finding(what=f"image {image}", there=False, remedy=remedy)
    name, _, digest = image.partition("@")
    first, _, rest = name.partition("/")
    host, repository = (first, rest) if rest and re.search(r"[.:]|^localhost$", first) else (_DOCKER_HUB, name)
    there, said = _manifest(host, repository, digest)
    return Finding(what=f"image {name}@{digest[:19]}", there=there, remedy=said)


def _manifest(host: str, repository: str, digest: str) -> tuple[bool | None, str]:
    import urllib3

    scheme = "http" if re.match(r"(localhost|127\.0\.0\.1)(:|$)", host) else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{digest}"
    try:
        pool = urllib3.PoolManager(timeout=TIMEOUT_SECONDS, retries=False)
        answer = pool.request("HEAD", url, headers={"Accept": _MANIFESTS})
    except urllib3.exceptions.HTTPError as error:
        return None, f"its registry cannot be asked from here ({type(error).__name__})"
    if answer.status == 200:
        return True, ""
    if answer.status == 404:
        return False, "is not in its registry; run `make images REGISTRY=... PUSH=yes`"
    return None, f"its registry answered {answer.status}; the cluster's pull secret decides"


def _cluster() -> tuple[Any, str]:
    """Return the Kubernetes API of the current context, or None and why there is none."""
    from kubernetes import client, config

    # Named here, because the client reads the variable only once, when it is imported.
    named = {"config_file": os.environ["KUBECONFIG"]} if os.environ.get("KUBECONFIG") else {}
    try:
        config.load_config(**named)
    except (config.ConfigException, OSError) as error:
        return None, " ".join(str(error).split())
    return client.CoreV1Api(), ""


def _asked(what: str, remedy: str, question: Callable[[], Any], judge: Callable[[Any], str] = lambda _: "") -> Finding:
    """Ask the API a question: there unless it answers 404 or `judge` says what is wrong with the answer."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        wrong = judge(question())
    except ApiException as error:
        if error.status == 404:
            return Finding(what=what, there=False, remedy=remedy)
        return Finding(what=what, there=None, remedy=f"the Kubernetes API answered {error.status}; ask who may look")
    except HTTPError as error:
        return Finding(what=what, there=None, remedy=f"the Kubernetes API cannot be reached ({type(error).__name__})")
    return Finding(what=what, there=not wrong, remedy=wrong)


def _in_namespace(api: Any, wanted: Wanted, namespace: str, service_account: str) -> Iterator[Finding]:
    options = {"_request_timeout": TIMEOUT_SECONDS}
    install = "apply an overlay of manifests/"
    yield _asked(f"namespace {namespace}", install, lambda: api.read_namespace(namespace, **options))
    account = partial(api.read_namespaced_service_account, service_account, namespace, **options)
    yield _asked(f"service account {service_account}", install, account)
    for claim in wanted.claims:
        question = partial(api.read_namespaced_persistent_volume_claim, claim, namespace, **options)
        yield _asked(f"volume claim {claim}", install, question)
    for secret, keys in wanted.secrets.items():
        literals = " ".join(f"--from-literal={key}=..." for key in keys)
        remedy = f"create it: kubectl --namespace {namespace} create secret generic {secret} {literals}"
        question = partial(api.read_namespaced_secret, secret, namespace, **options)
        yield _asked(f"secret {secret}", remedy, question, partial(_missing_keys, keys=keys))


def _missing_keys(secret: Any, keys: Sequence[str]) -> str:
    missing = [key for key in keys if key not in (secret.data or {})]
    return f"lacks {', '.join(missing)}; add them" if missing else ""


def _accelerators(api: Any, wanted: Wanted) -> Iterator[Finding]:
    for resource, count, labels in wanted.accelerators:
        where = f" on nodes with {', '.join(f'{name}={value}' for name, value in labels)}" if labels else ""
        remedy = f"no node offers it; add a node pool, or choose another: SET=cluster.accelerator=...{where}"
        question = partial(api.list_node, _request_timeout=TIMEOUT_SECONDS)
        judge = partial(_judge_nodes, resource=resource, count=count, labels=labels, remedy=remedy)
        yield _asked(f"{count} x {resource}{where}", remedy, question, judge)


def _judge_nodes(listed: Any, resource: str, count: int, labels: Sequence[tuple[str, str]], remedy: str) -> str:
    enough = any(
        int((node.status.allocatable or {}).get(resource, 0)) >= count
        and all((node.metadata.labels or {}).get(name) == value for name, value in labels)
        for node in listed.items
    )
    return "" if enough else remedy
