"""The benchmark of erasures on a handful of drives: what it writes grows with the versions that held the drive."""

from pathlib import Path

from benchmarks.scale.erasure import build_installation, drive_name, erase_drive


def test_an_erasure_writes_in_proportion_to_the_versions_that_held_the_drive(tmp_path: Path) -> None:
    place = build_installation(tmp_path, drives=6, frames_per_drive=2, versions=3)
    last, first = (erase_drive(place, drive_name(number)) for number in (5, 0))
    assert (last.versions, first.versions) == (1, 3)
    assert last.written_bytes < first.written_bytes < 3 * last.written_bytes
    assert last.removed_bytes < first.removed_bytes
