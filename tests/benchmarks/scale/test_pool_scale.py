"""What is said of a large pool: linear and flat by the bars, and the slopes that the simulation goes on with."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.scale import fleet_rates, pool_scale
from perception.data.readers import open_reader
from perception.errors import InputError

STAGES = ("ingest", "gather", "gate", "score", "select", "diff")


def size(rows: int, seconds_a_row: float, start_s: float, mib: float, **stages: dict[str, float]) -> dict[str, Any]:
    each = {"seconds": 1.0, "cpu_seconds": start_s + seconds_a_row * rows, "peak_rss_mib": mib}
    return {"rows": rows, "parts": rows // 1000, "stages": {name: each | stages.get(name, {}) for name in STAGES}}


def test_a_linear_and_flat_pool_passes() -> None:
    found = pool_scale.judged(size(1000, 0.01, 0.0, 200.0), size(10_000, 0.01, 0.0, 210.0))
    assert found["pass"] and {each["of_linear"] for each in found["judged"].values()} == {1.0}
    assert found["judged"]["gather"]["bytes_a_row"] == round(10 * 2**20 / 9000)


@pytest.mark.parametrize(
    ("stage", "after", "broken"),
    [
        ("select", {"cpu_seconds": 150.0}, "linear"),  # 15 times for ten times the rows
        ("ingest", {"peak_rss_mib": 300.0}, "flat"),  # it gets a part of the pool
        ("gather", {"peak_rss_mib": 5000.0}, "flat"),  # more than its pod
    ],
)
def test_what_grows_too_fast_fails_and_is_named_on_the_page(stage: str, after: dict[str, float], broken: str) -> None:
    found = pool_scale.judged(size(1000, 0.01, 0.0, 200.0), size(10_000, 0.01, 0.0, 200.0, **{stage: after}))
    assert not found["pass"] and not found["judged"][stage][broken]
    assert [name for name, each in found["judged"].items() if not (each["linear"] and each["flat"])] == [stage]
    page = pool_scale.page(found | {"command": "x", "hardware": "a test", "date": "today", "seconds": 3})
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {stage} ")]
    assert "**no**" in line and page.count("**no**") == 1


def test_the_whole_pool_may_grow_within_what_a_stage_asks_for() -> None:
    assert pool_scale.judged(size(1000, 0.01, 0, 200.0), size(10_000, 0.01, 0, 200.0, select={"peak_rss_mib": 3000.0}))[
        "pass"
    ]


def test_slopes_between_two_sizes_are_costs_a_row(tmp_path: Path) -> None:
    small, large = size(1000, 0.002, 4.0, 100.0), size(10_000, 0.002, 4.0, 100.0 + 9000 * 1024 / 2**20)
    (tmp_path / "pool.json").write_text(json.dumps({"small": small, "large": large}))
    costs = fleet_rates.row_costs(tmp_path / "pool.json")
    assert costs["gather_row_s"] == pytest.approx(0.002) and costs["diff_row_s"] == pytest.approx(0.002)
    assert costs["gate_start_s"] == pytest.approx(4.0)
    assert costs["select_row_bytes"] == pytest.approx(1024)


def test_without_a_run_there_are_no_costs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmarks\.scale pool_scale"):
        fleet_rates.row_costs(tmp_path / "none.json")


def test_sources_are_read_as_any_webdataset_and_share_their_pictures(tmp_path: Path) -> None:
    sources = pool_scale.write_sources(tmp_path, 450, 2)
    assert list(sources) == ["car0000", "car0001", "train", "test"]
    reader = open_reader("webdataset")
    frames = list(reader.frames(Path(sources["car0001"]["path"]), None, False))
    assert len(frames) == 225 and len({frame.drive_id for frame in frames}) == 2
    first = Image.open(io.BytesIO(reader.image(frames[0])))
    assert first.size == (pool_scale.SIDE_PX, pool_scale.SIDE_PX)
    with tarfile.open(Path(sources["car0000"]["path"]) / "frames.tar") as archive:
        member = archive.extractfile("p0000_000000.jpg")
        assert member is not None and member.read() == reader.image(frames[0])
    assert len(list(reader.frames(Path(sources["test"]["path"]), None, True))) == 2 * pool_scale.FRAMES_A_DRIVE
