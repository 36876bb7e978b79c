"""The evaluate stage and `make evaluate`: the same judge on stored frames and on a data set's folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from PIL import Image

from components.evaluate import judging
from components.stage.command import main
from perception.compression import export as exporting
from perception.compression.export import export_onnx, fold_batchnorm
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.metrics.segmentation import evaluate_frames
from perception.models.erfnet import ERFNet
from perception.reporting.page import MAX_PAGE_BYTES
from pipelines.commands.program import main as nightdrive
from tests.components.intake import take_in
from tests.footage import write_footage

HEIGHT, WIDTH, DRIVES = 32, 64, 10
QUICK = {"shift_frames": 2, "latency_repeats": 2, "latency_batch_frames": [1, 2], "minimum_drives": 3,
         "minimum_frames": 4, "worst_frames": 4}  # fmt: skip


def export(path: Path, seed: int, **metadata: str) -> Path:
    """Write an untrained network: its predictions are bad, and different from pixel to pixel."""
    torch.manual_seed(seed)
    network = ERFNet(19, width=0.25).eval()
    export_onnx(fold_batchnorm(network), path, HEIGHT, WIDTH, tolerance=1e-2, metadata=metadata)
    return path


TOLD = {"taxonomy": "cityscapes19", "classes": json.dumps(load_taxonomy("cityscapes19").classes)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, two exported networks, and the evaluation of one of them by `make evaluate`."""
    root = tmp_path_factory.mktemp("evaluate")
    write_footage(root / "scenes", 1, DRIVES, 2, HEIGHT, WIDTH)
    export(root / "net.onnx", 0, **TOLD)
    export(root / "champion.onnx", 1, **TOLD)
    assert call(root, "--out", str(root / "out"), "--champion", str(root / "champion.onnx")) == 0
    return root


def call(root: Path, *more: str, model: str = "net.onnx", data: str = "scenes") -> int:
    sets = [word for name, value in QUICK.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return nightdrive(["evaluate", "--model", str(root / model), "--data", str(root / data), *sets, *more])


def test_a_folder_is_judged_with_nothing_but_the_exported_file(place: Path) -> None:
    figures = json.loads((place / "out" / "evaluation.json").read_text())
    assert figures["frames"] == 2 * DRIVES
    assert figures["drives"] == DRIVES and figures["onnxruntime_provider"] == "CPUExecutionProvider"
    assert len(list((place / "out" / "predictions").glob("*.png"))) == 2 * DRIVES
    low, high = figures["miou_interval"]
    assert low <= figures["miou"] <= high
    assert figures["promotion"]["decision"] in ("refuse", "not_enough_evidence")
    assert {row["batch_frames"] for row in figures["latency"]} == {1, 2}
    assert figures["shift"][0]["kind"] == "none" and len(figures["shift"]) == 19
    html = (place / "out" / "report.html").read_text()
    assert len(html.encode()) < MAX_PAGE_BYTES
    for outside in ('src="http', 'href="http', "url(http", "<link", "<script"):
        assert outside not in html
    for words in ("What it does not support", "Champion and challenger", "Coverage of the operating domain", "unknown"):
        assert words in html


def test_a_gpu_judges_where_onnxruntime_has_its_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def session(_model: Path, _threads: int, provider: str) -> SimpleNamespace:
        asked.append(provider)
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="image", shape=["frames", 3, HEIGHT, WIDTH])])

    monkeypatch.setattr(exporting, "best_device", lambda: "cuda:0")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(exporting, "open_session", session)
    exporting.onnx_predictor(tmp_path / "model.onnx", 1)
    assert asked == ["CUDAExecutionProvider"]


def test_the_figures_equal_an_independent_count_of_the_kept_predictions(place: Path) -> None:
    figures = json.loads((place / "out" / "evaluation.json").read_text())
    confusion = np.zeros((19, 19), int)
    for path in (place / "scenes" / "labels").glob("*.png"):
        label, shown = (np.asarray(Image.open(each)) for each in (path, place / "out" / "predictions" / path.name))
        known = label != 255
        np.add.at(confusion, (label[known], shown[known]), 1)
    shown_by_kubeflow = json.loads((place / "out" / "confusion.json").read_text())
    assert shown_by_kubeflow["rows"] == confusion.tolist()
    assert shown_by_kubeflow["classes"][0] == "road"
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    ious = np.diag(confusion)[union > 0] / union[union > 0]
    assert figures["miou"] == pytest.approx(ious.mean(), abs=1e-12)
    facts = pd.read_csv(place / "scenes" / "frames.csv")
    day = next(row for row in figures["slices"] if row["name"] == "time_of_day=day")
    assert day["frames"] == int((facts.time_of_day == "day").sum())


def test_slices_come_worst_first_and_few_drives_are_unknown(place: Path) -> None:
    slices = json.loads((place / "out" / "evaluation.json").read_text())["slices"]
    known = [row for row in slices if row["known"]]
    assert [row["miou"] for row in known] == sorted(row["miou"] for row in known)
    assert all(row["drives"] >= 3 and row["frames"] >= 4 for row in known)
    assert any(not row["known"] for row in slices)
    assert slices[: len(known)] == known


def test_the_stage_gives_the_same_figures_on_stored_frames(place: Path, tmp_path: Path) -> None:
    sources = {"test": {"format": "scenes_folder", "path": str(place / "scenes"), "domain": "real", "split": "test",
                        "labels": "given"}}  # fmt: skip
    shared = {
        "store": str(tmp_path / "store"),
        "taxonomy": "cityscapes19",
        "height_px": HEIGHT,
        "width_px": WIDTH,
        "seed": 0,
    }
    size = {"taxonomy": "cityscapes19", "height_px": HEIGHT, "width_px": WIDTH}
    take_in(tmp_path, "frames", sources, tmp_path / "store", **size)
    for name, file in (("base", "champion.onnx"), ("compressed", "net.onnx")):
        (tmp_path / name).mkdir()
        shutil.copy(place / file, tmp_path / name / file.replace("net", "model"))
    (tmp_path / "base" / "night.json").write_text('{"date": "2026-11-30"}')
    run("evaluate", shared | QUICK, tmp_path, "--frames", "frames", "--base", "base", "--compressed", "compressed",
        "--evaluation", "evaluation")  # fmt: skip
    ours = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    alone = json.loads((place / "out" / "evaluation.json").read_text())
    for name in ("miou", "miou_interval", "iou_by_class", "slices", "boundary_iou", "promotion", "evidence"):
        assert ours[name] == alone[name], name
    counted = ours["objects"]
    assert counted["objects"] == sum(objects for _, objects in counted["by_class"].values()) > 0
    assert (
        0 < counted["missed"] <= counted["objects"]
        and counted["missed"] / counted["objects"] <= counted["missed_rate_upper_95"]
    )
    assert set(counted["by_class"]) <= {
        "traffic_light",
        "traffic_sign",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    }
    assert ours["failure_clusters"] == alone["failure_clusters"] and ours["queries"] == [], (
        "the test set steers nothing"
    )
    assert ours["fresh"] == {"frames": 0, "accuracy": None, "accuracy_champion": None} and alone["fresh"] is None
    gate = pd.read_parquet(tmp_path / "evaluation" / "gate.parquet").set_index("gate_id")
    assert gate.value["evaluate/miou/all"] == ours["miou"]
    told = shared | {"run": "night", "profile": "test", "registry": "registry"}
    run("report", told, tmp_path, "--frames", "frames", "--evaluation", "evaluation", "--report", "report")
    html = (tmp_path / "report" / "report.html").read_text()
    assert "What it does not support" in html and ours["promotion"]["decision"] in html
    assert "Not judged" in html and "of 20)" in html
    shutil.copy(place / "net.onnx", tmp_path / "base" / "reference.onnx")
    signed = {"figure": "weather=fog", "by": "Ada Lovelace", "reason": "summer", "nights": 2}
    contract = {
        "exemptions": [
            signed | {"first_night": "2026-11-29"},
            signed | {"figure": "weather=snow", "first_night": "2026-12-01"},
        ]
    }
    pinned = shared | QUICK | {"test_set_sha256": ours["test_set_sha256"], "contract": contract}
    ports = ("--frames", "frames", "--base", "base", "--compressed", "compressed")
    run("evaluate", pinned, tmp_path, *ports, "--evaluation", "again")
    against = json.loads((tmp_path / "again" / "evaluation.json").read_text())
    assert against["promotion"]["reference"] == against["model_sha256"], "the reference release is this very network"
    assert against["promotion"]["miou_since_reference"] == against["promotion"]["miou_since_reference_lower_95"] == 0.0
    reasons = "; ".join(against["promotion"]["reasons"])
    assert "weather=fog was not judged: exempt until 2026-11-30, Ada Lovelace: summer" in reasons
    assert "snow was not judged" not in reasons, "by the night's date, whatever today's is"
    assert {each["difference"] for each in against["comparison"]["reference_judgements"]} == {0.0}
    assert against["comparison"]["judgements"] == ours["comparison"]["judgements"]
    assert (
        run("evaluate", pinned | {"test_set_sha256": "0" * 64}, tmp_path, *ports, "--evaluation", "third", code=2) == 2
    )


def test_cities_stand_for_drives_where_they_are_the_unit() -> None:
    about = pd.DataFrame({"frame_id": ["a", "b", "c"], "drive_id": ["ulm_0", "ulm_1", "bad_honnef_0"]})
    assert judging.by_unit(about, "drive") is about
    assert judging.by_unit(about, "city").drive_id.tolist() == ["ulm", "ulm", "bad_honnef"]
    with pytest.raises(InputError, match="unit = city: drive '0016E5' must be named CITY_SEQUENCE"):
        judging.by_unit(about.assign(drive_id=["ulm_0", "0016E5", "ulm_1"]), "city")


def test_val_frames_and_fresh_footage_steer_tomorrow_and_fresh_footage_judges_apart(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    asks = [{"where": {"weather": "fog"}, "weight": 1.0, "about": "noted"}]

    def noted(*given: Any) -> list[dict[str, Any]]:
        asked.append(set(given[1].drive_id))
        return asks

    monkeypatch.setattr(judging, "failure_queries", noted)
    sources: dict[str, dict[str, object]] = {
        "scenes": {
            "format": "scenes_folder",
            "path": str(place / "scenes"),
            "domain": "real",
            "split": "test",
            "labels": "given",
        }
    }
    size = {"taxonomy": "cityscapes19", "height_px": HEIGHT, "width_px": WIDTH}
    frames = take_in(tmp_path, "frames", sources, tmp_path / "store", **size)
    rows = pd.read_parquet(frames / "manifest.parquet")
    one, two, three = sorted(rows.drive_id.unique())[:3]
    rows = rows.assign(split=rows.drive_id.map({one: "val", two: "val", three: "train"}).fillna("test"))
    rows.to_parquet(frames / "manifest.parquet", index=False)
    rows.loc[rows.split == "train", ["frame_id"]].to_parquet(frames / "fresh.parquet", index=False)
    (frames / "seal.json").unlink(missing_ok=True)
    for name, file in (("base", "champion.onnx"), ("compressed", "model.onnx")):
        (tmp_path / name).mkdir()
        shutil.copy(place / file.replace("model", "net"), tmp_path / name / file)
    (tmp_path / "base" / "night.json").write_text('{"date": "2026-11-30"}')
    ports = ("--frames", "frames", "--base", "base", "--compressed", "compressed", "--evaluation", "evaluation")
    run("evaluate", QUICK | size | {"store": str(tmp_path / "store"), "seed": 0, "shift_frames": 0}, tmp_path, *ports)
    assert asked == [{one, two, three}], "and no drive of the test set"
    query = json.loads((tmp_path / "evaluation" / "query.json").read_text())
    figures = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert query["queries"] == figures["queries"] == asks
    assert figures["fresh"]["frames"] == 2 and figures["frames"] == 2 * (DRIVES - 3)
    assert 0 <= figures["fresh"]["accuracy"] <= 1 and 0 <= figures["fresh"]["accuracy_champion"] <= 1


def test_the_next_night_does_not_judge_the_champion_on_the_same_test_set_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    def counted(*given: Any, network: str, **more: Any) -> Any:
        judged.append(Path(network.partition(" ")[0]).name)
        return evaluate_frames(*given, network=network, **more)

    monkeypatch.setattr(judging, "evaluate_frames", counted)
    sources = {"test": {"format": "scenes_folder", "path": str(place / "scenes"), "domain": "real", "split": "test",
                        "labels": "given"}}  # fmt: skip
    shared: dict[str, Any] = {"store": str(tmp_path / "store"), "seed": 0, "shift_frames": 0}
    size = {"taxonomy": "cityscapes19", "height_px": HEIGHT, "width_px": WIDTH}
    frames = take_in(tmp_path, "frames", sources, tmp_path / "store", **size)
    for name, file in (("base", "champion.onnx"), ("compressed", "model.onnx")):
        (tmp_path / name).mkdir()
        shutil.copy(place / file.replace("model", "net"), tmp_path / name / file)
    (tmp_path / "base" / "night.json").write_text('{"date": "2026-11-30"}')

    def night(name: str) -> dict[str, Any]:
        ports = ("--frames", "frames", "--base", "base", "--compressed", "compressed", "--evaluation", name)
        judged.clear()
        run("evaluate", QUICK | size | shared, tmp_path, *ports)
        figures: dict[str, Any] = json.loads((tmp_path / name / "evaluation.json").read_text())
        return figures

    first = night("first")
    assert judged == ["model.onnx", "champion.onnx"]
    second = night("second")
    assert judged == ["model.onnx"]
    for name in ("miou_champion", "comparison", "promotion"):
        assert second[name] == first[name], name
    (frames / "seal.json").unlink(missing_ok=True)
    rows = pd.read_parquet(frames / "manifest.parquet")
    rows[1:].to_parquet(frames / "manifest.parquet")
    assert night("less")["miou_champion"] is not None and judged == ["model.onnx", "champion.onnx"]
    shutil.copy(place / "net.onnx", tmp_path / "base" / "champion.onnx")
    night("promoted")
    assert judged == ["model.onnx", "champion.onnx"]


def run(stage: str, values: dict[str, object], place: Path, *ports: str, code: int = 0) -> int:
    sets = [word for name, value in values.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    found = main([stage, *sets, *(each if each.startswith("--") else str(place / each) for each in ports)])
    assert found == code
    return found


def one_layer(path: Path, shape: tuple[int, int, int, int], **metadata: str) -> None:
    """Write a network of one convolution at a fixed batch size, as other tools export them."""
    weights = np.random.default_rng(0).normal(size=(19, shape[1], 1, 1)).astype(np.float32)
    images = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    logits = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (shape[0], 19, *shape[2:]))
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [images], [logits], [onnx.numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


UNUSUAL = {
    "silent.onnx": lambda root: one_layer(root / "silent.onnx", (1, 3, HEIGHT, WIDTH)),
    "large.onnx": lambda root: one_layer(root / "large.onnx", (1, 3, 64, 128), **TOLD),
    "grey.onnx": lambda root: one_layer(root / "grey.onnx", (1, 1, HEIGHT, WIDTH), **TOLD),
    "kitti.onnx": lambda root: one_layer(root / "kitti.onnx", (1, 3, HEIGHT, WIDTH), taxonomy="kitti"),
    "damaged.onnx": lambda root: one_layer(root / "damaged.onnx", (1, 3, HEIGHT, WIDTH), **TOLD | {"classes": "{0"}),
}


@pytest.mark.parametrize(
    ("model", "data", "more", "words"),
    [
        ("absent.onnx", "scenes", (), "absent.onnx: no such file"),
        ("net.onnx", "absent", (), "no such folder"),
        ("net.onnx", ".", (), "fits no known format"),
        ("scenes/frames.csv", "scenes", (), "cannot open"),
        ("silent.onnx", "scenes", (), "TAXONOMY="),
        ("silent.onnx", "scenes", ("--taxonomy", "camvid11"), "19 classes"),
        ("net.onnx", "scenes", ("--format", "scene_folder"), "format 'scene_folder' is unknown"),
        ("net.onnx", "scenes", ("--set", "minimum_drive=3"), "did you mean 'minimum_drives'"),
        ("net.onnx", "scenes", ("--out", "scenes"), "no earlier result"),
        ("net.onnx", "scenes", ("--champion", "absent.onnx"), "CHAMPION=absent.onnx: no such file"),
        (
            "net.onnx",
            "scenes",
            ("--champion", "scenes/frames.csv"),
            "CHAMPION=scenes/frames.csv: onnxruntime cannot open",
        ),
        ("net.onnx", "scenes", ("--champion", "large.onnx"), "its height_px is 64, MODEL's is 32"),
        ("net.onnx", "scenes", ("--part", "val"), "a scenes_folder has no splits"),
        ("net.onnx", "scenes", ("--taxonomy", "kitti"), "TAXONOMY='kitti' is unknown; name its classes with"),
        ("net.onnx", "scenes", ("--out", "net.onnx/out"), "a part of this path is a file"),
        ("grey.onnx", "scenes", (), "must take float32 RGB images"),
        ("kitti.onnx", "scenes", (), "its file says taxonomy 'kitti' is unknown"),
        ("damaged.onnx", "scenes", (), "its file names classes {0, but taxonomy cityscapes19 is now"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    model: str, data: str, more: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(place)
    if (make := UNUSUAL.get(more[1] if "--champion" in more else model)) is not None:
        make(place)
    out = () if "--out" in more else ("--out", str(tmp_path / "out"))
    assert call(place, *more, *out, model=model, data=data) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("size", [1, 3])
def test_a_network_of_a_fixed_batch_size_is_judged_as_one_of_any(place: Path, tmp_path: Path, size: int) -> None:
    for name, batch in (("fixed", size), ("whole", 2 * DRIVES)):
        one_layer(tmp_path / f"{name}.onnx", (batch, 3, HEIGHT, WIDTH), **TOLD)
        more = ("--out", str(tmp_path / name), "--set", f"batch_frames={2 * DRIVES}")
        assert call(tmp_path, *more, model=f"{name}.onnx", data=str(place / "scenes")) == 0
    fixed, whole = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("fixed", "whole"))
    assert fixed["iou_by_class"] == whole["iou_by_class"] and fixed["miou"] == whole["miou"]
    assert [row["batch_frames"] for row in fixed["latency"]] == [size]


def test_what_is_left_out_is_counted_and_named_with_its_reason(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "scenes", tmp_path / "scenes")
    first, second, third, *rest = sorted((tmp_path / "scenes" / "labels").iterdir())
    first.unlink()
    Image.new("L", (WIDTH, HEIGHT - 1)).save(second)
    Image.new("L", (WIDTH, HEIGHT), 255).save(third)
    assert call(place, "--out", str(tmp_path / "out"), data=str(tmp_path / "scenes")) == 0
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (figures["found"], figures["judged"]) == (2 * DRIVES, len(rest))
    images = tmp_path / "scenes" / "images"
    assert figures["left_out"] == [
        {"path": str(images / f"{first.stem}.jpg"), "rule": "has no label"},
        {
            "path": str(second),
            "rule": f"label is {WIDTH}x{HEIGHT - 1} px, its image {WIDTH}x{HEIGHT} px, must be equal",
        },
        {"path": str(images / f"{third.stem}.jpg"), "rule": "no pixel of its label is of a class that counts"},
    ]
    printed, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    assert "20 found, 17 judged, 3 left out" in printed and "20 frames found, 17 judged, 3 left out" in page
    for each in figures["left_out"]:
        assert each["path"] in printed and each["rule"] in printed and each["rule"] in page


def test_a_result_is_replaced_whole(place: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert call(place, "--out", str(tmp_path / "out")) == 0
    assert (
        json.loads((tmp_path / "out" / "evaluation.json").read_text())["promotion"]["reason"]
        == "there is no champion yet"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
