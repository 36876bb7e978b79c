"""What every test with containers needs: an engine that answers, and the images, built once."""

import os
from pathlib import Path

import pytest

from perception.errors import InputError
from pipelines.kubeflow.images import Image, build_images, find_docker, read_digests

IMAGES_VARIABLE = "NIGHTDRIVE_TEST_IMAGES"  # a file of digests: these images are tested and none is built
SETS_VARIABLE = "NIGHTDRIVE_TEST_SETS"  # such as "torch-cuda", which is some gigabytes to download
SETS = tuple(os.environ.get(SETS_VARIABLE, "gates versioning torch-cpu").split())


@pytest.fixture(scope="session")
def docker() -> str:
    """The client of an engine that runs; without one, the test is skipped and says so."""
    import docker as engine

    try:
        engine.from_env(timeout=10).ping()
        return find_docker()
    except (engine.errors.DockerException, InputError) as error:
        pytest.skip(f"no container engine answers, so nothing is tested in containers ({error})")


@pytest.fixture(scope="session")
def images_file(docker: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """The file of digests of freshly built images."""
    if given := os.environ.get(IMAGES_VARIABLE):
        return Path(given)
    file = tmp_path_factory.mktemp("images") / "images.json"
    build_images(SETS, "", "test", push=False, out=file)
    return file


@pytest.fixture(scope="session")
def images(images_file: Path) -> dict[str, Image]:
    """The images by dependency set."""
    return {name: image for name, image in read_digests(images_file).items() if name in SETS}
