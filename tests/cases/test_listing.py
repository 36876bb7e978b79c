"""What systems and other tools do to folders, names and text: hidden files, byte order marks, backslashes, accents."""

import codecs
import io
import json
import re
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from components.stage.parameters import read_section
from perception.data.annotation import read_label
from perception.data.classification.files import list_class_folders
from perception.data.decoding import BadFrame
from perception.data.detection import read_bdd100k_boxes, read_coco, read_kitti
from perception.data.files import names_in, paths_below, read_text, relative_parts
from perception.data.manifest import FRAME_ID_RULE
from perception.data.readers import READERS
from perception.data.readers.layout import frame_id_of
from perception.data.shards import read_shard
from perception.data.store import FolderStore
from perception.errors import InputError
from perception.quality.suites import read_yaml
from tests.perception.data.annotation.batches import HEIGHT, WIDTH, annotate, box, labels_in, outline, png, returned
from tests.perception.data.annotation.conftest import drop, store
from tests.perception.data.readers.layouts import (
    LAYOUTS,
    SIZE,
    bdd100k,
    camvid,
    grey,
    picture,
    put,
    read,
    scenes,
    touch,
)

__all__ = ["drop", "store"]
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X"


@pytest.mark.parametrize("format", LAYOUTS)
def test_what_a_mac_leaves_beside_every_file_changes_nothing(format: str, tmp_path: Path) -> None:
    root = LAYOUTS[format](tmp_path)
    expected = read(format, root)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        put(path.with_name(f"._{path.name}"), APPLE_DOUBLE)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        put(folder / ".DS_Store", b"\0")
        put(folder / "__MACOSX" / "._x.png", APPLE_DOUBLE)
    assert read(format, root) == expected


def write_tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            data = {".png": grey(np.full(SIZE, 3)), ".jpg": picture("JPEG")}.get(Path(name).suffix, b"{}")
            member = tarfile.TarInfo(name)
            data = APPLE_DOUBLE if "._" in name else b"" if name.endswith("/") else data
            member.size, member.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(data))
    return path


TAR_NAMES = {
    "dot slash": ("./", "./1.jpg", "./1.label.png", "./2.jpg", "./2.label.png"),
    "AppleDouble": ("._1.jpg", "1.jpg", "._1.label.png", "1.label.png", "2.jpg", "./._2.jpg", "2.label.png"),
    "backslash": (".\\1.jpg", ".\\1.label.png", ".\\2.jpg", ".\\2.label.png"),
    "archived with its rubbish": ("1.jpg", "1.label.png", "__MACOSX/1.jpg", "2.jpg", "2.label.png", ".DS_Store"),
}


@pytest.mark.parametrize("kind", TAR_NAMES)
def test_tars_of_other_archivers_hold_their_frames_and_nothing_else(kind: str, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train-0.tar", *TAR_NAMES[kind])
    put(tmp_path / "._train-0.tar", APPLE_DOUBLE)
    frames = read("webdataset", tmp_path)
    assert [frame.frame_id for frame in frames] == ["1", "2"]
    assert READERS["webdataset"].image(frames[0]) == picture("JPEG")
    assert [key for key, _ in read_shard(tar)] == ["1", "2"]


def test_folders_are_listed_the_same_way_everywhere(tmp_path: Path) -> None:
    touch(
        tmp_path / "train" / "car" / "a.jpg",
        tmp_path / "train" / "car" / "._a.jpg",
        tmp_path / "train" / ".x" / "b.jpg",
    )
    touch(tmp_path / "train" / "__MACOSX" / "c.jpg", tmp_path / "train" / "car" / ".DS_Store")
    assert list_class_folders(tmp_path, "train").classes == ("car",) and len(list_class_folders(tmp_path, "train")) == 1
    assert names_in(tmp_path / "train") == ["car"]
    assert paths_below(tmp_path / "train") == [tmp_path / "train" / "car", tmp_path / "train" / "car" / "a.jpg"]


# ---------------------------------------------------------------- other tools' files beside labels


@pytest.mark.parametrize(("format", "folder"), [("gta5", "labels"), ("synthia", "GT/LABELS"), ("camvid", "valannot")])
def test_files_named_after_a_label_are_none(format: str, folder: str, tmp_path: Path) -> None:
    root = LAYOUTS[format](tmp_path)
    expected = read(format, root)
    for path in sorted((root / folder).iterdir()):
        put(path.with_name(f"{path.stem}_labelTrainIds.png"), grey(np.full(SIZE, 1)))
        put(path.with_name(f"{path.stem} (1).png"), b"x")
    put(root / "sample_class_stats.json", b"[]")
    assert read(format, root) == expected


def test_a_label_whose_image_is_gone_is_still_told(tmp_path: Path) -> None:
    root = camvid(tmp_path)
    put(root / "valannot" / "0016E5_07960.png", b"x")
    with pytest.raises(InputError, match=r"0016E5_07960\.png: label without image"):
        read("camvid", root)
    put(root / "val" / "0016E5.jpg", picture("JPEG"))  # has no label of its own, beside which another could lie
    with pytest.raises(InputError, match=r"0016E5_07960\.png: label without image"):
        read("camvid", root)


# ---------------------------------------------------------------- text


TEXTS = {"plain": b"", "UTF-8 with a mark": codecs.BOM_UTF8}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_read_with_and_without_a_byte_order_mark(kind: str, tmp_path: Path) -> None:
    mark = TEXTS[kind]
    assert read_text(put_at(tmp_path / "a", mark + "é\r\n".encode())) == "é\r\n"
    assert read_text(put_at(tmp_path / "b", "é".encode("utf-16"))) == "é"
    root = scenes(tmp_path / "scenes")
    expected = read("scenes_folder", root)
    put(root / "frames.csv", mark + (root / "frames.csv").read_bytes())
    assert read("scenes_folder", root) == expected
    root = bdd100k(tmp_path / "bdd")
    for path in root.rglob("*.json"):
        put(path, mark + path.read_bytes())
    assert read("bdd100k", root)[0].weather == "cloudy"
    put(tmp_path / "kitti/training/image_2/0.png", picture("PNG"))
    put(tmp_path / "kitti/training/label_2/0.txt", mark + b"Car 0 0 0 1 1 3 3 0 0 0 0 0 0 0\r\n")
    assert len(read_kitti(tmp_path / "kitti").frames[0].boxes) == 1


def put_at(path: Path, data: bytes) -> Path:
    put(path, data)
    return path


def test_a_drop_that_went_through_windows_and_a_mac(drop: Path, store: FolderStore) -> None:
    outline(drop, "frame0", [{"label": "road", "polygon": box(0, 0, 31, 23)}])
    put(drop / "labels" / "frame1.PNG", png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    annotate(drop, [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    coco = json.loads((drop / "coco.json").read_text())
    for image in coco["images"]:
        image["file_name"] = "..\\" + image["file_name"].replace("/", "\\")
    (drop / "coco.json").write_text(json.dumps(coco))
    for path in [path for path in drop.rglob("*") if path.is_file()]:
        if path.suffix == ".json":
            put(path, codecs.BOM_UTF8 + path.read_bytes())
        put(path.with_name(f"._{path.name}"), APPLE_DOUBLE)
    put(drop.parent / "__MACOSX" / "drop.json", APPLE_DOUBLE)
    labels = labels_in(drop.parent, store)
    assert sorted(labels) == ["frame0", "frame1", "frame2"]
    assert all((label == 0).any() for label in labels.values())


def test_a_label_file_that_is_not_whole_costs_its_own_frame_only(drop: Path, store: FolderStore) -> None:
    put(drop / "polygons" / "frame0_polygons.json", b"{")
    outline(drop, "frame1", [{"label": "road", "polygon": box(0, 0, 31, 23)}])
    broken, sound = returned(drop)
    with pytest.raises(BadFrame, match=r"frame0_polygons\.json: not a JSON file"):
        read_label(broken, "cityscapes19", store)
    assert sound.frame_id == "frame1" and read_label(sound, "cityscapes19", store)


# ---------------------------------------------------------------- names


def test_an_id_is_made_from_any_name() -> None:
    assert frame_id_of("camvid_0016E5_06690") == "camvid_0016E5_06690"
    made = frame_id_of("camvid_0016E5_café_02")
    assert made.startswith("camvid_0016E5_cafe_02-") and made != frame_id_of("camvid_0016E5_cafe_02")
    for name in ("a b", "名前", "x" * 300, "a.b", "../x", "", "a\nb", "\udcff"):
        assert re.fullmatch(FRAME_ID_RULE, frame_id_of(name)), name
    assert len({frame_id_of(name) for name in ("a b", "a.b", "a_b", "a  b")}) == 4


def test_blanks_and_accents_are_read_however_the_system_writes_them(tmp_path: Path) -> None:
    root = camvid(tmp_path)
    names = ["0016E5 front 01", "0016E5_café_02"]
    for name in names:
        put(root / "val" / f"{unicodedata.normalize('NFD', name)}.jpg", picture("JPEG"))
        put(root / "valannot" / f"{unicodedata.normalize('NFC', name)}.png", grey(np.full(SIZE, 3)))
    frames = read("camvid", root, "val")
    assert [frame.frame_id for frame in frames] == [
        frame_id_of("camvid_0016E5 front 01"), "camvid_0016E5_07959", frame_id_of("camvid_0016E5_café_02"),
    ]  # fmt: skip
    assert all(frame.label_path for frame in frames)


def test_a_scenes_folder_may_name_its_frames_as_people_do(tmp_path: Path) -> None:
    rows = [["Straße 1", "d0", "", "", "", "", ""]]
    root = scenes(tmp_path, rows)
    for folder in ("images", "labels", "instances"):
        first, second = sorted((root / folder).iterdir())
        first.rename(first.with_stem("Straße 1"))
        second.unlink()
    assert [frame.frame_id for frame in read("scenes_folder", root)] == [frame_id_of("Straße 1")]


@pytest.mark.parametrize(
    "name", ["/a", "\\a", "C:\\a", "C:a", "\\\\host\\share\\a", "../a", "a\\..\\b", "", ".", "a\0b"]
)
def test_names_that_lead_out_of_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        relative_parts(name)


def test_file_names_with_backslashes_are_those_with_slashes(tmp_path: Path) -> None:
    assert relative_parts(".\\images\\cam0/a.jpg") == ("images", "cam0", "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "images\\cam0\\a.jpg", "width": 6, "height": 4}],
        "annotations": [],
        "categories": [],
    }
    put(tmp_path / "instances.json", json.dumps(content).encode())
    (frame,) = read_coco(tmp_path / "instances.json", tmp_path).frames
    assert frame.image_path == tmp_path / "images" / "cam0" / "a.jpg" and frame.frame_id == "images_cam0_a"
    put(tmp_path / "labels/det_20/det_val.json", json.dumps([{"name": "sub\\b.jpg", "labels": []}]).encode())
    (frame,) = read_bdd100k_boxes(tmp_path, "val").frames
    assert frame.frame_id == "b" and frame.image_path == tmp_path / "images/100k/val/sub/b.jpg"


def test_settings_are_read_with_a_mark(tmp_path: Path) -> None:
    put(tmp_path / "params.yaml", codecs.BOM_UTF8 + b"gate: {a: 1}\n")
    assert read_section(tmp_path / "params.yaml", "gate", ()) == {"a": 1}
    put(tmp_path / "suite.yaml", codecs.BOM_UTF8 + b"a: 1\n")
    assert read_yaml(tmp_path / "suite.yaml") == {"a": 1}
