"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the binary version, the python version, and JPEG files packed in one npz."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.data.classification.labelled import (
    BYTES_LIMIT,
    LabelledImages,
    checked_file,
    chosen_part,
    damaged,
    labelled_images,
)
from perception.data.decoding import decode_image
from perception.errors import InputError

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee",
    "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant",
    "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower",
    "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate",
    "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark",
    "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower",
    "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor", "train", "trout", "tulip",
    "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
_PIXEL_BYTES = 3 * 32 * 32
_BATCH_BYTES_LIMIT = 2**29  # the largest published file, CIFAR-100's training part, has 155 MB


class _Layout(NamedTuple):
    """Say how one of the two sets is laid out."""

    classes: tuple[str, ...]
    folders: tuple[str, str]  # of the binary and of the python version
    files: dict[str, tuple[str, ...]]  # part → names of its files in the python version; binary ones end in .bin
    label_bytes: int  # before the pixels of a binary record; the last one is the class
    key: str  # of the labels in the python version


_LAYOUTS = {
    "cifar10": _Layout(
        CIFAR10_CLASSES,
        ("cifar-10-batches-bin", "cifar-10-batches-py"),
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        1,
        "labels",
    ),
    "cifar100": _Layout(
        CIFAR100_CLASSES,
        ("cifar-100-binary", "cifar-100-python"),
        {"train": ("train",), "test": ("test",)},
        2,
        "fine_labels",
    ),
}


def read_cifar10(path: Path, part: str) -> LabelledImages:
    """Read `train` (50,000 images) or `test` (10,000) of CIFAR-10: RGB images of 32x32 pixels, 10 classes.

    path: a folder with data_batch_1.bin ... test_batch.bin (binary version) or data_batch_1 ... test_batch (python
    version), the folder above one of these, or an npz file of packed JPEG files (read_jpeg_npz). Raises InputError.
    """
    if path.suffix == ".npz":
        return read_jpeg_npz(path, chosen_part(part, ("train", "test")))
    return _read_batches(path, part, _LAYOUTS["cifar10"])


def read_cifar100(path: Path, part: str) -> LabelledImages:
    """Read `train` (50,000 images) or `test` (10,000) of CIFAR-100: RGB images of 32x32 pixels, its 100 fine classes.

    path: a folder with train.bin and test.bin (binary version) or train and test (python version), or the folder above.
    Raises InputError.
    """
    if path.suffix == ".npz":
        return read_jpeg_npz(path, chosen_part(part, ("train", "test")))
    return _read_batches(path, part, _LAYOUTS["cifar100"])


def read_jpeg_npz(path: Path, part: str) -> LabelledImages:
    """Read images of one size that are packed as JPEG files in an npz file.

    It holds PART_jpeg (bytes of all files one after another, uint8), PART_offset (where each starts, and the end:
    (image + 1,) int64), PART_label ((image,) integers) and classes (names). Nothing in it is unpickled.
    Raises InputError.
    """
    data, offset, label, classes = _npz_arrays(path, f"{part}_jpeg", f"{part}_offset", f"{part}_label", "classes")
    if data.dtype != np.uint8 or not {offset.dtype.kind, label.dtype.kind} <= set("iu") or classes.dtype.kind != "U":
        raise damaged(path, "arrays have other types than the layout of packed JPEG files says")
    if any(array.ndim != 1 for array in (data, offset, label, classes)) or len(offset) != len(label) + 1:
        raise damaged(path, f"{part}_offset must have one entry more than {part}_label")
    if offset[0] != 0 or offset[-1] != len(data) or (np.diff(offset.astype(np.int64)) <= 0).any():
        raise damaged(path, f"{part}_offset must rise from 0 to the {len(data)} bytes of {part}_jpeg")
    bounds = zip(offset[:-1].tolist(), offset[1:].tolist(), strict=True)
    decoded = [
        decode_image(data[start:stop].tobytes(), f"{path}: {part} image {number}")
        for number, (start, stop) in enumerate(bounds)
    ]
    sizes = {image.shape for image in decoded}
    if len(sizes) > 1:
        raise damaged(path, f"{part} images have {len(sizes)} sizes, must have one")
    images = np.stack(decoded) if decoded else np.empty((0, 1, 1, 3), np.uint8)
    return labelled_images(images, label, tuple(classes.tolist()), path)


def _npz_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    checked_file(path, "give the path of an npz file of packed JPEG files")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > BYTES_LIMIT:
                raise damaged(path, f"unfolds to more than {BYTES_LIMIT} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            absent = [name for name in names if name not in arrays.files]
            if absent:
                raise damaged(path, f"has no array {absent[0]}, it holds {', '.join(arrays.files[:9])}")
            return [arrays[name] for name in names]
    except InputError:
        raise
    except Exception as error:  # zipfile and numpy raise many types on damaged files
        raise damaged(path, f"not a readable npz file ({error})") from None


def _read_batches(path: Path, part: str, layout: _Layout) -> LabelledImages:
    names = layout.files[chosen_part(part, tuple(layout.files))]
    folder, read = _version(path, names[0], layout)
    batches = [read(folder / name, layout) for name in names]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return labelled_images(images, labels, layout.classes, folder)


_Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


def _version(path: Path, first: str, layout: _Layout) -> tuple[Path, Callable[[Path, _Layout], _Batch]]:
    """Find out which version a folder, or one in it, holds."""
    for folder in (path, *(path / name for name in layout.folders)):
        if (folder / f"{first}.bin").exists():
            return folder, _binary_batch
        if (folder / first).exists():
            return folder, _python_batch
    found = f"holds neither {first}.bin nor {first}" if path.is_dir() else "folder is missing"
    raise InputError(f"{path}: {found}; give the path of the data set")


def _binary_batch(path: Path, layout: _Layout) -> _Batch:
    """Read records of label bytes and 3072 pixel values, channel by channel."""
    path = checked_file(path.with_name(f"{path.name}.bin"), "copy the whole data set", _BATCH_BYTES_LIMIT)
    data = np.fromfile(path, np.uint8)
    record_bytes = layout.label_bytes + _PIXEL_BYTES
    if len(data) == 0 or len(data) % record_bytes:
        raise damaged(path, f"has {len(data)} bytes, must be records of {record_bytes}")
    records = data.reshape(-1, record_bytes)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64)


# --- the python version is a pickle, which may run any code: here it may only build lists and arrays of bytes


def _python_batch(path: Path, layout: _Layout) -> _Batch:
    data = checked_file(path, "copy the whole data set", _BATCH_BYTES_LIMIT).read_bytes()
    try:
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise damaged(path, f"not a CIFAR batch of the python version ({str(error) or type(error).__name__})") from None
    if not isinstance(content, dict):
        raise damaged(path, "not a CIFAR batch of the python version (it holds no dictionary)")
    named = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    pixels, labels = named.get("data"), named.get(layout.key)
    if not isinstance(pixels, _Array) or pixels.pixels is None or not isinstance(labels, list):
        raise damaged(path, f"has no pixels under data or no list under {layout.key}")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise damaged(path, f"{layout.key} must hold whole numbers from 0")
    if len(labels) != len(pixels.pixels):
        raise damaged(path, f"{len(pixels.pixels)} images and {len(labels)} labels, must be as many")
    return pixels.pixels, np.array(labels, np.int64)


class _Dtype:
    """Stand in for numpy.dtype: remembers whether it means unsigned bytes."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.is_bytes = name in ("u1", b"u1")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


class _Array:
    """Stand in for numpy.ndarray: takes (version, shape, dtype, fortran, bytes) and builds rows of 3072 bytes, no more."""

    def __init__(self, *_: object) -> None:
        self.pixels: NDArray[np.uint8] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        row_shaped = isinstance(shape, tuple) and len(shape) == 2 and shape[1] == _PIXEL_BYTES
        if not (
            row_shaped and isinstance(dtype, _Dtype) and dtype.is_bytes and isinstance(data, bytes) and not fortran
        ):
            raise pickle.UnpicklingError(f"array must have rows of {_PIXEL_BYTES} bytes")
        self.pixels = np.frombuffer(data, np.uint8).reshape(shape)


def _latin1_bytes(text: object, encoding: object = None) -> bytes:
    """Stand in for _codecs.encode, by which Python 3 writes bytes into a pickle that Python 2 can read."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("text must be encoded as latin1")
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1_bytes,
}


_OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "EMPTY_LIST",
    "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
)  # fmt: skip


def _refused_opcode(_: Any) -> None:
    raise pickle.UnpicklingError("it holds an instruction that no CIFAR batch needs")


_LOADERS: dict[int, Any] = {
    code: load if code in {getattr(pickle, name)[0] for name in _OPCODES} else _refused_opcode
    for code, load in pickle._Unpickler.dispatch.items()
}


# The C unpickler sizes its memo by numbers in the file; this one cannot be made to take more memory than the file has.
class _PlainUnpickler(pickle._Unpickler):
    """Build dictionaries, lists, numbers, text and byte arrays; refuse every other name, so that no code can run."""

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of one of the few names that a CIFAR batch uses."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR batch needs")
        return _STAND_INS[module, name]

    def _build(self) -> None:
        # Without this, state could be set on the stand-ins themselves.
        if not isinstance(self.stack[-2], _Array | _Dtype):
            raise pickle.UnpicklingError("it sets the state of something that is no array")
        _LOADERS[pickle.BUILD[0]](self)

    def _set_items(self) -> None:
        # Hashing a deeply nested key would overflow the stack of the process.
        if not all(isinstance(key, str | bytes) for key in self.stack[::2]):
            raise pickle.UnpicklingError("its keys must be text")
        _LOADERS[pickle.SETITEMS[0]](self)

    def _set_item(self) -> None:
        if not isinstance(self.stack[-2], str | bytes):
            raise pickle.UnpicklingError("its keys must be text")
        _LOADERS[pickle.SETITEM[0]](self)

    dispatch: ClassVar[dict[int, Any]] = _LOADERS | {
        pickle.BUILD[0]: _build,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
    }
