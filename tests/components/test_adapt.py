"""The adaptation as a stage, on a world of three kinds of boxes: what it writes, and that its gate refuses a mixed-up detector."""

import contextlib
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from components import adapt, gate, train_prune
from components.adapt import networks
from components.stage.declaration import Refused
from components.stage.learning import train
from components.stage.parameters import build_parameters
from perception.adaptation.foreground import load_foreground
from perception.data.manifest import read_manifest, write_manifest
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.models.checkpoint import load_network
from perception.models.erfnet import ERFNet
from tests.components.intake import run, take_in

SIZE_PX = 64
ROAD, SKY, PERSON, CAR, TRUCK = 0, 10, 11, 13, 14
MIXED_UP = {CAR: PERSON, PERSON: TRUCK, TRUCK: CAR}  # what a wrong export of the instances says


def shapes_frame(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sky over road, before them boxes (cars), now and then something tall (person) or wide (truck), in any colour."""
    rng = np.random.default_rng([31, seed])
    image = rng.integers(90, 150, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    image[: SIZE_PX // 2, :, 2] += 80
    label = np.full((SIZE_PX, SIZE_PX), ROAD, np.uint8)
    label[: SIZE_PX // 2] = SKY
    instances = np.zeros((SIZE_PX, SIZE_PX), np.uint16)
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    for number in range(1, 4):
        kind = rng.choice([CAR, PERSON, TRUCK], p=[0.6, 0.25, 0.15])
        half_height, half_width = {CAR: (9, 9), PERSON: (12, 4), TRUCK: (6, 14)}[kind]
        x, y = rng.integers(12, SIZE_PX - 12, 2)
        inside = (abs(rows - y) <= half_height) & (abs(columns - x) <= half_width)
        image[inside] = rng.choice([20, 235], 3)
        label[inside], instances[inside] = kind, kind * 1000 + number
    return image, label, instances


def write_footage(root: Path, seeds: range, mixed_up: bool = False) -> Path:
    for part in ("images", "labels", "instances"):
        (root / part).mkdir(parents=True)
    with (root / "frames.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene"])
        for seed in seeds:
            image, label, instances = shapes_frame(seed)
            if mixed_up:
                classes, numbers = np.divmod(instances, 1000)
                mapped = np.vectorize(lambda each: MIXED_UP.get(int(each), 0))(classes)
                instances = (mapped * 1000 + numbers).astype(np.uint16)
            name = f"f{seed:04d}"
            for part, pixels in (("images", image[..., ::-1]), ("labels", label), ("instances", instances)):
                cv2.imwrite(str(root / part / f"{name}.png"), pixels)
            table.writerow([name, f"d{seed:04d}", "2026-11-01T00:00:00+00:00", "front", "day", "clear", "urban"])
    return root


def source(
    root: Path, name: str, seeds: range, domain: str, split: str, labels: str, **footage: bool
) -> dict[str, Any]:
    """Write footage and return the source that names it."""
    path = write_footage(root / "footage" / name, seeds, **footage)
    return {"format": "scenes_folder", "path": str(path), "domain": domain, "split": split, "labels": labels}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night's frames twice, once with the simulator's instances mixed up, and a curated version."""
    root = tmp_path_factory.mktemp("world")
    size = {"height_px": SIZE_PX, "width_px": SIZE_PX, "taxonomy": "cityscapes19"}
    pool = source(root, "fleet", range(1000, 1016), "real", "pool", "oracle")
    test = source(root, "test", range(2000, 2012), "real", "test", "given")
    for name, mixed_up in (("frames", False), ("mixed_up", True)):
        simulator = source(root, f"simulator_{name}", range(72), "synthetic", "train", "given", mixed_up=mixed_up)
        take_in(root, name, {"fleet": pool, "simulator": simulator, "test": test}, root / "store", **size)
    curated = source(root, "curated", range(3000, 3016), "real", "train", "given")
    take_in(root / "curated", "version", {"curated": curated}, root / "store", **size)
    return root


GIVEN = {
    "taxonomy": "cityscapes19", "height_px": SIZE_PX, "width_px": SIZE_PX, "seed": 3,
    "network": {"arguments": {"width": 0.25, "dropout_quarter": 0.0, "dropout_eighth": 0.0}},
    "epochs": 6, "epoch_frames": 48, "batch_frames": 8, "learning_rate": 0.005, "pseudo_frames": 16,
    "student_epochs": 1, "detector_epochs": 8, "detector_width": 0.5, "detector_learning_rate": 0.005,
    "texture_share": 0.0, "score_threshold": 0.2,
}  # fmt: skip


def adapted(world: Path, folder: Path, frames: str = "frames", **changes: Any) -> Path:
    inputs = {"frames": [world / frames], "curated": [world / "curated"]}
    return run(adapt, inputs, "adaptation", folder, **(GIVEN | {"store": str(world / "store")} | changes))


@pytest.fixture(scope="module")
def honest(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return adapted(world, tmp_path_factory.mktemp("honest") / "adaptation")


def judged(adaptation: Path, folder: Path) -> dict[str, Any]:
    with contextlib.suppress(Refused):
        run(gate, {"subject": [adaptation]}, "verdict", folder, suite="adapt", profile="test")
    verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return verdict


def test_fusion_and_the_trusted_classes_are_told(honest: Path) -> None:
    figures = json.loads((honest / "adaptation.json").read_text())
    taxonomy = load_taxonomy("cityscapes19")
    foreground = dict(zip(taxonomy.classes, taxonomy.foreground, strict=True))
    for name in ("source_only", "fused", "pseudo"):
        by_class = figures["iou_by_class"][name]
        known = {True: [], False: []}
        for each, value in by_class.items():
            if value is not None:
                known[foreground[each]].append(value)
        assert figures[f"miou_{name}"] == pytest.approx(np.mean(known[True] + known[False]))
        assert figures[f"foreground_miou_{name}"] == pytest.approx(np.mean(known[True]))
        assert figures[f"background_miou_{name}"] == pytest.approx(np.mean(known[False]))
    assert figures["foreground_miou_fused"] > figures["foreground_miou_source_only"]
    assert figures["fusion_verdict"].startswith("Fusion is better") and figures["started_from"] == "scratch"
    assert figures["detector"]["instances"].keys() == {"person", "car", "truck"}
    assert figures["detector"]["judged_frames"] == 12
    assert figures["detector"]["ap50_masks_by_class"]["car"] > 0.3
    trust = {row["class"]: row for row in figures["trust"]}
    assert trust["car"]["trusted"] and trust["car"]["precision_detector"] > (trust["car"]["precision_plain"] or 0)
    assert not trust["bus"]["trusted"] and trust["bus"]["reason"] == "the detector was not taught this class"
    assert load_foreground(honest / "detector.safetensors").class_ids == (PERSON, CAR, TRUCK)


def test_no_frame_with_a_known_label_gets_a_pseudo_label(honest: Path) -> None:
    pseudo = pd.read_parquet(honest / "pseudo" / "manifest.parquet")
    assert sorted(pseudo.frame_id) == [f"f{seed:04d}" for seed in range(1000, 1016)]
    assert set(pseudo.label_source) == {"pseudo"} and set(pseudo.split) == {"train"}


def test_a_pool_of_which_every_label_is_known_is_refused() -> None:
    frames = pd.DataFrame({"frame_id": ["a", "b", "c"], "split": ["pool", "pool", "test"]})
    with pytest.raises(InputError, match="none of the pool is without a label"):
        networks._unlabelled(
            frames, frames[:2], build_parameters(adapt.AdaptParameters, GIVEN | {"store": "s"}, "adapt")
        )


def test_a_good_detector_passes_the_gate(honest: Path, tmp_path: Path) -> None:
    failed = {each["id"] for each in judged(honest, tmp_path / "verdict")["failed"]}
    assert not failed & {"detected_classes_kept", "detected_pixels_right"}


def test_a_detector_that_learned_mixed_up_classes_is_refused(world: Path, tmp_path: Path) -> None:
    adaptation = adapted(world, tmp_path / "adaptation", frames="mixed_up")
    verdict = judged(adaptation, tmp_path / "verdict")
    failed = {each["id"]: each for each in verdict["failed"]}
    assert verdict["decision"] == "refuse"
    assert {"detected_classes_kept", "detected_pixels_right"} <= failed.keys()
    assert "collapsed: car" in failed["detected_classes_kept"]["observed"]
    assert "person" in failed["detected_pixels_right"]["observed"]
    with pytest.raises(Refused, match=r"detected_classes_kept.*car"):
        run(gate, {"subject": [adaptation]}, "verdict", tmp_path / "again", suite="adapt", profile="test")
    figures = json.loads((adaptation / "adaptation.json").read_text())
    assert not any(row["trusted"] for row in figures["trust"]), (
        "what is wrong on curated frames must not reach the labels"
    )
    assert figures["labelling"]["chosen"] == figures["labelling"]["plain"]


QUICK = {"epochs": 1, "epoch_frames": 16, "pseudo_frames": 4, "detector_epochs": 0}


@pytest.fixture(scope="module")
def plain(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(world, tmp_path_factory.mktemp("plain") / "adaptation", **QUICK)


def test_without_a_detector_nothing_is_fused_and_the_figures_say_so(plain: Path, tmp_path: Path) -> None:
    figures = json.loads((plain / "adaptation.json").read_text())
    assert figures["miou_fused"] is None and figures["iou_by_class"]["fused"] is None and figures["detector"] is None
    assert figures["fusion_verdict"] == "No detector was trained, so nothing was fused."
    assert not (plain / "detector.safetensors").exists()
    unapplied = {each["id"] for each in judged(plain, tmp_path / "verdict")["not_checked"]}
    assert {"detected_classes_kept", "detected_pixels_right"} <= unapplied


@pytest.mark.parametrize("option", [{"average_decay": 0.9}, {"rare_class_temperature": 0.05}])
def test_the_options_of_the_student_take_effect(
    world: Path, plain: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    first = load_network(plain / "student.safetensors").state_dict()
    other = load_network(
        adapted(world, tmp_path / "adaptation", **QUICK, **option) / "student.safetensors"
    ).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_second_night_with_new_footage_takes_the_simulators_networks_as_they_are(
    world: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[str] = []

    def counted(*given: Any, what: str, **more: Any) -> Any:
        trainings.append(what)
        return train(*given, what=what, **more)

    monkeypatch.setattr(networks, "train", counted)
    frames = read_manifest(world / "frames" / "manifest.parquet")
    new = frames[frames.split == "pool"].assign(frame_id=lambda pool: "new_" + pool.frame_id)
    (tmp_path / "frames").mkdir()
    write_manifest(pd.concat([new, frames]), tmp_path / "frames" / "manifest.parquet")
    second = adapted(world, tmp_path / "second", frames=str(tmp_path / "frames"), **QUICK, student_epochs=2)
    assert trainings == ["adapt: with pseudo-labels"]
    for name in ("source_only.safetensors", "source.json"):
        assert (second / name).read_bytes() == (plain / name).read_bytes()
    for changes in ({"epochs": 2}, {"seed": 4}):
        adapted(world, tmp_path / str(changes), **(QUICK | changes))
    one_less = frames[frames.frame_id != frames.frame_id[frames.domain == "synthetic"].iloc[0]]
    write_manifest(one_less, tmp_path / "frames" / "manifest.parquet")
    adapted(world, tmp_path / "one_less", frames=str(tmp_path / "frames"), **QUICK)
    assert trainings.count("adapt: simulator alone") == 3


def trained(world: Path, adaptation: Path, base: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    inputs = {"frames": [world / "frames"], "curated": [world / "curated"], "adaptation": [adaptation], "base": [base]}
    names = ("taxonomy", "height_px", "width_px", "seed", "network", "batch_frames", "learning_rate")
    given = {name: GIVEN[name] for name in names} | {"store": str(world / "store"), "epochs": 2, "epoch_frames": 8}
    run(train_prune, inputs, "network", folder, **given, press_epochs=1, **changes)
    figures: dict[str, Any] = json.loads((folder / "network.json").read_text())
    return figures


def test_the_nights_network_goes_on_from_the_released_one(world: Path, plain: Path, tmp_path: Path) -> None:
    for name in ("nothing", "base"):
        (tmp_path / name).mkdir()
    first = trained(world, plain, tmp_path / "nothing", tmp_path / "first")
    assert (first["started_from"], first["start_reason"]) == ("scratch", "no network is released yet")
    (tmp_path / "base" / "champion.json").write_text('{"model_sha256": "ab"}')
    shutil.copy(tmp_path / "first" / "dense.safetensors", tmp_path / "base" / "champion_dense.safetensors")
    second = trained(world, plain, tmp_path / "base", tmp_path / "second")
    assert second["started_from"] == "champion" and second["miou_start"] == first["miou_dense"]
    assert (first["started_from_model"], second["started_from_model"]) == (None, "ab")
    third = trained(world, plain, tmp_path / "base", tmp_path / "third", start_from="scratch")
    assert {name: third[name] for name in ("miou_start", "miou_dense", "miou_pruned")} == {
        name: first[name] for name in ("miou_start", "miou_dense", "miou_pruned")
    }


def test_what_is_pruned_goes_on_from_the_dense_network_at_its_own_rate(
    world: Path, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    trained(world, plain, tmp_path / "nothing", tmp_path / "still", pruned_rate_factor=1e-9, press_share=1e-9)
    dense, pruned = (
        dict(load_network(tmp_path / "still" / f"{name}.safetensors").named_parameters())
        for name in ("dense", "pruned")
    )
    start = dict(load_network(plain / "student.safetensors").named_parameters())
    for name, value in dense.items():
        torch.testing.assert_close(pruned[name], value, rtol=0, atol=1e-6)
    assert max(float((start[name] - value).detach().abs().max()) for name, value in dense.items()) > 1e-3


def test_the_network_starts_from_a_file(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    given = {f"module.{name}": value for name, value in ERFNet(11, width=0.25).state_dict().items()}
    torch.save({"state_dict": given}, tmp_path / "weights.pt")
    network = GIVEN["network"] | {"weights": str(tmp_path / "weights.pt")}
    adapted(world, tmp_path / "adaptation", **QUICK | {"network": network})
    assert json.loads((tmp_path / "adaptation" / "adaptation.json").read_text())["started_from"] == "pretrained"
    said = capsys.readouterr().out
    assert (
        "does not fit: classifier.weight (shape 4x11x2x2, here 4x19x2x2)" in said and "from scratch: classifier" in said
    )
    with pytest.raises(InputError, match="no such file"):
        adapted(world, tmp_path / "other", **QUICK | {"network": network | {"weights": str(tmp_path / "absent.pt")}})


@pytest.mark.parametrize(
    "wrong",
    [{"detector_epochs": -1}, {"detector_width": 0.1}, {"detector_batch_frames": 1}, {"texture_share": 1.5},
     {"trust_detector": "some"}, {"average_decay": 1.0}, {"rare_class_temperature": -1.0},
     {"detector_learning_rate": 0.0}, {"score_threshold": -0.1}, {"class_score_thresholds": {"car": 2.0}}],
)  # fmt: skip
def test_values_out_of_range_are_refused(world: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        adapted(world, tmp_path / "adaptation", **(QUICK | wrong))
