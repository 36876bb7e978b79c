"""CIFAR: the binary version, written here byte by byte, and packed JPEG files."""

import io
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


def binary_version(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate([*TRAIN, "test_batch"]):
        rows = np.hstack([np.array([[number], [9]], np.uint8), pixels(number)])
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def test_cifar10_reads_from_its_folder_and_from_the_one_above(tmp_path: Path) -> None:
    binary = binary_version(tmp_path / "cifar-10-batches-bin")
    for path in (tmp_path, binary):
        train, test = read_cifar10(path, "train"), read_cifar10(path, "test")
        assert train.images.shape == (10, 32, 32, 3) and train.images.dtype == np.uint8
        assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and train.labels.dtype == np.int64
        assert test.labels.tolist() == [5, 9] and len(test) == 2 and test.classes == CIFAR10_CLASSES
        # value of channel c, row y, column x lies at 1024 c + 32 y + x
        assert train.images[2, 3, 5, 1] == pixels(1)[0, 1024 + 3 * 32 + 5]


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-binary").mkdir()
    rows = np.hstack([np.array([[4, 72], [19, 11]], np.uint8), pixels(0)])
    (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(rows.tobytes())
    for folder in (tmp_path, tmp_path / "cifar-100-binary"):
        test = read_cifar100(folder, "test")
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


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=9), keep=st.floats(0, 1))
def test_a_damaged_batch_is_refused_or_gives_images(tmp_path: Path, place: float, noise: bytes, keep: float) -> None:
    data = bytearray((binary_version(tmp_path / "b") / "test_batch.bin").read_bytes())
    start = int(place * len(data))
    data[start : start + len(noise)] = noise
    (tmp_path / "b" / "test_batch.bin").write_bytes(data[: int((1 - keep**8) * len(data))])
    try:
        assert read_cifar10(tmp_path / "b", "test").images.shape[1:] == (32, 32, 3)
    except InputError as error:
        assert "\n" not in str(error)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: folder is missing; give the path"):
        read_cifar10(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"holds no train.bin \(the binary version\)"):
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
