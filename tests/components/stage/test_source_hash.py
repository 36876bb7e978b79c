"""A stage runs again when code that it reaches changed, and not otherwise."""

from pathlib import Path

from components.stage.registry import all_stages
from components.stage.source_hash import reachable_files, source_hashes

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
