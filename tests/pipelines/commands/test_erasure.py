"""`make lineage`, `make erase` and `make verify-erasure`, as a privacy officer types them."""

import re
from pathlib import Path

from benchmarks.scale.erasure import drive_name
from tests.faults.commands import in_this_process
from tests.faults.erasure import build_home


def test_a_plan_is_shown_refused_carried_out_and_verified(tmp_path: Path) -> None:
    home, drive = build_home(tmp_path / "home"), drive_name(2)
    where = ["--registry", home.place.registry, "--store", home.place.store, "--runs", str(home.root / "runs")]
    where += ["--also", ",".join(home.place.also)]
    said = in_this_process(["lineage", "--drive", drive, "--registry", home.place.registry])
    assert said.startswith("0\n3 frames of 1 drives") and "went on" not in said and home.models[1][:16] in said
    assert "no frame of the registry" in in_this_process(["lineage", "--frame", "x", "--registry", home.place.registry])
    erase = [
        "erase",
        *where,
        "--drive",
        drive,
        "--by",
        "Ada Lovelace,Bob",
        "--reason",
        "request 7",
        "--networks",
        "retire",
    ]
    shown = in_this_process(erase)
    (plan,) = re.findall(r"PLAN=([0-9a-f]{64})", shown)
    assert f"release     network {home.models[0][:16]} instead" in shown and f"fleet/{drive}_0: its owner" in shown
    assert in_this_process([*erase, "--plan", "0" * 64]).startswith("2\n")
    assert in_this_process(["verify-erasure", *where, "--plan", plan]).startswith("2\n")
    done = in_this_process([*erase, "--plan", plan])
    assert done.startswith("0\n") and f"PLAN={plan[:16]}" in done
    assert in_this_process([*erase, "--plan", plan]).startswith("0\n"), "the same command again does nothing"
    assert "nothing is left" in in_this_process(["verify-erasure", *where])
