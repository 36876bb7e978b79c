"""IoU by class and category on a folder in the Cityscapes layout equals what cityscapesScripts prints for the same folder."""

import contextlib
import importlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception.data.taxonomies import load_taxonomy
from pipelines.commands.program import main
from pipelines.local.evaluation import figures_table
from tests.components.test_evaluate import HEIGHT, QUICK, TOLD, WIDTH, export

CITIES = {"aachen": 3, "bonn": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a Cityscapes folder whose labels hold every id, void ones too, but no train."""
    random = np.random.default_rng(0)
    ids = np.array([value for value in range(34) if value != 31], np.uint8)
    for city, frames in CITIES.items():
        for number in range(frames):
            stem = f"{city}_000000_{number:06d}"
            for part, suffix in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
                (tmp_path / "data" / part / "val" / city).mkdir(parents=True, exist_ok=True)
                shape = (HEIGHT, WIDTH, 3) if part == "leftImg8bit" else (HEIGHT // 4, WIDTH // 4)
                pixels = random.integers(0, 256, shape, np.uint8) if len(shape) == 3 else random.choice(ids, shape)
                pixels = pixels if len(shape) == 3 else pixels.repeat(4, 0).repeat(4, 1)
                Image.fromarray(pixels).save(tmp_path / "data" / part / "val" / city / f"{stem}_{suffix}.png")
    return tmp_path


def by_cityscapesscripts(root: Path, predictions: Path) -> tuple[str, dict[str, str]]:
    scripts = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

    back = np.zeros(256, np.uint8)
    for value, class_id in enumerate(load_taxonomy("cityscapes_ids").raw):
        if class_id < 19:
            back[class_id] = value
    pairs = []
    for truth in sorted((root / "data" / "gtFine").rglob("*_labelIds.png")):
        stem = truth.name.removesuffix("_gtFine_labelIds.png")
        path = root / f"{stem}_pred.png"
        Image.fromarray(back[np.asarray(Image.open(predictions / f"cityscapes_{stem}.png"))]).save(path)
        pairs.append((str(path), str(truth)))
    scripts.args.JSONOutput, scripts.args.quiet, scripts.args.colorized = False, False, False
    scripts.args.evalInstLevelScore = False
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        scripts.evaluateImgLists([p for p, _ in pairs], [t for _, t in pairs], scripts.args)
    text = printed.getvalue()
    rows = dict(re.findall(r"^([a-z ]+?)\s*: +(nan|\d\.\d{3})", text, re.M))
    mean = re.findall(r"^Score Average\s*: +(\d\.\d{3})", text, re.M)
    return mean[0], rows


def test_iou_equals_cityscapesscripts_as_printed(folder: Path) -> None:
    model = export(folder / "net.onnx", 3, **TOLD)
    sets = [word for name, value in QUICK.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    out = folder / "out"
    assert main(["evaluate", "--model", str(model), "--data", str(folder / "data"), "--out", str(out), *sets]) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    mean, theirs = by_cityscapesscripts(folder, out / "predictions")
    ours = {line.split("  ")[0].strip(): line.split()[-1] for line in figures_table(figures, out).splitlines()[:26]}
    for name in load_taxonomy("cityscapes19").classes:
        assert ours[name] == theirs[name.replace("_", " ")], name
    for name in figures["iou_by_category"]:
        assert ours[f"category {name}"] == theirs[name], name
    assert theirs["train"] != "nan" or figures["iou_by_class"]["train"] is None
    assert f"{figures['miou']:.3f}" == mean
