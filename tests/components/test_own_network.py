"""Networks that are not ERFNet go through every stage that trains, scores, shrinks, exports and judges one."""

import hashlib
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from components import adapt, compare, compress, ensemble, evaluate, score, train_prune
from perception.errors import InputError
from perception.models.checkpoint import load_network
from perception.models.registry import known_networks
from perception.models.settings import NetworkChoice
from tests.components.intake import empty_base, run, take_in

HEIGHT, WIDTH = 32, 64
SIZE = {"height_px": HEIGHT, "width_px": WIDTH, "taxonomy": "cityscapes19"}
PAGE = Path(__file__).parents[2] / "docs" / "own_network.md"
CHOICES = {
    "unet": {"name": "street_networks:UNet", "arguments": {"width": 16, "levels": 3}},
    "efficientnet_lite": {"name": "efficientnet_lite"},
    "segformer": {
        "name": "street_networks:SegFormer",
        "arguments": {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "decoder_hidden_size": 16,
            "num_attention_heads": [1, 2, 2, 4],
        },
    },
}


@pytest.fixture
def street_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The code on the page as a module of a user; SegFormer's where its library is installed."""
    unet, segformer = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(unet.strip().splitlines()) <= 30
    code = unet + (segformer if "transformers" in sys.modules else "")
    (tmp_path / "street_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "street_networks", raising=False)
    return importlib.import_module("street_networks")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a night has before its networks: frames of a fleet, a simulator and a test set, and a curated version."""
    root = tmp_path_factory.mktemp("night")
    fleet = scenes(0, "street", "real", "pool", "oracle", initial_labelled_frames=3)
    simulator, test = scenes(10, "simulator", "synthetic", "train"), scenes(20, "street", "real", "test")
    frames = take_in(root, "frames", {"fleet": fleet, "simulator": simulator, "test": test}, root / "store", **SIZE)
    labelled = scenes(30, "street", "real", "train")
    take_in(root / "curated", "version", {"labelled": labelled}, root / "store", **SIZE)
    return {"frames": frames, "base": empty_base(root / "base"), "curated": root / "curated", "store": root / "store"}


def scenes(
    first: int, rendering: str, domain: str, split: str, labels: str = "given", **more: int
) -> dict[str, object]:
    """Name a source of four rendered drives with two frames each."""
    given = {"rendering": rendering, "domain": domain, "split": split, "labels": labels, "first_drive": first}
    return {"format": "scenes", "drives": 4, "frames_per_drive": 2, **given, **more}


def shipped(night: dict[str, Path], place: Path, **network: Any) -> dict[str, Path]:
    """Run the stages one after the other and return what each wrote."""
    files = {name: path for name, path in night.items() if name != "store"}

    def stage(module: ModuleType, output: str, **given: Any) -> None:
        names = [port.name for port in module.STAGE.inputs if port.name in files]
        wanted = {"store": str(night["store"]), "seed": 1, **SIZE, **given}
        files[output] = run(module, {name: [files[name]] for name in names}, output, place / output, **wanted)

    learning = {"epochs": 2, "epoch_frames": 8, "batch_frames": 4, "learning_rate": 1e-3, **network}
    chosen = {"network": network["network"]}
    stage(ensemble, "ensemble", **learning, kind="dpe", members=4)
    stage(score, "scores", **chosen, shard=0, shard_count=1)
    stage(adapt, "adaptation", **learning, pseudo_frames=3, student_epochs=1, detector_epochs=1)
    stage(train_prune, "network", **learning, press_epochs=1, latency_share=0.8)
    stage(compress, "compressed", **chosen, latency_repeats=3, least_saving=0.0, energy=0.9)
    stage(evaluate, "evaluation", shift_frames=1, latency_repeats=2, worst_frames=1)
    return files


@pytest.mark.usefixtures("street_networks")
@pytest.mark.parametrize(("name", "optimiser"), [("unet", "adam"), ("efficientnet_lite", "adamw")])
def test_a_network_goes_through_the_night(night: dict[str, Path], tmp_path: Path, name: str, optimiser: str) -> None:
    files = shipped(night, tmp_path, network=CHOICES[name], optimiser=optimiser, channels_last=True)
    figures = json.loads((files["network"] / "network.json").read_text())
    assert figures["parameters_pruned"] < 0.9 * figures["parameters_dense"]
    embeddings = np.stack(pd.read_parquet(files["scores"] / "scores.parquet").embedding)
    assert embeddings.shape[1] == {"unet": 16, "efficientnet_lite": 320}[name] and np.ptp(embeddings, axis=0).max() > 0
    check_shipped(files, NetworkChoice(**CHOICES[name]))
    check_int8(night, files, tmp_path / "int8", CHOICES[name])
    check_heads(night, files, tmp_path, CHOICES[name])


def check_int8(night: dict[str, Path], files: dict[str, Path], place: Path, network: dict[str, Any]) -> None:
    """Ship the same network in int8, and judge the file that ships."""
    inputs = {name: [files[name]] for name in ("frames", "network")}
    given = {"store": str(night["store"]), "seed": 1, **SIZE, "network": network, "latency_repeats": 3}
    folder = run(compress, inputs, "compressed", place, **given, precision="int8", calibration_frames=4)
    card, before = (json.loads((each / "card.json").read_text()) for each in (folder, files["compressed"]))
    assert (card["precision"], before["precision"]) == ("int8", "float32")
    assert card["parameters"] <= before["parameters_dense"] and card["bytes"] < before["bytes"]
    assert card["onnx_sha256"] == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert 0 <= card["miou"] <= 1 and card["export_max_abs_error"] < 1e-3


def check_heads(night: dict[str, Path], files: dict[str, Path], place: Path, network: dict[str, Any]) -> None:
    """Compare by heads on the ensemble's frozen encoders, where the network has one that is called as a whole."""
    pool = pd.read_parquet(night["frames"] / "manifest.parquet").query("split == 'pool'").frame_id.to_numpy()
    selection = place / "selection"
    selection.mkdir()
    pd.DataFrame({"frame_id": pool[:2]}).to_parquet(selection / "selected.parquet")
    pd.DataFrame({"frame_id": pool[[2, 3, 3, 4]], "draw": [0, 0, 1, 1]}).to_parquet(selection / "control.parquet")
    inputs = {name: [files[name]] for name in ("frames", "base", "ensemble")} | {"selection": [selection]}
    given = {"store": str(night["store"]), "seed": 1, **SIZE, "network": network, "epochs": 1, "epoch_frames": 8}
    given |= {"batch_frames": 4, "learning_rate": 1e-3, "seeds": 3, "trained": "head"}
    if network["name"] != "efficientnet_lite":
        with pytest.raises(InputError, match=r"UNet: has no module `encoder`.*compare\.trained: network"):
            run(compare, inputs, "comparison", place / "comparison", **given)
        return
    folder = run(compare, inputs, "comparison", place / "comparison", **given)
    found = json.loads((folder / "comparison.json").read_text())
    assert len(set(found["miou_selected"])) == len(set(found["miou_random"])) == 3
    again = run(compare, inputs, "comparison", place / "again", **given)
    assert json.loads((again / "comparison.json").read_text()) == found


def check_shipped(files: dict[str, Path], choice: NetworkChoice) -> None:
    """Hold the exported file to the weights beside it, and see that it was judged."""
    network = load_network(files["compressed"] / "model.safetensors", known_networks(choice))
    session = onnxruntime.InferenceSession(str(files["compressed"] / "model.onnx"))
    frames = np.random.default_rng(0).random((2, 3, HEIGHT, WIDTH), np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(frames)).numpy()
    found = session.run(None, {"image": frames})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert json.loads((files["evaluation"] / "evaluation.json").read_text())["frames"] == 8


def test_a_network_that_is_not_followed_ships_unpruned(
    night: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("transformers")
    request.getfixturevalue("street_networks")
    choice = CHOICES["segformer"]
    with pytest.raises(InputError, match=r"layer model\.segformer\.\S+attention of network SegFormer .*prune: none"):
        shipped(night, tmp_path / "refused", network=choice)
    assert not list((tmp_path / "refused").rglob("*.safetensors"))
    files = shipped(night, tmp_path / "night", network=choice, prune="none")
    figures = json.loads((files["network"] / "network.json").read_text())
    assert figures["parameters_pruned"] == figures["parameters_dense"]
    check_shipped(files, NetworkChoice(**choice))
