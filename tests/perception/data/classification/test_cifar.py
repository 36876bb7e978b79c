"""CIFAR: the three published layouts, written here byte by byte, read alike; nothing in a pickle can run."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from perception.data.classification import read_cifar10, read_cifar100, read_classification
from perception.data.classification.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from perception.errors import InputError

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def pixels(seed: int, count: int = 2) -> np.ndarray:
    """Draw rows of 3072 values as CIFAR stores them: red, green, blue planes of 32x32."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def python2_pickle(content: dict[str, object]) -> bytes:
    """Pickle as Python 2's cPickle with protocol 2 did: text and pixels are byte strings, as in the published files."""
    memo = 0

    def put() -> bytes:
        nonlocal memo
        memo += 1
        return b"q" + bytes([memo])

    def text(value: bytes) -> bytes:
        start = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
        return start + value + put()

    def save(value: object) -> bytes:
        if isinstance(value, str):
            return text(value.encode())
        if isinstance(value, int):
            return b"K" + bytes([value])
        if isinstance(value, list):
            return b"]" + put() + b"(" + b"".join(save(each) for each in value) + b"e"
        assert isinstance(value, np.ndarray)
        shape = b"".join(b"M" + struct.pack("<H", size) for size in value.shape) + b"\x86" + put()
        kind = b"cnumpy\ndtype\n" + put() + text(b"u1") + b"K\x00K\x01\x87" + put() + b"R" + put()
        kind += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t" + put() + b"b"
        made = b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
        made += b"K\x00\x85" + put() + text(b"b") + b"\x87" + put() + b"R" + put()
        return made + b"(K\x01" + shape + kind + b"\x89" + text(value.tobytes()) + b"t" + put() + b"b"

    items = b"".join(save(key) + save(value) for key, value in content.items())
    return b"\x80\x02}" + put() + b"(" + items + b"u."


def python_version(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate([*TRAIN, "test_batch"]):
        content = {
            "batch_label": f"batch {number}", "labels": [number, 9], "data": pixels(number), "filenames": ["a.png", "b.png"],
        }  # fmt: skip
        (folder / name).write_bytes(python2_pickle(content))
    return folder


def binary_version(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate([*TRAIN, "test_batch"]):
        rows = np.hstack([np.array([[number], [9]], np.uint8), pixels(number)])
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def test_the_fixture_is_what_unpickling_takes_for_a_cifar_batch(tmp_path: Path) -> None:
    content = pickle.loads((python_version(tmp_path / "p") / "data_batch_2").read_bytes(), encoding="bytes")
    assert content[b"labels"] == [1, 9] and np.array_equal(content[b"data"], pixels(1))


def test_both_versions_of_cifar10_read_alike(tmp_path: Path) -> None:
    python_version(tmp_path / "cifar-10-batches-py")
    binary = binary_version(tmp_path / "elsewhere")
    for path in (tmp_path, tmp_path / "cifar-10-batches-py", binary):
        train, test = read_cifar10(path, "train"), read_cifar10(path, "test")
        assert train.images.shape == (10, 32, 32, 3) and train.images.dtype == np.uint8
        assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and train.labels.dtype == np.int64
        assert test.labels.tolist() == [5, 9] and len(test) == 2 and test.classes == CIFAR10_CLASSES
        # value of channel c, row y, column x lies at 1024 c + 32 y + x
        assert train.images[2, 3, 5, 1] == pixels(1)[0, 1024 + 3 * 32 + 5]


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_batch_written_again_by_python_3(tmp_path: Path, protocol: int) -> None:
    for name in TRAIN:
        (tmp_path / name).write_bytes(pickle.dumps({"data": pixels(0), "labels": [3, 4]}, protocol=protocol))
    assert np.array_equal(read_cifar10(tmp_path, "train").images[0].transpose(2, 0, 1).ravel(), pixels(0)[0])


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-binary").mkdir()
    (tmp_path / "cifar-100-python").mkdir()
    rows = np.hstack([np.array([[4, 72], [19, 11]], np.uint8), pixels(0)])
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(rows.tobytes())
    content = {"filenames": ["a", "b"], "fine_labels": [72, 11], "coarse_labels": [4, 19], "data": pixels(0)}
    (tmp_path / "cifar-100-python" / "test").write_bytes(python2_pickle(content))
    for folder in ("cifar-100-binary", "cifar-100-python"):
        test = read_cifar100(tmp_path / folder, "test")
        assert [test.classes[label] for label in test.labels] == ["seal", "boy"]
        assert np.array_equal(test.images, pixels(0).reshape(2, 3, 32, 32).transpose(0, 2, 3, 1))
    assert len(set(CIFAR100_CLASSES)) == 100 and list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def packed(path: Path, **changed: np.ndarray) -> Path:
    files = []
    for seed in range(3):
        file = io.BytesIO()
        Image.fromarray(pixels(seed, 1).reshape(32, 32, 3)).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    arrays = {
        "test_jpeg": np.frombuffer(b"".join(files), np.uint8),
        "test_offset": np.cumsum([0, *map(len, files)]),
        "test_label": np.array([1, 0, 1], np.uint8),
        "classes": np.array(["cat", "dog"]),
    }
    np.savez(path, **(arrays | changed))
    return path


def test_packed_jpeg_files(tmp_path: Path) -> None:
    path = packed(tmp_path / "set.npz")
    read = read_cifar10(path, "test")
    assert read.images.shape == (3, 32, 32, 3) and read.labels.tolist() == [1, 0, 1] and read.classes == ("cat", "dog")
    with np.load(path) as arrays:
        first = arrays["test_jpeg"][: arrays["test_offset"][1]].tobytes()
    assert np.array_equal(read.images[0], np.asarray(Image.open(io.BytesIO(first))))
    with pytest.raises(InputError, match=r"set.npz: has no array train_jpeg, it holds test_jpeg"):
        read_classification("jpeg_npz", path, "train")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_offset": np.array([0, 5, 4, 9])}, "must rise from 0"),
        ({"test_offset": np.array([0, 5])}, "one entry more"),
        ({"test_label": np.array([1, 0, 2])}, r"label of image 2 is 2, must lie in 0\.\.1"),
        ({"test_label": np.array([1.0, 0, 1])}, "other types"),
        ({"classes": np.array([1, 2])}, "other types"),
        ({"classes": np.array([{}, {}], object)}, "not a readable npz file .*pickle"),
        ({"test_jpeg": np.zeros(3000, np.uint8), "test_offset": np.array([0, 9, 99, 3000])}, "test image 0: not a readable JPEG"),
    ],
)  # fmt: skip
def test_broken_packs(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_cifar10(packed(tmp_path / "bad.npz", **changed), "test")


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/nightdrive_attack_ran",)


HOSTILE = {
    "code": (pickle.dumps({"data": Attack(), "labels": []}, 2), "asks for posix.system"),
    "eval": (b"cbuiltins\neval\n(U\x031+1tR.", "asks for builtins.eval"),
    "state of a stand-in": (b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__NsQ\x86b.", "instruction that no CIFAR"),
    "state of a function": (b"\x80\x02c_codecs\nencode\n}U\x01aNsb.", "state of something that is no array"),
    "nested key": (b"\x80\x02})" + b"\x85" * 2_000_000 + b"Ns.", "keys must be text"),
    "nested keys": (b"\x80\x02}()" + b"\x85" * 200_000 + b"Nu.", "keys must be text"),
    "memo": (b"\x80\x02}r\xff\xff\xff\x7f.", "has no pixels under data"),
    "list": (b"\x80\x02].", "holds no dictionary"),
    "short array": (python2_pickle({"labels": [1], "data": pixels(0)[:, :8]}), "rows of 3072 bytes"),
    "labels missing": (python2_pickle({"labels": [1], "data": pixels(0)}), "2 images and 1 labels"),
    "labels of text": (python2_pickle({"labels": ["1", "2"], "data": pixels(0)}), "whole numbers"),
    "no labels": (python2_pickle({"data": pixels(0)}), "no list under labels"),
    "empty": (b"", "EOFError"),
    "cut": (python2_pickle({"labels": [1, 2], "data": pixels(0)})[:-900], "not a CIFAR batch"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_broken_pickles_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    (tmp_path / "test_batch").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_cifar10(tmp_path, "test")
    assert "\n" not in str(caught.value) and "test_batch" in str(caught.value)
    assert not Path("/tmp/nightdrive_attack_ran").exists()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=9), keep=st.floats(0, 1))
def test_a_damaged_batch_is_refused_or_gives_images(tmp_path: Path, place: float, noise: bytes, keep: float) -> None:
    good = python2_pickle({"labels": [1, 2], "data": pixels(0), "filenames": ["a", "b"]})
    data = bytearray(good[-200:] if place > 0.5 else good)  # the end is where most of the structure is
    start = int(place * len(data))
    data[start : start + len(noise)] = noise
    data = bytearray(good[: -len(data)]) + data if len(data) < len(good) else data
    (tmp_path / "test_batch").write_bytes(data[: int((1 - keep**8) * len(data))])
    try:
        assert read_cifar10(tmp_path, "test").images.shape == (2, 32, 32, 3)
    except InputError as error:
        assert "\n" not in str(error)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: folder is missing; give the path"):
        read_cifar10(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"holds neither train.bin nor train"):
        read_cifar100(tmp_path, "train")
    with pytest.raises(InputError, match="part 'val' is unknown; use one of train, test"):
        read_cifar10(tmp_path, "val")
    binary_version(tmp_path / "b")
    (tmp_path / "b" / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_3.bin: file is missing; copy the whole data set"):
        read_cifar10(tmp_path / "b", "train")
    (tmp_path / "b" / "test_batch.bin").write_bytes(b"x" * 3074)
    with pytest.raises(InputError, match="has 3074 bytes, must be records of 3073"):
        read_cifar10(tmp_path / "b", "test")
    (tmp_path / "b" / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(InputError, match=r"label of image 0 is 10, must lie in 0\.\.9"):
        read_cifar10(tmp_path / "b", "test")
    with pytest.raises(InputError, match="format 'cifar' is unknown; use one of cifar10, cifar100"):
        read_classification("cifar", tmp_path, "test")
