"""The layouts in which data sets are found beside their publishers' own."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from perception.data.decoding import BadFrame
from perception.data.folder_frames import recognise_format
from perception.data.readers import READERS
from perception.data.taxonomies import drawn_colors, load_taxonomy
from perception.errors import InputError
from tests.perception.data.readers.layouts import SIZE, camvid, grey, label_of, mapillary, picture, png, put, read


def flat(root: Path) -> Path:
    """Vistas as it was first published: PART/labels, PART/instances and config.json."""
    mapillary(root)
    for split in [path for path in root.iterdir() if path.is_dir()]:
        (split / "v1.2" / "labels").rename(split / "labels")
        (split / "v1.2").rmdir()
        put(split / "instances" / "x.png", b"not read")
    (root / "config_v1.2.json").rename(root / "config.json")
    return root


def test_vistas_as_first_published(tmp_path: Path) -> None:
    expected, root = read("mapillary_v1_2", mapillary(tmp_path / "new")), flat(tmp_path / "old")
    frames = read("mapillary_v1_2", root)
    assert [frame.frame_id for frame in frames] == [frame.frame_id for frame in expected]
    assert all((label_of("mapillary_v1_2", frame) == 13).all() for frame in frames)
    assert recognise_format(root, None).name == "mapillary_v1_2"
    content = json.loads((root / "config.json").read_text())
    content["labels"][0]["name"] = "animal--dog"
    put(root / "config.json", json.dumps(content).encode())
    with pytest.raises(InputError, match=r"config\.json: class 0 is 'animal--dog'"):
        read("mapillary_v1_2", root)


def kaggle(root: Path, colours: np.ndarray) -> Path:
    for stem in ("0016E5_06690", "0006R0_f00930"):
        put(root / "val" / f"{stem}.png", picture("PNG"))
        put(root / "val_labels" / f"{stem}_L.png", png(colours))
    put(root / "class_dict.csv", b"name,r,g,b\nSky,128,128,128\n")
    return root


def test_camvid_of_kaggle_is_drawn_in_colours(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0], pixels[1], pixels[2] = (128, 128, 128), (128, 0, 192), (192, 64, 128)
    root = kaggle(tmp_path, pixels)
    reader = recognise_format(root, "val")
    frames = read("camvid", root, "val")
    assert reader.name == "camvid" and [frame.frame_id for frame in frames] == [
        "camvid_0006R0_f00930",
        "camvid_0016E5_06690",
    ]
    assert label_of("camvid", frames[0])[:, 0].tolist() == [0, 3, 8, 255]
    put(root / "val_labels" / "0016E5_06690_L.png", png(np.full((*SIZE, 3), 7, np.uint8)))
    with pytest.raises(
        BadFrame, match=r"0016E5_06690_L\.png: label holds colour \(7, 7, 7\), which is none of CamVid's"
    ):
        READERS["camvid"].label(frames[1])
    put(root / "val_labels" / "0016E5_06690_L.png", grey(np.full(SIZE, 7)))
    with pytest.raises(BadFrame, match="must be an 8-bit PNG in CamVid's colours"):
        READERS["camvid"].label(frames[1])


def test_segnets_own_labels_stay_as_they_are(tmp_path: Path) -> None:
    frame = read("camvid", camvid(tmp_path), "val")[0]
    assert frame.label_path is not None and READERS["camvid"].label(frame) == frame.label_path.read_bytes()


def test_every_class_of_camvid_has_its_colour_once() -> None:
    table = yaml.safe_load(Path("perception/data/taxonomy_tables/camvid11.yaml").read_text())
    drawn = [tuple(colour) for colours in table["drawn"].values() for colour in colours.values()]
    assert len(drawn) == 32 == len(set(drawn)) and set(table["drawn"]) == {*load_taxonomy("camvid11").classes, "void"}
    classes = load_taxonomy("camvid11")
    for number, colour in enumerate(classes.colors.tolist()):
        if classes.classes[number] != "pavement":  # the SegNet distribution draws it in a colour of its own
            assert drawn_colors("camvid11")[tuple(colour)] == number
