"""Label files that need unpacking: 16-bit and multi-channel PNG, where 8-bit single-channel ones are stored."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.data.decoding import BadFrame, check_picture

_PNG_START = b"\x89PNG\r\n\x1a\n"
INSTANCES_A_CLASS = 1000


def decode_codes(data: bytes, path: Path) -> NDArray[Any]:
    """Decode a PNG without changing a value: (height, width, channel) uint8 or uint16, channels in the file's order.

    Raises BadFrame for a file that is damaged, too large, animated, turned or no PNG.
    """
    import cv2  # Pillow reduces 16-bit colour to its upper byte, which holds no id

    check_picture(data, path)
    _check_chunks(data, path)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadFrame(path, "PNG file cannot be decoded", "copy it again or remove it")
    codes = np.atleast_3d(pixels)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[codes.shape[2]]
    return np.asarray(codes[..., order])


def encode_codes(codes: NDArray[Any]) -> bytes:
    """Encode (height, width) uint8 or uint16 values as a grey PNG."""
    import cv2

    done, data = cv2.imencode(".png", codes)
    assert done, codes.shape
    return data.tobytes()


def class_codes(codes: NDArray[Any], path: Path) -> bytes:
    """Encode class ids as the 8-bit PNG that labels are stored as; raises BadFrame for an id above 255."""
    if codes.max(initial=0) > 255:
        raise BadFrame(path, f"label holds class id {codes.max()}, must be at most 255", "correct it")
    return encode_codes(codes.astype(np.uint8))


def instance_codes(classes: NDArray[Any], numbers: NDArray[Any], path: Path) -> bytes:
    """Encode instances as Cityscapes does: 16-bit PNG of class id * 1000 + k, 0 where there is no instance.

    numbers: (height, width) instance numbers as the data set gives them, 0 = none; k counts the instances of a class
    from 0 in their order. Raises BadFrame for ids that do not fit into 16 bits.
    """
    pairs = np.where(numbers > 0, classes.astype(np.int64) << 32 | numbers.astype(np.int64), 0)
    values, inverse = np.unique(pairs, return_inverse=True)
    table = np.zeros(len(values), np.int64)
    for class_id in np.unique(values[values > 0] >> 32):
        own = np.flatnonzero((values > 0) & (values >> 32 == class_id))
        if len(own) > INSTANCES_A_CLASS or class_id * INSTANCES_A_CLASS + len(own) > 65535:
            raise BadFrame(path, f"{len(own)} instances of class id {class_id} do not fit into 16 bits", "correct it")
        table[own] = class_id * INSTANCES_A_CLASS + np.arange(len(own))
    return encode_codes(table[inverse].reshape(classes.shape).astype(np.uint16))


def _check_chunks(data: bytes, path: Path) -> None:
    """Check every checksum of a PNG: a decoder may hand out what it has of a damaged file."""
    place = len(_PNG_START)
    while data.startswith(_PNG_START) and place + 12 <= len(data):
        (size_bytes,) = struct.unpack_from(">I", data, place)
        end = place + 12 + size_bytes
        if end > len(data) or zlib.crc32(data[place + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            break
        if data[place + 4 : place + 8] == b"IEND":
            return
        place = end
    raise BadFrame(path, "PNG file is truncated or damaged", "copy it again or remove it")
