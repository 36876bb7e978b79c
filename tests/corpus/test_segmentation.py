"""Every published layout, and what is done to its files, is read to the same frames and labels; else what is wrong is told."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

from perception.data.decoding import BadFrame
from perception.data.folder_frames import FolderFrames, recognise_format
from perception.data.loading import LoadSettings
from perception.data.manifest import FRAME_ID_RULE
from perception.data.readers import RawFrame, open_reader
from perception.errors import InputError
from pipelines.local.evaluation import RESULT, evaluate_folder, figures_table
from tests.corpus.layouts import LAYOUTS, SIZE, Layout, Tree, shade, truth
from tests.corpus.naming import cases, each
from tests.corpus.variants import (
    NAMES,
    SAME,
    applies,
    half_the_labels,
    one_bad_size,
    one_truncated,
    orientation,
    own_names,
)

SETTINGS = LoadSettings(height_px=SIZE[0], width_px=SIZE[1], taxonomy="cityscapes19")


def listed(layout: Layout, root: Path, labels_required: bool = False) -> list[RawFrame]:
    return list(open_reader(layout.format).frames(root, layout.part, labels_required))


def opened(layout: Layout, root: Path) -> FolderFrames:
    return FolderFrames(open_reader(layout.format), listed(layout, root), SETTINGS)


def check_frame(frames: FolderFrames, index: int, number: int) -> None:
    """Check that the frame at a place is the one that was written as `number`."""
    image, label = frames.full_image(index), frames.full_label(index)
    assert image.shape == (*SIZE, 3) and np.abs(image.astype(int) - shade(number)).max() <= 2
    assert np.array_equal(label, truth(number))


def check_all(layout: Layout, root: Path) -> None:
    frames = opened(layout, root)
    assert list(frames.about().frame_id) == [layout.frame_id.format(stem=stem) for stem in layout.stems]
    for number in range(len(layout.stems)):
        check_frame(frames, number, number)


@cases((name, variant) for name, layout in LAYOUTS.items() for variant in SAME if applies(variant, layout))
def test_read(name: str, variant: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    check_all(layout, layout.lay_out(SAME[variant](layout, layout.files()), tmp_path))


@each(LAYOUTS, "required")
def test_read_where_every_label_must_be_there(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    found = listed(layout, layout.lay_out(layout.files(), tmp_path), labels_required=True)
    assert [frame.label_path is not None for frame in found] == [True] * len(layout.stems)


@each((name for name, layout in LAYOUTS.items() if layout.pack is None), "links")
def test_read_through_links(name: str, tmp_path: Path) -> None:
    layout, tree = LAYOUTS[name], LAYOUTS[name].files()
    layout.lay_out(tree, tmp_path / "kept")
    for path in tree:
        (tmp_path / "shown" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shown" / path).symlink_to(tmp_path / "kept" / path)
    check_all(layout, tmp_path / "shown")


@each(LAYOUTS, "recognised")
def test_recognised(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    assert recognise_format(layout.lay_out(layout.files(), tmp_path), layout.part).name == layout.format


@each((name for name, layout in LAYOUTS.items() if layout.free_names), "own names")
def test_names_with_blanks_and_accents(name: str, tmp_path: Path) -> None:
    layout = own_names(LAYOUTS[name])
    frames = opened(layout, layout.lay_out(layout.files(), tmp_path))
    ids = list(frames.about().frame_id)
    assert len(set(ids)) == len(NAMES) and all(re.fullmatch(FRAME_ID_RULE, each) for each in ids)
    for number, index in enumerate(np.argsort([frames.full_image(index).mean() for index in range(len(NAMES))])):
        check_frame(frames, int(index), number)


@each(LAYOUTS, "half")
def test_half_of_the_labels(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    root = layout.lay_out(half_the_labels(layout, layout.files()), tmp_path)
    assert [frame.label_path is not None for frame in listed(layout, root)] == [False, False, True, True]
    frames = opened(layout, root)
    for index, number in enumerate((2, 3)):
        check_frame(frames, index, number)
    with pytest.raises(InputError, match=r"without label|no label"):
        listed(layout, root, labels_required=True)


@each(LAYOUTS, "bad size")
def test_one_label_of_another_size(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    frames = opened(layout, layout.lay_out(one_bad_size(layout, layout.files()), tmp_path))
    with pytest.raises(BadFrame, match=r"label is 16x7 px, its image 16x8 px, must be equal"):
        frames.full_label(0)
    for number in (1, 2, 3):
        check_frame(frames, number, number)


@each(LAYOUTS, "truncated")
def test_one_truncated_image(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    frames = opened(layout, layout.lay_out(one_truncated(layout, layout.files()), tmp_path))
    with pytest.raises(BadFrame, match=r"truncated|not a readable"):
        frames.full_image(0)
    for number in (1, 2, 3):
        check_frame(frames, number, number)


@each(LAYOUTS, "EXIF turned")
def test_an_image_with_an_orientation_is_told(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    root = layout.lay_out(orientation(layout, layout.files(), 3), tmp_path)
    with pytest.raises(InputError, match="EXIF"):
        opened(layout, root).without_broken()


@each((name for name, layout in LAYOUTS.items() if layout.codes == (7, 26, 23, 0)), "cityscapesScripts")
def test_labels_are_those_of_cityscapesscripts(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    root = layout.lay_out(layout.files(), tmp_path)
    theirs = np.array([id2label[value].trainId for value in range(34)])
    frames = opened(layout, root)
    for number, path in enumerate(layout.labels()):
        expected = theirs[np.asarray(Image.open(root / path))]
        assert np.array_equal(frames.full_label(number), expected)


# ---------------------------------------------------------------- make evaluate


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network of one convolution for images of SIZE; what it says is worth nothing."""
    weights = np.random.default_rng(0).normal(size=(19, 3, 1, 1)).astype(np.float32)
    shape = onnx.helper.make_tensor_value_info
    images, logits = (
        shape(name, onnx.TensorProto.FLOAT, ("n", channels, *SIZE)) for name, channels in (("x", 3), ("y", 19))
    )
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [images], [logits], [onnx.numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(model, {"taxonomy": "cityscapes19"})
    onnx.save(model, path := tmp_path_factory.mktemp("network") / "net.onnx")
    return path


def spoilt(layout: Layout) -> Tree:
    """Return the set without its first two labels and with the third of another size."""
    low = one_bad_size(layout, layout.files())[layout.labels()[0]]
    return half_the_labels(layout, layout.files()) | {layout.labels()[2]: low}


QUICK = {"shift_frames": 0, "latency_batch_frames": (), "worst_frames": 1}


@each(LAYOUTS, "evaluated")
def test_an_evaluation_says_what_it_found_judged_and_left_out(name: str, network: Path, tmp_path: Path) -> None:
    layout, out = LAYOUTS[name], tmp_path / "out"
    root = layout.lay_out(spoilt(layout), tmp_path / "data")
    figures = evaluate_folder(network, root, out, format=layout.format, part=layout.part or "", given=QUICK)
    written = json.loads((out / RESULT).read_text())
    assert (written["found"], written["judged"]) == (4, 1)
    *unlabelled, low = written["left_out"]
    assert [Path(one["path"]).name for one in unlabelled] == [Path(image).name for image in layout.images()[:2]]
    assert {one["rule"] for one in unlabelled} == {"has no label"} and "16x7 px" in low["rule"]
    page, table = (out / "report.html").read_text(), figures_table(figures, out)
    assert "4 frames found, 1 judged, 3 left out" in page and "4 found, 1 judged, 3 left out" in table
    for one in written["left_out"]:
        assert one["rule"] in page and one["path"] in table
