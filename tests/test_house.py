"""Rules of the house that no linter knows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "great_expectations", "dvc", "kfp", "pandas", "onnxruntime", "cv2")


def test_the_lock_file_holds_plain_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line), line
        assert not line.startswith(("nvidia-", "triton", "setuptools", "pip==")), line


def test_every_dependency_is_locked_and_explained() -> None:
    locked = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    text = (ROOT / "requirements.in").read_text() + (ROOT / "pyproject.toml").read_text().partition("[tool.")[0]
    named = set(re.findall(r'(?m)^\s*"?([a-z0-9][a-z0-9-]*)(?:\[[a-z0-9]+\])?[><=]=', text))
    named |= set(re.findall(r'"([a-z0-9][a-z0-9-]*)(?:\[[a-z0-9]+\])?[><=]=', text)) - {"setuptools"}
    assert len(named) > 20
    for name in named - {"setuptools"}:
        assert name in locked, name
        assert f"`{name}`" in explained, name


def imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import components.stage.registry",
        "import pipelines.commands.program",
        "import pipelines.settings",
        "import pipelines.commands.cluster",
    ],
)
def test_command_lines_start_without_heavy_packages(statement: str) -> None:
    assert not imported_by(statement) & set(HEAVY)


@pytest.mark.parametrize("module", ["perception.data.manifest", "perception.data.readers", "perception.quality.gate"])
def test_the_data_library_does_not_load_torch(module: str) -> None:
    assert not imported_by(f"import {module}") & {"torch", "great_expectations"}


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?m)^([a-z-]+):", makefile)
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [target for target in targets if f"make {target}" not in done.stdout] == []
