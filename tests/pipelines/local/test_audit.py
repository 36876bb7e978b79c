"""The audit of dependencies: licences are judged rightly, the page is current, and changed files are found."""

from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from perception.errors import InputError
from pipelines.local import audit


def test_the_page_of_licences_is_current() -> None:
    rows = audit.licences(audit.read_page())
    assert audit.PAGE.read_text() == audit.page_of(rows), "write it with `make licences`"
    assert [row.package for row in rows] == list(audit.pins())
    # av was looked at: docs/dependencies.md says what its licence asks of whoever passes an image on.
    assert [row.package for row in rows if row.kind in ("strong copyleft", "look at it")] == ["av"], "look at these"


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("MIT", "permissive"), ("Apache-2.0 AND MIT", "permissive"), ("MPL-2.0 AND (Apache-2.0 OR MIT)", "weak copyleft"),
        ("EPL-2.0 OR GPL-2.0-or-later", "weak copyleft"), ("Apache-2.0 OR GPL-2.0-or-later", "permissive"), ("GPL-3.0", "strong copyleft"),
        ("AGPL-3.0-only", "strong copyleft"), ("LGPL-2.1", "weak copyleft"), ("GPLv2 OR EPLv1", "weak copyleft"),
        ("GNU General Public License v3 (GPLv3)", "strong copyleft"), ("MIT AND GPL-3.0", "strong copyleft"), ("unknown", "look at it"),
        ("own terms", "look at it"), ("Mozilla Public License 2.0 (MPL 2.0)", "weak copyleft"),
    ],
)  # fmt: skip
def test_kinds_of_licences(licence: str, kind: str) -> None:
    assert audit.kind_of(licence) == kind


@pytest.mark.parametrize(
    "line", ["torch", "torch>=2", "torch==2.*", "torch @ https://x/y.whl", "torch==2.13.0  # pinned", ""]
)
def test_a_line_that_is_no_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "constraints.txt").write_text(f"numpy==2.4.0\n{line}\n")
    with pytest.raises(InputError, match=r"line 2 .* is no exact pin"):
        audit.pins(tmp_path / "constraints.txt")


def test_a_changed_or_missing_file_of_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "thing-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
    for name in ("good.py", "changed.py"):
        (tmp_path / name).write_text("x = 1\n")
    recorded = audit._record_hash(tmp_path / "good.py")
    lines = [f"{name},sha256={recorded},6" for name in ("good.py", "changed.py", "gone.py")]
    (info / "RECORD").write_text("\n".join([*lines, "thing-1.dist-info/RECORD,,"]))
    (tmp_path / "changed.py").write_text("x = 2\n")
    monkeypatch.setattr(audit, "distribution", lambda _: PathDistribution(info))
    assert audit.changed_files(["thing"]) == (3, ["thing: changed.py", "thing: gone.py"])


def test_installed_files_are_what_their_packages_recorded() -> None:
    checked, changed = audit.changed_files(["numpy", "minio", "safetensors"])
    assert checked > 100
    assert changed == []
