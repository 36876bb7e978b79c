"""SVHN, folders by class and ICDAR's characters: read as published, refused in one line when broken."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perception.data.classification import read_classification
from perception.data.classification.files import list_class_folders, list_icdar_characters, load_files
from perception.data.classification.svhn import read_svhn
from perception.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def picture(width: int, height: int, value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def svhn(folder: Path, **changed: object) -> Path:
    content = {"X": PIXELS, "y": np.array([[1], [10], [9], [2]], np.uint8)} | changed
    scipy.io.savemat(folder / "test_32x32.mat", content, do_compression=True)
    return folder


def test_svhn(tmp_path: Path) -> None:
    test = read_svhn(svhn(tmp_path), "test")
    assert test.images.shape == (4, 32, 32, 3) and np.array_equal(test.images[2], PIXELS[..., 2])
    assert [test.classes[label] for label in test.labels] == ["1", "0", "9", "2"] and test.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": PIXELS[..., 0]}, r"X is uint8 \(32, 32, 3\), must be uint8 \(32, 32, 3, image\)"),
        ({"X": PIXELS.astype(float)}, "X is float64"),
        ({"y": np.array([[0], [1], [2], [3]])}, "y must hold whole numbers from 1 to 10"),
        ({"y": np.array([[1.5], [1], [2], [3]])}, "whole numbers"),
        ({"y": np.array([[1]])}, "4 images and 1 labels"),
        ({"y": "text"}, "y must hold whole numbers"),
    ],
)
def test_broken_svhn(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_svhn(svhn(tmp_path, **changed), "test")
    assert "test_32x32.mat" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_svhn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_32x32.mat: file is missing"):
        read_svhn(tmp_path, "train")
    with pytest.raises(InputError, match="part 'val' is unknown; use one of train, test, extra"):
        read_svhn(tmp_path, "val")


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=20), keep=st.floats(0, 1))
def test_a_damaged_mat_file_is_refused_or_read(tmp_path: Path, place: float, noise: bytes, keep: float) -> None:
    data = bytearray((svhn(tmp_path) / "test_32x32.mat").read_bytes())
    start = int(place**3 * len(data))  # mostly in the headers
    data[start : start + len(noise)] = noise
    (tmp_path / "test_32x32.mat").write_bytes(data[: int((1 - keep**6) * len(data))])
    try:
        assert read_svhn(tmp_path, "test").images.shape[1:] == (32, 32, 3)
    except InputError as error:
        assert "\n" not in str(error)


def imagenet(root: Path) -> Path:
    put(root / "train" / "n01440764" / "n01440764_10026.JPEG", picture(30, 20, 10))
    put(root / "train" / "n01440764" / ".DS_Store", b"x")
    put(root / "train" / "n01443537" / "n01443537_2.JPEG", picture(20, 60, 200))
    put(root / "train" / "n01443537" / "n01443537_10.JPEG", picture(64, 64, 90))
    return root


def test_class_folders(tmp_path: Path) -> None:
    listed = list_class_folders(imagenet(tmp_path), "train")
    assert listed.classes == ("n01440764", "n01443537") and listed.labels.tolist() == [0, 1, 1]
    assert [path.name for path in listed.paths] == ["n01440764_10026.JPEG", "n01443537_10.JPEG", "n01443537_2.JPEG"]
    read = load_files(listed, 16)
    assert read.images.shape == (3, 16, 16, 3) and read.images[:, 8, 8, 0].tolist() == [10, 90, 200]
    assert read_classification("imagenet", tmp_path, "train").images.shape == (3, 64, 64, 3)


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    put(tmp_path / "train" / "a" / "a.png", file.getvalue())
    assert (load_files(list_class_folders(tmp_path, "train"), 10).images == 255).all()


def test_broken_class_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="val: folder is missing"):
        list_class_folders(imagenet(tmp_path), "val")
    with pytest.raises(InputError, match="folder is missing"):
        list_class_folders(tmp_path / "train", "..")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no folder a class"):
        list_class_folders(tmp_path, "empty")
    (tmp_path / "train" / "n3").mkdir()
    with pytest.raises(InputError, match="n3: class has no images"):
        list_class_folders(tmp_path, "train")
    (tmp_path / "train" / "n3").rmdir()
    with pytest.raises(InputError, match="size_px is 0, must lie in"):
        load_files(list_class_folders(tmp_path, "train"), 0)
    put(tmp_path / "train" / "n01440764" / "n01440764_10026.JPEG", picture(30, 20, 10)[:-40])
    with pytest.raises(InputError, match=r"n01440764_10026.JPEG: .*[Tt]runcated"):
        read_classification("imagenet", tmp_path, "train")


LISTING = b"""<?xml version="1.0" encoding="ISO-8859-1"?>
<imagelist>
<image file="char/1/1.jpg" tag="s" />
<image file="char/1/2.jpg" tag="7" />
<image file="char/1/3.jpg" tag="&amp;" />
<image file="char/2/1.jpg" tag="S" />
</imagelist>
"""


def icdar(root: Path, listing: bytes = LISTING) -> Path:
    put(root / "train" / "char.xml", listing)
    for name in ("1/1", "1/2", "1/3", "2/1"):
        put(root / "train" / "char" / f"{name}.jpg", picture(12, 20, 100))
    return root


def test_icdar_characters(tmp_path: Path) -> None:
    listed = list_icdar_characters(icdar(tmp_path) / "train")
    assert [listed.classes[label] for label in listed.labels] == ["S", "7", "S"] and len(listed.classes) == 36
    assert listed.paths[2] == tmp_path / "train" / "char" / "2" / "1.jpg"
    read = read_classification("icdar_characters", tmp_path, "train")
    assert read.images.shape == (3, 24, 24, 3) and abs(int(read.images[0, 0, 0, 0]) - 100) < 3


BILLION = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><imagelist><image file="&b;" tag="a"/></imagelist>'


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (BILLION, "declares a document type"),
        (BILLION.decode().encode("utf-16"), "document type"),
        (LISTING[:-9], "not readable as XML"),
        (b"", "not readable as XML"),
        (LISTING.replace(b"ISO-8859-1", b"martian"), "not readable as XML"),
        (b'<a><image file="x.jpg"/></a>', "an image has no file or no tag"),
        (b"<a/>", "names no digits or letters"),
        (b'<a><image file="../x.jpg" tag="a"/></a>', "leads out of the folder"),
        (b'<a><image file="/x.jpg" tag="a"/></a>', "leads out of the folder"),
        (b'<a><image file="c\\..\\..\\x.jpg" tag="a"/></a>', "leads out of the folder"),
    ],
)
def test_broken_icdar_lists(tmp_path: Path, listing: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list_icdar_characters(icdar(tmp_path, listing) / "train")
    assert "char.xml" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_icdar_crop(tmp_path: Path) -> None:
    (icdar(tmp_path) / "train" / "char" / "1" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"2.jpg: cannot be read"):
        read_classification("icdar_characters", tmp_path, "train")
    with pytest.raises(InputError, match=r"test/char.xml: file is missing"):
        read_classification("icdar_characters", tmp_path, "test")
