"""idx files of MNIST and its kin: read as written, and nothing but what their header announces is taken."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from perception.data.classification import read_fashion_mnist
from perception.data.classification.idx import read_idx
from perception.errors import InputError

quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PUBLISHED = Path("/usr/share/datasets/fashion-mnist")


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write(folder: Path, images: np.ndarray, labels: np.ndarray, zipped: bool = True) -> Path:
    for name, values in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", labels)):
        data = idx(values)
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(data) if zipped else data)
    return folder


IMAGES = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path: Path, zipped: bool) -> None:
    test = read_fashion_mnist(write(tmp_path, IMAGES, np.array([9, 0], np.uint8), zipped), "test")
    assert np.array_equal(test.images, IMAGES[..., None]) and test.images.dtype == np.uint8
    assert [test.classes[label] for label in test.labels] == ["ankle_boot", "t_shirt_top"]
    assert test.labels.dtype == np.int64


@pytest.mark.skipif(not PUBLISHED.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_published_files() -> None:
    test = read_fashion_mnist(PUBLISHED, "test")
    assert test.images.shape == (10000, 28, 28, 1) and np.bincount(test.labels).tolist() == [1000] * 10


@quick
@given(values=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)))
def test_arrays_come_back(tmp_path: Path, values: np.ndarray) -> None:
    (tmp_path / "a").write_bytes(idx(values))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(values)))
    for name in ("a", "a.gz"):
        assert np.array_equal(read_idx(tmp_path / name, values.ndim), values)


@quick
@given(place=st.floats(0, 0.999), noise=st.binary(min_size=1, max_size=9), keep=st.floats(0, 1), zipped=st.booleans())
def test_damaged_files_are_refused_or_read(
    tmp_path: Path, place: float, noise: bytes, keep: float, zipped: bool
) -> None:
    path = tmp_path / ("a.gz" if zipped else "a")
    data = bytearray(gzip.compress(idx(IMAGES)) if zipped else idx(IMAGES))
    start = int(place * len(data))
    data[start : start + len(noise)] = noise
    path.write_bytes(data[: int(keep * len(data)) + 1])
    try:
        assert read_idx(path, 3).ndim == 3
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an idx file of unsigned bytes with 3 dimensions"),
        (idx(IMAGES)[:-1], "holds only 1567 of the 1568 bytes"),
        (idx(IMAGES) + b"x", "holds more of the 1568 bytes"),
        (idx(IMAGES[0]), "with 3 dimensions"),
        (bytes([0, 0, 13, 3]) + idx(IMAGES)[4:], "unsigned bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "announces .* more than"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "a", 3)


def test_a_gzip_bomb_is_not_unfolded(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(IMAGES) + bytes(300_000_000), 1))
    with pytest.raises(InputError, match="holds more"):
        read_idx(tmp_path / "a.gz", 3)


def test_sets_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte.gz: file is missing; give the folder"):
        read_fashion_mnist(tmp_path, "test")
    with pytest.raises(InputError, match="2 images and 1 labels, must be as many"):
        read_fashion_mnist(write(tmp_path, IMAGES, np.array([9], np.uint8)), "test")
    with pytest.raises(InputError, match=r"label of image 1 is 10, must lie in 0\.\.9"):
        read_fashion_mnist(write(tmp_path, IMAGES, np.array([9, 10], np.uint8)), "test")
    with pytest.raises(InputError, match="part 'val' is unknown"):
        read_fashion_mnist(tmp_path, "val")
