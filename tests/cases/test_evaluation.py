"""What networks and test sets of others do to an evaluation: sizes, NaN, argmax, pins, names, frames that are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.metrics.segmentation import check_logits
from pipelines.local.evaluation import evaluate_folder
from tests.cases.test_decoders import saved, turned
from tests.perception.data.readers.layouts import grey, put

CAMVID = load_taxonomy("camvid11")
LABEL = np.repeat(np.array([0, 0, 3, 3, 8, 8, 5, 5], np.uint8)[:, None], 16, axis=1)
GIVEN = {"shift_frames": 1, "worst_frames": 2, "latency_repeats": 2, "latency_batch_frames": [1]}


def network(path: Path, size: tuple[int, int] = (8, 16), last: str = "", **told: str) -> Path:
    """Write a network that knows a class by its colour: minus the squared distance to it, up to a constant a pixel.

    last: "nan" spoils every logit, "some" those of one class and bright pixels, "argmax" gives class numbers.
    """
    colours = CAMVID.colors.astype(np.float32) / 255
    weights = {
        "w": 200 * colours[:, :, None, None],
        "b": -100 * (colours**2).sum(1),
        "half": np.full((1, 1, 1, 1), 0.5, np.float32),
    }
    kind, shape = TensorProto.FLOAT, ["n", len(colours), *size]
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y" if not last else "logits"])]
    if last == "nan":
        nodes += [
            helper.make_node("Sub", ["logits", "logits"], ["zero"]),
            helper.make_node("Div", ["zero", "zero"], ["y"]),
        ]
    elif last == "some":
        nodes += [helper.make_node("Sqrt", ["logits"], ["y"])]
    elif last == "argmax":
        kind, shape = TensorProto.INT64, ["n", 1, *size]
        nodes += [helper.make_node("ArgMax", ["logits"], ["y"], axis=1)]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("y", kind, shape)], tensors,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, told or {"taxonomy": "camvid11"})
    onnx.save(model, path)
    return path


def camvid(
    root: Path, stems: tuple[str, ...] = ("0016E5_1", "0016E5_2", "0006R0_1"), label: np.ndarray = LABEL
) -> Path:
    from PIL import Image

    for stem in stems:
        put(root / "val" / f"{stem}.png", saved(Image.fromarray(CAMVID.colors[label])))
        put(root / "valannot" / f"{stem}.png", grey(label))
    return root


def judged(tmp_path: Path, model: Path, data: Path, champion: Path | None = None, **given: Any) -> Any:
    return evaluate_folder(model, data, tmp_path / "out", champion=champion, given=GIVEN | given)


@pytest.mark.parametrize("size", [(8, 16), (13, 21), (1, 1)])
def test_a_network_of_any_fixed_size_is_judged(size: tuple[int, int], tmp_path: Path) -> None:
    figures = judged(tmp_path, network(tmp_path / "x.onnx", size), camvid(tmp_path / "data"))
    assert figures["frames"] == 3
    if size == (8, 16):
        assert figures["miou"] == 1


@pytest.mark.parametrize(("last", "share"), [("nan", r"100\.0%"), ("some", r"\d+\.\d%")])
def test_nan_is_told_with_file_and_frame_and_nothing_is_promoted_against_it(
    last: str, share: str, tmp_path: Path
) -> None:
    good, bad, data = (
        network(tmp_path / "good.onnx"),
        network(tmp_path / "bad.onnx", last=last),
        camvid(tmp_path / "data"),
    )
    for model, champion in ((bad, None), (good, bad)):
        with pytest.raises(
            InputError, match=rf"bad\.onnx on frame camvid_\w+: gives NaN or infinity in {share} of its logits"
        ):
            judged(tmp_path, model, data, champion)
        assert not (tmp_path / "out").exists()


def test_a_network_that_gives_classes_gets_the_right_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"gives tensor\(int64\) .* must give logits, one a class; export it without the argmax"
    ):
        judged(tmp_path, network(tmp_path / "x.onnx", last="argmax"), camvid(tmp_path / "data"))


def test_the_pin_covers_ids_pixels_and_labels(tmp_path: Path) -> None:
    model = network(tmp_path / "x.onnx")
    pin = judged(tmp_path, model, camvid(tmp_path / "data"))["test_set_sha256"]
    assert judged(tmp_path, model, camvid(tmp_path / "same"), test_set_sha256=pin)["test_set_sha256"] == pin
    others = {
        "pixels": lambda root: put(root / "val" / "0016E5_1.png", (root / "val" / "0016E5_1.png").read_bytes() + b"\0"),
        "labels": lambda root: put(root / "valannot" / "0016E5_1.png", grey(LABEL[::-1])),
        "ids": lambda root: [
            (root / kind / "0016E5_1.png").rename(root / kind / "0016E5_9.png") for kind in ("val", "valannot")
        ],
    }
    for name, change in others.items():
        change(camvid(tmp_path / name))
        with pytest.raises(InputError, match=f"test_set_sha256 = {pin}: the test set at hand is"):
            judged(tmp_path, model, tmp_path / name, test_set_sha256=pin)


def test_names_with_blanks_and_accents_are_judged(tmp_path: Path) -> None:
    figures = judged(
        tmp_path, network(tmp_path / "x.onnx"), camvid(tmp_path / "data", ("0016E5 front 01", "0016E5_café_02"))
    )
    assert figures["frames"] == 2 and figures["miou"] == 1
    assert len(list((tmp_path / "out" / "predictions").iterdir())) == 2
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["frames"] == 2


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_image_is_told(orientation: int, tmp_path: Path) -> None:
    data = camvid(tmp_path / "data", ("0016E5_1",))
    put(data / "val" / "0016E5_1.png", turned(CAMVID.colors[LABEL], orientation))
    with pytest.raises(InputError, match=rf"0016E5_1\.png: has EXIF orientation {orientation}"):
        judged(tmp_path, network(tmp_path / "x.onnx"), data)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((1, 4, 4)), "must be logits"),
        (np.zeros((4, 4)), "must be logits"),
        (np.full((3, 4, 4), np.inf), "NaN or infinity"),
    ],
)
def test_logits_that_are_none(logits: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_logits(logits, 3, "x")
    check_logits(np.zeros((3, 4, 4), np.float32), 3, "x")
