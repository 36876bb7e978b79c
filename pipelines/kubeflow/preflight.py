"""`make preflight`: say before anything starts what the cluster lacks for this night."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from components.stage.kfp_step import INDEXED_JOB_VARIABLE, OUTSIDE_FOLDER, S3_FOLDER
from components.stage.kubernetes_api import S3_KEYS
from components.stage.parameters import build_parameters
from components.stage.program import EXIT_DONE, EXIT_FAILED
from perception.errors import InputError, Unreachable
from pipelines.cluster import Cluster
from pipelines.kubeflow.claims import MOST_OBJECTS, Looker, look_into
from pipelines.kubeflow.kubernetes_api import KUBEFLOW, TIMEOUT_SECONDS, answer, connect_kubernetes, namespace
from pipelines.kubeflow.resources import GIT_FOLDER, SIGNING_FOLDER, USER_ID
from pipelines.kubeflow.sources import Place, places_of_sources
from pipelines.nightly import nightly
from pipelines.settings import load_settings

# The label that has Kubeflow make the launcher's secret in a namespace, and the one that its object store lets in.
ENABLED = ("pipelines.kubeflow.org/enabled", "true")
PROFILE_LABEL = ("app.kubernetes.io/part-of", "kubeflow-profile")
ENFORCED = "pod-security.kubernetes.io/enforce"
LAUNCHER_SECRET = "mlpipeline-minio-artifact"
LAUNCHER_KEYS = ("accesskey", "secretkey")
# What the launcher of every step does as the step's service account: verb, group, resource, name.
STEP_RIGHTS = (
    ("get", "", "pods", ""),
    ("get", "", "secrets", LAUNCHER_SECRET),
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("create", "batch", "jobs", ""),
)
_SHARED_MODES = ("ReadOnlyMany", "ReadWriteMany")
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)
_KEYS: Mapping[str, Sequence[str]] = {
    str(S3_FOLDER): tuple(S3_KEYS),
    GIT_FOLDER: ("credentials",),
    SIGNING_FOLDER: ("key",),
    str(OUTSIDE_FOLDER): (),
}
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
    claims: Mapping[str, str]  # name: image of a step that mounts it
    # resource, how many at once, labels of the node
    accelerators: tuple[tuple[str, int, tuple[tuple[str, str], ...]], ...]
    images: tuple[str, ...]
    unconfined: tuple[str, ...] = ()  # steps that do not say that they run as another than root
    sources: Mapping[str, Place] = field(default_factory=dict)  # by name
    node_selector: Mapping[str, str] = field(default_factory=dict)  # of the steps that read them
    tolerations: Sequence[Mapping[str, Any]] = ()  # likewise


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
        missing = run(package, service_account, profile, overrides, data)
    try:
        server = Finding(what=f"Kubeflow Pipelines at {connect(host).host}", there=True)
    except Unreachable as error:
        server = Finding(what="Kubeflow Pipelines", there=False, remedy=str(error))
    print(server.line())
    return EXIT_DONE if server.there and not missing else EXIT_FAILED


def run(package: Path, service_account: str, profile: str, overrides: Sequence[str], data: str) -> int:
    """Print what the night that was compiled into `package` needs and whether it is there; return how many things are missing."""
    settings = load_settings(nightly(), profile, overrides, data)
    cluster: Any = build_parameters(Cluster, settings["cluster"], where="cluster")
    wanted = replace(
        wanted_by(package),
        sources=places_of_sources(settings["sources"], cluster),
        node_selector=cluster.cpu_node_selector,
        tolerations=cluster.cpu_tolerations,
    )
    findings = list(check(wanted, service_account))
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
    claims: dict[str, str] = {}
    images = {item["container"]["image"] for item in executors.values()}
    accelerators: set[tuple[str, int, tuple[tuple[str, str], ...]]] = set()
    kubernetes = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platforms else {}
    for name, settings in kubernetes.items():
        for secret in settings.get("secretAsVolume", []):
            keys = _KEYS[secret["mountPath"]]
            secrets.setdefault(secret["secretName"], set()).update(keys)
        container = executors[name]["container"]
        claims |= {claim["constant"]: container["image"] for claim in settings.get("pvcMount", [])}
        asked = container.get("resources", {}).get("accelerator")
        if asked:
            labels = settings.get("nodeSelector", {}).get("labels", {})
            accelerators.add((asked["resourceType"], int(asked["resourceCount"]), tuple(sorted(labels.items()))))
        for given in (item["value"] for item in container.get("env", []) if item["name"] == INDEXED_JOB_VARIABLE):
            indices = json.loads(given)
            images.add(indices["image"])
            claims |= dict.fromkeys(indices.get("claims", {}), indices["image"])
            labels = tuple(sorted(indices.get("node_selector", {}).items()))
            accelerators |= {(kind, count, labels) for kind, count in indices.get("accelerator", {}).items()}
    return Wanted(
        secrets={name: tuple(sorted(keys)) for name, keys in sorted(secrets.items())},
        claims=dict(sorted(claims.items())),
        accelerators=tuple(sorted(accelerators)),
        images=tuple(sorted(images)),
        unconfined=tuple(sorted(name for name in executors if not _runs_as_non_root(kubernetes.get(name, {})))),
    )


def check(wanted: Wanted, service_account: str) -> Iterator[Finding]:
    """Yield a finding for everything that is wanted."""
    from kubernetes import client

    api, reason = connect_kubernetes()
    if api is None:
        yield Finding(what="Kubernetes API", there=None, remedy=f"{reason}; set KUBECONFIG to look into the cluster")
    else:
        core = client.CoreV1Api(api)
        yield from _of_namespace(core, wanted)
        yield from _in_namespace(core, wanted, service_account)
        yield from _rights(client.AuthorizationV1Api(api), service_account)
        yield from _accelerators(core, wanted)
    for name, place in wanted.sources.items():
        if not place.claim:
            yield _bucket(name, place.path)
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


def _asked(what: str, remedy: str, question: Callable[[], Any], judge: Callable[[Any], str] = lambda _: "") -> Finding:
    """Ask the API a question: there unless it answers 404 or `judge` says what is wrong with the answer."""
    return _told(what, remedy, answer(question), judge)


def _told(
    what: str, remedy: str, answered: tuple[Any, int, str], judge: Callable[[Any], str] = lambda _: ""
) -> Finding:
    found, status, reason = answered
    if status == 404:
        return Finding(what=what, there=False, remedy=remedy)
    if status != 200:
        return Finding(what=what, there=None, remedy=reason)
    wrong = judge(found)
    return Finding(what=what, there=not wrong, remedy=wrong)


def _of_namespace(api: Any, wanted: Wanted) -> Iterator[Finding]:
    """Look at the namespace: that it is there, labelled as Kubeflow looks for it, and admits the night's steps."""
    space = namespace()
    answered = answer(partial(api.read_namespace, space, _request_timeout=TIMEOUT_SECONDS))
    yield _told(f"namespace {space}", "apply an overlay of manifests/", answered)
    if answered[0] is None:
        return
    labels = answered[0].metadata.labels or {}
    if space != KUBEFLOW:  # where Kubeflow itself runs it needs no label to be found
        for name, value in (ENABLED, PROFILE_LABEL):
            remedy = f"kubectl label namespace {space} {name}={value} --overwrite, or apply an overlay of manifests/"
            yield Finding(what=f"label {name}={value}", there=labels.get(name) == value, remedy=remedy)
    if labels.get(ENFORCED) == "restricted":
        remedy = f"{', '.join(wanted.unconfined)}: say no runAsNonRoot, so that their pods are forbidden; compile with this version"
        yield Finding(what="steps admitted by PodSecurity restricted", there=not wanted.unconfined, remedy=remedy)


def _in_namespace(api: Any, wanted: Wanted, service_account: str) -> Iterator[Finding]:
    options, space = {"_request_timeout": TIMEOUT_SECONDS}, namespace()
    account = partial(api.read_namespaced_service_account, service_account, space, **options)
    yield _asked(f"service account {service_account}", "apply an overlay of manifests/", account)
    for claim, image in wanted.claims.items():
        held = {name: each.path for name, each in wanted.sources.items() if each.claim == claim}
        looker = Looker(
            image=image,
            service_account=service_account,
            user_id=USER_ID,
            node_selector=wanted.node_selector,
            tolerations=wanted.tolerations,
        )
        yield from _claim(api, claim, held, looker)
    made_by_us = f"kubectl --namespace {space} create secret generic"
    for secret, keys in wanted.secrets.items():
        literals = " ".join(f"--from-literal={key}=..." for key in keys)
        question = partial(api.read_namespaced_secret, secret, space, **options)
        remedy = f"create it: {made_by_us} {secret} {literals}"
        yield _asked(f"secret {secret}", remedy, question, partial(_missing_keys, keys=keys))
    remedy = f"Kubeflow makes it where the namespace has the label {'='.join(ENABLED)}; every pod waits for it"
    question = partial(api.read_namespaced_secret, LAUNCHER_SECRET, space, **options)
    yield _asked(f"secret {LAUNCHER_SECRET}", remedy, question, partial(_missing_keys, keys=LAUNCHER_KEYS))


def _claim(api: Any, claim: str, sources: Mapping[str, str], looker: Looker) -> Iterator[Finding]:
    """Look at a volume claim: that it is there, bound where footage lies on it, open to several nodes, and what the sources hold.

    sources: name: folder, of those that lie on it.
    """
    what = f"volume claim {claim}" + (f" (sources {', '.join(sources)})" if sources else "")
    question = partial(api.read_namespaced_persistent_volume_claim, claim, namespace())
    answered = answer(partial(question, _request_timeout=TIMEOUT_SECONDS))
    judge = _unbound if sources else lambda _: ""  # an empty claim may be bound by its first pod
    found = _told(what, "apply an overlay of manifests/ or make the claim", answered, judge)
    yield found
    modes = (answered[0].spec.access_modes or []) if answered[0] else _SHARED_MODES
    if not set(modes) & set(_SHARED_MODES):
        remedy = f"its access mode is {', '.join(modes)}: steps that mount it can run on one node only"
        yield Finding(what=f"volume claim {claim} on several nodes", there=None, remedy=remedy)
    if found.there and sources:
        yield from _folders(api, claim, sources, looker)


def _folders(api: Any, claim: str, sources: Mapping[str, str], looker: Looker) -> Iterator[Finding]:
    """Look, from within the cluster, at how many files each source on a claim holds, and whether one can be read."""
    told, reason = look_into(api, claim, list(dict.fromkeys(sources.values())), looker)
    for name, folder in sources.items():
        what = f"source {name} at {claim}:{folder}"
        if reason:
            yield Finding(what=what, there=None, remedy=reason)
            continue
        objects, wrong = told[folder]
        many = "at least " if objects >= MOST_OBJECTS else ""
        remedy = wrong or "holds no file; correct its path, or put the footage there"
        yield Finding(what=f"{what}: {many}{objects} objects", there=bool(objects) and not wrong, remedy=remedy)


def _unbound(claim: Any) -> str:
    return "" if claim.status.phase == "Bound" else f"is {claim.status.phase}, not Bound; `kubectl describe` says why"


def _bucket(name: str, url: str) -> Finding:
    """Look, with the keys of this machine, at how many objects a source holds, and whether one can be read."""
    from perception.data.s3 import CHECK_TIMEOUT, ENDPOINT_VARIABLE, open_bucket

    what = f"source {name} at {url}"
    if ENDPOINT_VARIABLE not in os.environ:
        remedy = f"set {ENDPOINT_VARIABLE}, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to look into it"
        return Finding(what=what, there=None, remedy=remedy)
    try:
        bucket = open_bucket(url, os.environ, CHECK_TIMEOUT)
        objects = bucket.list("")
        if objects:
            bucket.read(min(objects, key=lambda key: objects[key]))  # the smallest
    except InputError as error:
        return Finding(what=what, there=None if isinstance(error, Unreachable) else False, remedy=str(error))
    remedy = "holds no object; correct its path, or upload the footage"
    return Finding(what=f"{what}: {len(objects)} objects", there=bool(objects), remedy=remedy)


def _rights(api: Any, service_account: str) -> Iterator[Finding]:
    """Ask whether the steps' service account may do what Kubeflow's launcher and a fan-out do in its name."""
    space = namespace()
    for verb, group, resource, name in STEP_RIGHTS:
        attributes = {"namespace": space, "verb": verb, "group": group, "resource": resource, "name": name}
        spec = {"user": f"system:serviceaccount:{space}:{service_account}", "resourceAttributes": attributes}
        body = {"metadata": {"namespace": space}, "spec": spec}
        question = partial(
            api.create_namespaced_local_subject_access_review, space, body, _request_timeout=TIMEOUT_SECONDS
        )
        remedy = "its role does not allow it, so that no step can start; apply an overlay of manifests/"
        yield _asked(
            f"{service_account} may {verb} {resource} {name}".rstrip(),
            remedy,
            question,
            partial(_denied, remedy=remedy),
        )


def _denied(review: Any, remedy: str) -> str:
    return "" if review.status.allowed else remedy


def _runs_as_non_root(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("securityContext", {}).get("runAsNonRoot"))


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
