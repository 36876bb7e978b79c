"""The dispatcher of tables: cells are kept, minutes are heeded, sections stand side by side."""

import dataclasses
import gzip
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.machine import hardware
from benchmarks.tables import command, frames
from benchmarks.tables.data import classification, data_kind
from benchmarks.tables.results import Report, write_results
from benchmarks.tables.runner import Cell, Request, machines, run_cells
from benchmarks.tables.statistics import area_under_rejection_curve, expected_calibration_error, mean_and_spread
from components.stage.program import run_program
from perception.errors import InputError


def request_for(work: Path) -> Request:
    return Request(table="toy", data=None, data_kind="scenes", work=work)


def call(arguments: list[str]) -> int:
    return run_program(command.table, arguments, "table")


def counting_cells(calls: list[str], **settings: int) -> list[Cell]:
    def cell(name: str) -> Cell:
        def compute(before: dict) -> dict:
            calls.append(name)
            return {"value": 1 + sum(each["value"] for each in before.values())}

        return Cell(name=name, compute=compute, settings=settings)

    return [cell(name) for name in ("a", "b", "c")]


def test_a_finished_cell_is_not_run_again_and_later_cells_see_it(tmp_path: Path) -> None:
    calls: list[str] = []
    first, _ = run_cells(counting_cells(calls), request_for(tmp_path))
    second, _ = run_cells(counting_cells(calls), request_for(tmp_path))
    assert first == second == {"a": {"value": 1}, "b": {"value": 2}, "c": {"value": 4}}
    assert calls == ["a", "b", "c"]


def test_a_cell_whose_settings_changed_is_run_again(tmp_path: Path) -> None:
    calls: list[str] = []
    run_cells(counting_cells(calls, epochs=1), request_for(tmp_path))
    run_cells(counting_cells(calls, epochs=2), request_for(tmp_path))
    assert calls == ["a", "b", "c"] * 2


def test_spent_minutes_stop_before_the_next_cell(tmp_path: Path) -> None:
    calls: list[str] = []
    done, _ = run_cells(counting_cells(calls), request_for(tmp_path), minutes=1e-12)
    assert len(done) < 3
    done, _ = run_cells(counting_cells(calls), request_for(tmp_path))
    assert list(done) == ["a", "b", "c"]


def test_processes_share_a_table_and_a_cell_waits_for_what_it_needs(tmp_path: Path) -> None:
    calls: list[str] = []
    a, b, c = counting_cells(calls)
    cells = [a, b, dataclasses.replace(c, needs=("a", "b"))]
    done, _ = run_cells(cells, request_for(tmp_path), only="a|c")
    assert list(done) == calls == ["a"]
    done, _ = run_cells(cells, request_for(tmp_path))
    assert list(done) == calls == ["a", "b", "c"]


def test_side_by_side_measurements_are_left_to_the_processor_and_follow_what_they_measure(tmp_path: Path) -> None:
    calls: list[str] = []
    a, b, c = counting_cells(calls)
    cells = [a, b, dataclasses.replace(c, side_by_side=True)]
    run_cells(cells[:1], request_for(tmp_path))
    done, _ = run_cells([cells[0], cells[2]], request_for(tmp_path))
    assert done["c"] == {"value": 2}
    done, _ = run_cells(cells, request_for(tmp_path))
    done, _ = run_cells(cells, request_for(tmp_path))
    assert done["c"] == {"value": 4} and calls == ["a", "c", "b", "c"]
    on_gpu = dataclasses.replace(request_for(tmp_path / "gpu"), device="cuda")
    done, _ = run_cells(cells, on_gpu, only="c")
    assert not done


def test_page_names_every_machine(tmp_path: Path) -> None:
    a, b, _ = counting_cells([])
    cells = [a, dataclasses.replace(b, side_by_side=True)]
    run_cells(cells, request_for(tmp_path))
    assert machines(cells, request_for(tmp_path)) == hardware("cpu")
    kept = tmp_path / "toy" / "scenes-small" / "a.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"hardware": "a GPU"}))
    assert machines(cells, request_for(tmp_path)) == f"a GPU; latency on {hardware('cpu')}"


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"settings": {}, "seconds": 1}', "\x00"])
def test_a_damaged_result_is_named(tmp_path: Path, text: str) -> None:
    cells = counting_cells([])
    run_cells(cells, request_for(tmp_path))
    path = tmp_path / "toy" / "scenes-small" / "b.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"b\.json: no result of a cell; remove this file"):
        run_cells(cells, request_for(tmp_path))
    with pytest.raises(InputError, match=r"b\.json"):
        machines(cells, request_for(tmp_path))
    path.unlink()
    assert run_cells(cells, request_for(tmp_path))[0]["b"] == {"value": 2}


def test_mean_and_spread() -> None:
    assert mean_and_spread([1.0, 3.0]) == "2.00 ± 1.41"
    assert mean_and_spread([1.0]) == "1.00"


def test_calibration_error_of_known_cases() -> None:
    right = np.array([True] * 7 + [False] * 3)
    assert expected_calibration_error(np.full(10, 0.7), right) == pytest.approx(0.0)
    assert expected_calibration_error(np.full(10, 0.95), right) == pytest.approx(0.25)
    confidence = np.random.default_rng(0).random(1000)
    bins = [(confidence > low) & (confidence <= low + 0.1) for low in np.arange(10) / 10]
    hits = np.random.default_rng(1).random(1000) < 0.5
    slow = sum(abs(hits[rows].mean() - confidence[rows].mean()) * rows.mean() for rows in bins if rows.any())
    assert expected_calibration_error(confidence, hits, bins=10) == pytest.approx(slow)


def test_rejection_curve_is_best_when_errors_are_doubted_most() -> None:
    right = np.array([True, False, True, True])
    assert area_under_rejection_curve(np.array([0.1, 0.9, 0.2, 0.3]), right) == pytest.approx((1 + 1 + 1 + 0.75) / 4)
    assert area_under_rejection_curve(np.array([0.2, 0.1, 0.3, 0.4]), right) == pytest.approx(
        (0 + 0.5 + 2 / 3 + 0.75) / 4
    )


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.array([7, 0, 9], np.uint8))
    assert data_kind(tmp_path) == "fashion_mnist"
    train, _ = classification(tmp_path, "fashion_mnist")
    assert (train.images.numpy()[:, 0] == images).all()
    assert train.labels.tolist() == [7, 0, 9]


def test_an_unknown_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set that tables know"):
        data_kind(tmp_path)


def test_the_command_writes_a_page_with_one_section_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = ModuleType("toy")
    toy.TABLE_SIZES = ("small", "full")  # type: ignore[attr-defined]
    toy.cells = lambda _: counting_cells([])  # type: ignore[attr-defined]
    toy.report = lambda _, results: Report(  # type: ignore[attr-defined]
        title="A toy", body=f"c = {results['c']['value']}", figures={"c": results["c"]["value"]}
    )
    monkeypatch.setattr(command, "load_table", lambda _: toy)
    arguments = ["night", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert call([*arguments, "--minutes", "1e-12"]) == command.RUN_OUT
    assert call(arguments) == 0
    assert call([*arguments, "--size", "full"]) == 0
    page = (tmp_path / "out" / "night.md").read_text()
    assert "## scenes, small" in page and "## scenes, full" in page and page.count("c = 4") == 2
    assert json.loads((tmp_path / "out" / "night.json").read_text())["sections"]["scenes-small"]["figures"] == {"c": 4}
    assert "night.md" in capsys.readouterr().out


def test_every_table_that_is_offered_has_cells_and_a_report() -> None:
    names = command.table_names()
    assert {"adaptation", "compress", "dpe", "night", "prune", "rounds"} <= set(names)
    for name in names:
        module = command.load_table(name)
        assert callable(module.cells) and callable(module.report) and "small" in module.TABLE_SIZES


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--minutes", "-1", "MINUTES = -1.0: must be at least 0"),
        ("--minutes", "nan", "MINUTES = nan: must be at least 0"),
        ("--workers", "0", "0 is not in the range x>=1"),
        ("--only", "[", "'[' is no regular expression"),
        ("--device", "tpu", "tpu must be cpu, cuda or cuda:N"),
        ("--device", "cuda:99", "cuda:99: this machine has"),
        ("--work", "/dev/null/work", "/dev/null/work: cannot be made"),
        ("--size", "medium", "SIZE = medium: table night has small, full"),
        ("--data", "/dev/null/data", "no data set that tables know"),
    ],
)
def test_bad_options_end_in_one_line(
    option: str, value: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert call(["night", *folders, option, value]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_damaged_figures_beside_a_page_are_named(tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text("{")
    with pytest.raises(InputError, match=r"toy\.json: not the figures of a table"):
        write_results(
            tmp_path, request_for(tmp_path), Report(title="A toy", body="", figures={}), "make table", 1.0, "a machine"
        )


def test_kept_frames_that_are_gone_or_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "simulator.npz"
    path.parent.mkdir()
    for read in (frames.kept, frames.kept_targets):
        with pytest.raises(InputError, match="are gone; remove the folder"):
            read(path)
    np.savez(path, labels=np.zeros(3))
    whole = path.read_bytes()
    for contents in (b"", b"PK", whole[: len(whole) // 2], whole[:60] + b"xx" + whole[62:], whole):
        path.write_bytes(contents)
        for read in (frames.kept, frames.kept_targets):
            with pytest.raises(InputError, match=r"simulator\.npz: .* damaged"):
                read(path)
