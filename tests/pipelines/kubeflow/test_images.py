"""The file of digests, and what the images are made of."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from components.stage.registry import all_stages
from perception.errors import InputError
from pipelines.commands.program import main
from pipelines.kubeflow import images
from pipelines.kubeflow.compile import compile_pipeline
from pipelines.kubeflow.images import NAME_IN_PARAMS, SETS, find_docker, pushed_images, read_digests, references

ROOT = Path(__file__).parents[3]


def written(folder: Path, *, pushed: bool) -> Path:
    file = folder / "images.json"
    content = {
        name: {
            "name": f"host/nightdrive-{name}:1",
            "image_id": f"sha256:{position:064d}",
            "digest": f"host/nightdrive-{name}@sha256:{position:064d}" if pushed else None,
            "size_mb": 1.0,
        }
        for position, name in enumerate(SETS)
    }
    file.write_text(json.dumps(content))
    return file


def package_names(*requirements: str) -> set[str]:
    return {name for text in requirements for name in re.findall(r"(?m)^[a-z][a-z0-9-]*", text)}


def test_a_compiled_pipeline_refers_to_the_digests_of_pushed_images(tmp_path: Path) -> None:
    file = written(tmp_path, pushed=True)
    compile_pipeline("nightly", tmp_path / "night.yaml", images=file)
    spec = next(yaml.safe_load_all((tmp_path / "night.yaml").read_text()))
    found = {item["container"]["image"] for item in spec["deploymentSpec"]["executors"].values()}
    assert found == set(references(file).values())
    assert all("@sha256:" in image for image in found)


def test_only_pushed_images_are_submitted_without_being_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "DIGESTS_FILE", tmp_path / "images.json")
    assert pushed_images(None) is None
    assert pushed_images(Path("given")) == Path("given")
    written(tmp_path, pushed=False)
    assert pushed_images(None) is None
    written(tmp_path, pushed=True)
    assert pushed_images(None) == tmp_path / "images.json"


def test_a_bad_file_of_digests_says_how_to_get_a_good_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `make images` first"):
        read_digests(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(InputError, match="run `make images` again"):
        read_digests(tmp_path / "bad.json")


def test_bad_names_are_refused_before_anything_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images", "--tag", "a b"]) == 2
    assert main(["images", "--push"]) == 2
    said = capsys.readouterr().err
    assert "TAG=a b" in said
    assert "needs REGISTRY=HOST/PATH" in said


def test_without_a_client_it_is_said_which_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOCKER", raising=False)
    with pytest.raises(InputError, match="no client that can build with BuildKit"):
        find_docker()


def test_every_stage_has_an_image_and_every_image_what_the_lock_file_knows() -> None:
    assert {stage.needs.image for stage in all_stages().values()} <= set(NAME_IN_PARAMS.values())
    locked = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for file in (ROOT / "images" / "requirements").glob("*.txt"):
        assert package_names(file.read_text()) <= locked, file


def test_the_torch_image_has_all_that_the_library_needs_but_plots_and_the_pretrained_weights() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [(ROOT / "requirements.in").read_text(), *project["optional-dependencies"]["pretrained"]]
    inside = (ROOT / "images" / "requirements" / "torch.txt").read_text()
    assert package_names(*needed) - package_names(inside) == {"matplotlib"}


def test_the_watch_loads_nothing_that_its_image_lacks() -> None:
    """It runs from the image that has git, as the farewell does: a report without pictures, and the night's row."""
    program = (
        "import sys, pipelines.commands.cluster, pipelines.kubeflow.watch, components.report.night, components.report.recorded\n"
        "from components.stage.registry import find_stage; find_stage('report')\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert not loaded & {"kfp", "kubernetes", "torch", "great_expectations", "onnx", "onnxruntime"}
    inside = (ROOT / "images" / "requirements" / "versioning.txt").read_text()
    assert "kfp-server-api\n" in inside and "minio\n" in inside
    assert "minio\n" in (ROOT / "images" / "requirements" / "gates.txt").read_text(), (
        "a gate's record lies in the store"
    )
    assert "COPY pipelines /app/pipelines" in (ROOT / "images" / "versioning.Dockerfile").read_text()


def test_a_build_sees_our_code_alone_and_pips_settings_as_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "x-1-py3-none-any.whl").write_bytes(b"wheel")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} https://host/wheels")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@host/simple")
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.crt"))
    with images._context() as context:
        assert {item.name for item in context.iterdir()} == {
            "components",
            "perception",
            "pipelines",
            "images",
            "constraints.txt",
            "wheels",
        }
        assert [item.name for item in (context / "wheels").iterdir()] == ["x-1-py3-none-any.whl"]
        assert not list(context.rglob("__pycache__"))
    options = images._secrets(tmp_path)
    assert "secret@host" not in " ".join(options)
    assert "cert = /run/secrets/ca" in (tmp_path / "pip.conf").read_text()
