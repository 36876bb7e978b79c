"""A stage runs again when code that it reaches changed, and not otherwise."""

from pathlib import Path

import pytest

from components.stage.registry import all_stages
from components.stage.source_hash import package_hash, reachable_files, source_hashes
from perception.errors import InputError

ROOT = Path(__file__).parents[3]


def names(stage: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in reachable_files(f"components.{stage}")}


def test_a_stage_reaches_its_methods_and_not_those_of_others() -> None:
    select = names("select")
    assert {"components/select.py", "components/stage/declaration.py", "perception/selection/budget.py"} <= select
    assert not any(path.startswith(("perception/compression", "perception/versioning", "pipelines")) for path in select)


def test_a_gate_reaches_its_suites() -> None:
    assert "perception/quality/suites/ingest.yaml" in names("gate")


def test_hashes_are_stable_and_differ() -> None:
    modules = {name: f"components.{name}" for name in all_stages()}
    hashes = source_hashes(modules)
    assert hashes == source_hashes(modules)
    assert len(set(hashes.values())) == len(all_stages())


def test_code_of_others_is_hashed_by_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "street_nets" / "deep").mkdir(parents=True)
    for name in ("street_nets/__init__.py", "street_nets/deep/unet.py", "single_net.py"):
        (tmp_path / name).write_text("WIDTH = 1\n")
    before = {name: package_hash(name) for name in ("street_nets.deep.unet", "single_net")}
    assert package_hash("street_nets") == before["street_nets.deep.unet"] != before["single_net"]
    (tmp_path / "street_nets" / "deep" / "layers.py").write_text("WIDTH = 2\n")
    assert package_hash("street_nets.deep.unet") != before["street_nets.deep.unet"]
    assert package_hash("single_net") == before["single_net"]
    with pytest.raises(InputError, match="package absent_nets"):
        package_hash("absent_nets.unet")
