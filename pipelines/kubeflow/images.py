"""`make images`: build one image a dependency set, list what is inside each, and write down their digests.

What a compiled pipeline refers to is an image's digest, which only a registry gives: PUSH=yes pushes. Without it the file of
digests holds the ids of local images, which is enough for `make test-containers`.
The settings of this machine's pip (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CERT, PIP_FIND_LINKS) reach the build as secrets and
a mounted folder; no layer keeps them.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.data.files import replace_file
from perception.errors import InputError

ROOT = Path(__file__).parents[2]
SETS = ("gates", "versioning", "torch-cpu", "torch-cuda")
# The name of each set in `images:` of params.yaml.
NAME_IN_PARAMS = {"gates": "gates", "versioning": "versioning", "torch-cpu": "torch", "torch-cuda": "torch_cuda"}
DIGESTS_FILE = ROOT / "build" / "images.json"
PLATFORM = "linux/amd64"
BASE_VARIABLE, DOCKER_VARIABLE = "NIGHTDRIVE_BASE_IMAGE", "DOCKER"


@dataclass(frozen=True, kw_only=True)
class Image:
    """Name one built image."""

    name: str  # [REGISTRY/]nightdrive-SET:TAG
    image_id: str  # of the local image, sha256:...
    digest: str | None  # [REGISTRY/]nightdrive-SET@sha256:..., once it was pushed
    size_mb: float

    @property
    def reference(self) -> str:
        """Return what to run: the digest that a registry gave, or the local id."""
        return self.digest or self.image_id


def build_images(
    sets: Sequence[str], registry: str, tag: str, *, push: bool, out: Path = DIGESTS_FILE
) -> dict[str, Image]:
    """Build (and push) the images of `sets`; write their bills of materials and the file of digests beside `out`.

    tag: empty for the commit. Raises InputError for names that no registry takes, and where building fails.
    """
    tag = tag or _commit() or "latest"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag):
        raise InputError(f"TAG={tag}: must be letters, digits, _ . and -, at most 128; name another")
    if push and not registry:
        raise InputError("PUSH=yes: needs REGISTRY=HOST/PATH; say where the images belong")
    docker = find_docker()
    out.parent.mkdir(parents=True, exist_ok=True)
    built = {}
    for position, name in enumerate(sets, start=1):
        started = time.monotonic()
        print(f"[{position}/{len(sets)}] building nightdrive-{name}", flush=True)
        image = _build(docker, name, f"{registry}/nightdrive-{name}:{tag}".lstrip("/"), push=push)
        bill = out.with_name(f"nightdrive-{name}.sbom.json")
        bill.write_text(json.dumps(bill_of_materials(docker, image, name), indent=1) + "\n")
        built[name] = image
        print(
            f"  {image.reference}: {image.size_mb:.0f} MB, {time.monotonic() - started:.0f} s; contents: {bill}",
            flush=True,
        )
    _write_digests(out, built)
    return built


def read_digests(file: Path) -> dict[str, Image]:
    """Return the images that `make images` wrote down, by dependency set."""
    try:
        listed = json.loads(file.read_text())
        return {name: Image(**item) for name, item in listed.items()}
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; run `make images` first") from None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is no list of images ({error}); run `make images` again") from None


def references(file: Path) -> dict[str, str]:
    """Return what a pipeline runs, by the names that params.yaml gives to dependency sets."""
    return {NAME_IN_PARAMS[name]: image.reference for name, image in read_digests(file).items()}


def pushed_images(chosen: Path | None) -> Path | None:
    """Return the file of digests to submit with: the chosen one, or the usual one where every image in it was pushed."""
    if chosen or not DIGESTS_FILE.exists():
        return chosen
    return DIGESTS_FILE if all(image.digest for image in read_digests(DIGESTS_FILE).values()) else None


def find_docker() -> str:
    """Return a docker client that can build with BuildKit; raises InputError where there is none."""
    if chosen := os.environ.get(DOCKER_VARIABLE):
        return chosen
    folders = os.environ.get("PATH", "").split(os.pathsep)
    clients = dict.fromkeys(found for folder in folders if (found := shutil.which("docker", path=folder)))
    for client in clients:
        version = _output([client, "version", "--format", "{{.Client.Version}}"], check=False)
        # Clients before 23 have BuildKit built in; later ones need their buildx plugin.
        major = version.partition(".")[0]
        old = major.isdigit() and int(major) < 23
        if old or _output([client, "buildx", "version"], check=False):
            return client
    found = ", ".join(clients) or "none"
    raise InputError(
        f"docker: no client that can build with BuildKit on PATH (found: {found}); install one, or set DOCKER="
    )


def bill_of_materials(docker: str, image: Image, name: str) -> dict[str, Any]:
    """Return what is inside an image, Python and Debian packages with versions and licences, in CycloneDX's format."""
    program = (ROOT / "images" / "inventory.py").read_text()
    command = [docker, "run", "--rm", "--interactive", "--network=none", "--read-only", image.image_id, "python", "-"]
    listed = json.loads(_output(command, given=program))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": f"nightdrive-{name}", "version": image.reference.split("@")[-1]}
        },
        "components": listed,
    }


def _build(docker: str, name: str, target: str, *, push: bool) -> Image:
    with _context() as context, tempfile.TemporaryDirectory() as secrets:
        command = [docker, "build", "--platform", PLATFORM, "--file", str(context / "images" / f"{name}.Dockerfile")]
        command += ["--tag", target, *_secrets(Path(secrets)), "--progress", "plain"]
        for argument, value in _arguments().items():
            command += ["--build-arg", f"{argument}={value}"]
        log = DIGESTS_FILE.parent / f"nightdrive-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
            done = subprocess.run(
                [*command, str(context)], stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False
            )
    if done.returncode:
        last = " | ".join(log.read_text().splitlines()[-20:])
        raise InputError(f"image nightdrive-{name}: building failed, see {log}; its last lines: {last}")
    if push:
        _output([docker, "push", "--quiet", target])
    (facts,) = json.loads(_output([docker, "image", "inspect", target]))
    repository = target.rpartition(":")[0]
    digest = next((each for each in facts["RepoDigests"] if each.startswith(f"{repository}@")), None) if push else None
    return Image(name=target, image_id=facts["Id"], digest=digest, size_mb=round(facts["Size"] / 1e6, 1))


@contextmanager
def _context() -> Iterator[Path]:
    """Lay out what a build may see: our code, the lock file, and the wheels of pip's find-links folder; nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for name in ("components", "perception", "pipelines", "images"):
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copyfile(ROOT / "constraints.txt", context / "constraints.txt")
        (context / "wheels").mkdir()
        for place in os.environ.get("PIP_FIND_LINKS", "").split():
            for wheel in Path(place).glob("*.whl") if "://" not in place else ():
                shutil.copyfile(wheel, context / "wheels" / wheel.name)
        yield context


def _secrets(folder: Path) -> list[str]:
    """Return the options that hand this machine's pip settings to the build."""
    settings = {
        "index-url": os.environ.get("PIP_INDEX_URL"),
        "extra-index-url": os.environ.get("PIP_EXTRA_INDEX_URL"),
        "find-links": "/wheels",
        "cert": "/run/secrets/ca" if os.environ.get("PIP_CERT") else None,
    }
    lines = ["[global]", *(f"{name} = {value}" for name, value in settings.items() if value)]
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    options = ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
    return options + (["--secret", f"id=ca,src={os.environ['PIP_CERT']}"] if os.environ.get("PIP_CERT") else [])


def _arguments() -> dict[str, str]:
    committed = _output(["git", "-C", str(ROOT), "log", "-1", "--format=%cI"], check=False)
    given = {"COMMIT": _commit(), "CREATED": committed, "BASE": os.environ.get(BASE_VARIABLE, "")}
    return {name: value for name, value in given.items() if value}


def _commit() -> str:
    from pipelines.local.run import code_commit  # loads what a command's --help need not wait for

    return code_commit()


def _write_digests(file: Path, built: Mapping[str, Image]) -> None:
    known = read_digests(file) if file.exists() else {}
    everything = {name: image.__dict__ for name, image in sorted({**known, **built}.items())}
    replace_file(file, (json.dumps(everything, indent=1) + "\n").encode())


def _output(command: Sequence[str], *, given: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise InputError(f"`{' '.join(command[:3])} ...` failed: {said[-1]}; is the container engine running?")
    return done.stdout.strip() if not done.returncode else ""
