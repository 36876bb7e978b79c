"""Every image: small, confined, complete, and without a trace of the machine that built it."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.stage.declaration import Stage
from components.stage.kfp_step import ABOUT, SETTINGS, write_settings
from components.stage.registry import all_stages
from pipelines.kubeflow.images import Image
from tests.containers.conftest import SETS

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
LARGEST_MB = {"gates": 750, "versioning": 1200, "torch-cpu": 2000, "torch-cuda": 6300}
HELP_SECONDS = 3.0
START_FROM_WEIGHTS = """
from perception.models.efficientnet_lite import EfficientNetLite
from perception.models.registry import start_from
for version in range(3):
    print(version, len(start_from(EfficientNetLite(19, version), "pretrained").taken))
"""
CONFINED = ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:exec"]


def run(docker: str, image: Image, *command: str, user: str = "", options: tuple[str, ...] = ()) -> str:
    chosen = [f"--user={user}"] if user else []
    words = [docker, "run", "--rm", *CONFINED, *chosen, *options, image.image_id, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def stages_of(name: str) -> list[Stage]:
    """The stages that an image runs; both builds of torch run the same ones."""
    return [stage for stage in all_stages().values() if stage.needs.image == name.partition("-")[0]]


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_size(images: dict[str, Image], name: str) -> None:
    assert images[name].size_mb <= LARGEST_MB[name]


def test_user_file_system_and_modes(docker: str, images: dict[str, Image], name: str) -> None:
    assert run(docker, images[name], "id", "-u").strip() == "10001"
    look = "find / -xdev ( -type f -perm /6000 -o -type f -perm -0002 -o -type d -perm -0002 ! -perm -1000 ) -print"
    assert run(docker, images[name], *look.split(), user="0").strip() == ""
    refused = "touch /app/x /opt/nightdrive/x /x 2>/dev/null && echo wrote; touch /tmp/x && echo tmp"
    assert run(docker, images[name], "sh", "-c", refused).strip() == "tmp"


def test_no_build_tool_or_cache_is_left(docker: str, images: dict[str, Image], name: str) -> None:
    tools = "for tool in gcc cc make g++ dpkg-buildpackage; do command -v $tool; done; ls -A /root /var/cache/apt /build 2>/dev/null"
    left = run(docker, images[name], "sh", "-c", tools + " || true", user="0")
    assert not re.search(r"gcc|make|\.cache|\.deb|wheels", left), left


def test_packages_fit_together_and_every_stage_starts(docker: str, images: dict[str, Image], name: str) -> None:
    # The base image's own pip looks at the dependency set, which has none.
    check = "cd / && PATH=/usr/local/bin:/usr/bin:/bin python3 -m pip --python /opt/nightdrive/bin/python check"
    assert "No broken requirements" in run(docker, images[name], "sh", "-c", check)
    for stage in stages_of(name):
        assert stage.summary[:20] in run(docker, images[name], "python", "-m", "components.stage", stage.name, "--help")


@pytest.mark.parametrize("name", [name for name in SETS if name.startswith("torch")])
def test_networks_start_from_the_weights_of_the_extra_pretrained(
    docker: str, images: dict[str, Image], name: str
) -> None:
    python = ("python", "-c", START_FROM_WEIGHTS)
    here = subprocess.run([sys.executable, *python[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run(docker, images[name], *python) == here.stdout


def test_it_starts_quickly(docker: str, images: dict[str, Image], name: str) -> None:
    run(docker, images[name], "true")
    took = []
    for _ in range(3):
        started = time.monotonic()
        run(docker, images[name], "python", "-m", "components.stage", "--help")
        took.append(time.monotonic() - started)
    assert min(took) < HELP_SECONDS, took


def test_no_secret_and_no_path_of_the_building_machine(
    docker: str, images: dict[str, Image], name: str, tmp_path: Path
) -> None:
    history = subprocess.run(
        [docker, "history", "--no-trunc", "--format", "{{.CreatedBy}}", images[name].image_id],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Not all of it: the engine's own folders have random names, which may hold a short host name by chance.
    shipped = "{{json .Config}} {{json .Author}} {{json .Comment}} {{json .RepoTags}}"
    facts = subprocess.run(
        [docker, "image", "inspect", "--format", shipped, images[name].image_id],
        capture_output=True,
        text=True,
        check=True,
    )
    here = [str(ROOT), os.uname().nodename, str(Path.home() / ".")]
    secrets = [os.environ[key] for key in ("PIP_INDEX_URL", "PIP_CERT") if os.environ.get(key, "").startswith("http")]
    places = [*os.environ.get("PIP_FIND_LINKS", "").split(), *secrets]
    for trace in [here[0], here[1], *places]:
        assert trace not in history + facts.stdout, trace
    exported = tmp_path / "image.tar"
    container = subprocess.run([docker, "create", images[name].image_id], capture_output=True, text=True, check=True)
    try:
        subprocess.run([docker, "export", "-o", exported, container.stdout.strip()], check=True)
    finally:
        subprocess.run([docker, "rm", container.stdout.strip()], capture_output=True, check=True)
    patterns = tmp_path / "patterns"
    patterns.write_text("\n".join([here[0], *places]) + "\n")
    found = subprocess.run(
        ["grep", "--count", "--text", "-F", "-f", patterns, exported], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "0"


def test_labels_and_bill_of_materials(docker: str, images: dict[str, Image], images_file: Path, name: str) -> None:
    (facts,) = json.loads(
        subprocess.run(
            [docker, "image", "inspect", images[name].image_id], capture_output=True, text=True, check=True
        ).stdout
    )
    labels = facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"nightdrive-{name}"
    assert re.fullmatch("[0-9a-f]{40}(-changed)?", labels["org.opencontainers.image.revision"])
    bill = json.loads((images_file.parent / f"nightdrive-{name}.sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {item["purl"].split("@")[0]: item["version"] for item in bill["components"]}
    locked = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    python = {
        purl.removeprefix("pkg:pypi/"): version for purl, version in listed.items() if purl.startswith("pkg:pypi/")
    }
    assert len(python) > 10
    if name == "torch-cuda":  # its CUDA libraries have the versions that torch itself names exactly
        python = {
            package: version
            for package, version in python.items()
            if not package.startswith(("nvidia-", "cuda-", "triton"))
        }
    python.pop("setuptools", None)  # torch wants it at run time; the lock file leaves it to pip
    assert {package: version.split("+")[0] for package, version in python.items()} == {
        package: locked[package.replace(".", "-")] for package in python
    }
    assert "pkg:deb/debian/libc6" in listed


def test_an_empty_step_costs_less_than_a_second_beyond_its_container(
    docker: str, images: dict[str, Image], name: str
) -> None:
    # A step that can train on several GPUs counts them first, with the torch that its work loads anyway.
    stage = next(stage for stage in stages_of(name) if stage.inputs and not stage.needs.distributed)
    about = {"task": "empty", "takes": {port.name: ["nobody.gave"] for port in stage.inputs}}
    given = {
        "inputs": {"parameterValues": {SETTINGS: write_settings({ABOUT: about})}},
        "outputs": {
            "artifacts": {port.name: {"artifacts": [{"name": port.name, "uri": "/tmp/out"}]} for port in stage.outputs},
            "outputFile": "/tmp/run/empty/output.json",
        },
    }
    # Its inputs are not there, which ends it before the stage's own work.
    words = f"python -m components.stage {stage.name} --executor-input '{json.dumps(given)}'"
    step = f"{{ {words} >/dev/null 2>&1 || test $? -eq 2; }} && test -f /tmp/run/empty/output.json"
    timed = f"s=$(date +%s%N); {step}; e=$(date +%s%N); echo $(( (e - s) / 1000000 ))"
    milliseconds = min(int(run(docker, images[name], "sh", "-c", timed).split()[-1]) for _ in range(3))
    assert milliseconds < 1000
