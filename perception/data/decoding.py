"""Decode images and labels; refuse whatever is not exactly what a frame needs."""

import io
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from zlib_ng import zlib_ng

from perception.data import limits
from perception.data.taxonomies import IGNORE, UNKNOWN, Taxonomy, apply_lookup, label_lookup, load_taxonomy
from perception.errors import InputError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xae\x42\x60\x82"
_IMAGE_MODES = ("RGB", "L", "P", "RGBA", "CMYK")


class BadFrame(InputError):
    """Report a file that cannot be used as image or label: its path, the rule it breaks and the remedy, in one line."""

    def __init__(self, path: Path | str, rule: str, remedy: str) -> None:
        super().__init__(f"{path}: {rule}; {remedy}")
        self.path = path
        self.rule = rule
        self.remedy = remedy


def decode_image(data: bytes, path: Path | str, *, upright: bool = True) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG image: (height, width, 3) uint8 RGB. `path` names it in messages.

    Raises BadFrame, with `upright` also for one that viewers show turned, whose labels may belong to the turned picture.
    """
    image = _open(data, path)
    if image.mode not in _IMAGE_MODES:
        raise BadFrame(path, f"image has mode {image.mode}, must have 8-bit grey or colour pixels", "convert it to RGB")
    _load(image, path, upright)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def image_size(data: bytes, path: Path | str) -> tuple[int, int]:
    """Read (height, width) of a JPEG or PNG image from its header alone; raises BadFrame."""
    if size := _plain_jpeg_size(data):
        return size
    image = _open(data, path)
    return image.height, image.width


def check_picture(data: bytes, path: Path | str) -> None:
    """Refuse what is not one whole JPEG or PNG picture of a sane size, shown as it is stored; raises BadFrame."""
    _load(_open(data, path), path)


def decode_label(data: bytes, path: Path | str, taxonomy: Taxonomy, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a label PNG: (height, width) uint8 raw values as the file holds them; palette files give their indices.

    `size` is (height, width) of the image it belongs to. Raises BadFrame for a file that is not an 8-bit single channel
    PNG of that size, not turned, or that holds a value unknown to the taxonomy.
    """
    image = _open(data, path)
    if image.format != "PNG" or image.mode not in ("L", "P") or (image.mode == "L" and _png_bit_depth(data) != 8):
        found = f"{image.format} with mode {image.mode}" + (
            f" and {_png_bit_depth(data)} bits" if image.mode == "L" else ""
        )
        raise BadFrame(path, f"label is {found}, must be an 8-bit single-channel or palette PNG", "convert it")
    if (image.height, image.width) != size:
        sizes = f"label is {image.width}x{image.height} px, its image {size[1]}x{size[0]} px"
        raise BadFrame(path, f"{sizes}, must be equal", "label the image at its own size")
    _load(image, path)
    label = np.array(image)
    unknown = apply_lookup(label, taxonomy.raw) == UNKNOWN
    if unknown.any():
        values, counts = np.unique(label[unknown], return_counts=True)
        found = ", ".join(f"{value} ({count} px)" for value, count in zip(values[:5], counts[:5], strict=True))
        more = f" and {len(values) - 5} more values" if len(values) > 5 else ""
        raise BadFrame(
            path,
            f"label holds values outside taxonomy {taxonomy.name}: {found}{more}",
            "correct it or name its taxonomy",
        )
    return label


def decode_stored_image(data: bytes, path: Path | str, at_least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode an image that was admitted before and whose bytes are known unchanged: decode_image, but faster.

    The same pixels as decode_image's. With `at_least`, (height, width), a JPEG is decoded at a half, a fourth or an
    eighth of its size where that is no smaller and its size can be divided so: libjpeg then leaves out the fine waves
    and most of the work, and the image is smoothed as resizing would. Raises BadFrame.
    """
    size = _plain_jpeg_size(data)
    if size:
        import cv2  # its decoder lets other threads run and is about a third faster than Pillow's

        # IMREAD_REDUCED_COLOR_2, _4 and _8 ask for BGR; these are their bits for the reduction alone.
        reduced = {1: 0, 2: 16, 4: 32, 8: 64}[_jpeg_reduction(size, at_least or size)]
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | reduced
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is not None:
            return np.asarray(image, np.uint8)
    return decode_image(data, path)


def decode_stored_label(
    data: bytes, path: Path | str, taxonomy: Taxonomy, size: tuple[int, int], shown: tuple[int, int], target: str
) -> NDArray[np.uint8]:
    """Decode a label that was admitted before, at another size and in another taxonomy: decode_label, but faster.

    shown: (height, width) of the result, nearest pixels are taken. Returns class ids of `target`, 255 = ignore.
    Raises BadFrame as decode_label does.
    """
    import cv2

    label: Any = None
    if _is_plain_grey_png(data, size):
        label = _unfiltered_rows(data, size)
        if label is None:
            label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if label is None:
        label = decode_label(data, path, taxonomy, size)
    nearest = cv2.INTER_NEAREST_EXACT
    small = label if size == shown else cv2.resize(label, (shown[1], shown[0]), interpolation=nearest)
    classes = _classes_as_they_are(taxonomy.name, target)
    # Values 0 to classes - 1 and 255 become 1 to classes and 0: one maximum says whether there are others.
    if classes and int((small + np.uint8(1)).max()) <= classes:
        return small.copy() if small is label else np.asarray(small, np.uint8)  # what was unpacked is read-only
    mapped = np.asarray(cv2.LUT(small, _checking_lookup(taxonomy.name, target)), np.uint8)
    if (mapped == UNKNOWN).any():
        decode_label(data, path, taxonomy, size)  # names the values
        raise BadFrame(path, f"label holds values outside taxonomy {taxonomy.name}", "correct it")
    return mapped


@cache
def _checking_lookup(source: str, target: str) -> NDArray[np.uint8]:
    """Build label_lookup with 254 for values that `source` does not know: (256,) uint8."""
    return np.where(load_taxonomy(source).raw == UNKNOWN, np.uint8(UNKNOWN), label_lookup(source, target))


@cache
def _classes_as_they_are(source: str, target: str) -> int:
    """Return n where labels that hold 0 to n - 1 and 255 alone need no mapping; 0 where there is no such n."""
    lookup = _checking_lookup(source, target)
    kept = int(np.argmax(lookup != np.arange(256)))  # 254 is never a class, so there is one
    return kept if lookup[255] == IGNORE and kept < UNKNOWN else 0


def _is_plain_grey_png(data: bytes, size: tuple[int, int]) -> bool:
    """Say whether this is a whole 8-bit grey PNG of (height, width) with nothing between its header and its pixels.

    What may stand there (transparency, gamma, frames of an animation) decoders treat differently.
    """
    if not data.startswith(_PNG_START) or not data.endswith(_PNG_END) or data[37:41] != b"IDAT":
        return False
    return struct.unpack_from(">IIBB", data, 16) == (size[1], size[0], 8, 0)


def _unfiltered_rows(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Unpack a plain grey PNG of (height, width) whose rows are stored as they are, as those of rendered scenes.

    That takes a fourth of a decoder's time. Returns a view (height, width), or None for any other PNG, which the
    first row's filter shows in most cases before anything is unpacked.
    """
    packed, place = [], len(_PNG_START)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            packed.append(data[place + 8 : place + 8 + length])
        place += 12 + length
    whole = b"".join(packed)
    height, width = size
    try:
        if data[28] or zlib_ng.decompressobj().decompress(whole, 1) != b"\0":  # interlaced, or filtered
            return None
        # No more than one byte beyond the rows: what is packed may unpack to a thousand times its size.
        rows = np.frombuffer(zlib_ng.decompressobj().decompress(whole, height * (width + 1) + 1), np.uint8)
    except zlib_ng.error:  # type: ignore[misc]  # its stub does not say that it is an exception
        return None
    if rows.size != height * (width + 1) or rows[:: width + 1].any():
        return None
    return rows.reshape(height, width + 1)[:, 1:]


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read (height, width) of a whole 8-bit JPEG with three colours that may be decoded; None for anything else."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return None
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xC2:  # baseline, extended, progressive
            bits, height, width, colours = struct.unpack_from(">BHHB", data, place + 4)
            plain = bits == 8 and colours == 3 and 0 < height * width <= limits.PIXELS
            return (height, width) if plain else None
        place += 2 + length
    return None


def _jpeg_reduction(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """Return by how much a JPEG of (height, width) may be reduced: 1, 2, 4 or 8."""
    return max(
        factor
        for factor in (1, 2, 4, 8)
        if factor == 1
        or all(own % factor == 0 and own // factor >= least for own, least in zip(size, at_least, strict=True))
    )


def _open(data: bytes, path: Path | str) -> ImageFile.ImageFile:
    """Read the header and refuse what is no image or has too many pixels, before any pixel is decoded."""
    if not data:
        raise BadFrame(path, "file is empty", "copy it again")
    if data.startswith(_PNG_START) and _PNG_END not in data:
        # Pillow is content once it has all pixels; a file without its end was not copied whole.
        raise BadFrame(path, "PNG file is truncated (it has no end)", "copy it again or remove it")
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0  # within the pixels 0 follows every 255
    if scans > limits.SCANS:
        raise BadFrame(path, f"JPEG file has {scans} scans, more than {limits.SCANS}", "save it as a baseline JPEG")
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Image.DecompressionBombError:
        raise BadFrame(path, f"image has more than {limits.PIXELS} pixels", "give frames of a camera") from None
    except UnidentifiedImageError:  # its message names an address in memory
        raise BadFrame(path, "not a readable JPEG or PNG", "copy it again or remove it") from None
    except Exception as error:  # Pillow's parsers raise many types on broken headers
        raise BadFrame(path, f"not a readable JPEG or PNG ({_short(error)})", "copy it again or remove it") from None
    if image.width * image.height > limits.PIXELS:
        size = f"{image.width}x{image.height} px"
        raise BadFrame(path, f"image is {size}, more than {limits.PIXELS} pixels", "give frames of a camera")
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise BadFrame(path, f"PNG file holds an animation of {image.n_frames} pictures", "give a file a picture")  # type: ignore[attr-defined]
    return image


def _load(image: ImageFile.ImageFile, path: Path | str, upright: bool = True) -> None:
    """Decode all pixels; a file that ends early is refused, never padded, and with `upright` one that is turned."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "truncated images must be refused"
    try:
        image.load()
    except Exception as error:  # as above: struct.error, SyntaxError, ValueError, OSError, ...
        kind = "truncated or damaged" if isinstance(error, OSError) else "damaged"
        raise BadFrame(path, f"{image.format} file is {kind} ({_short(error)})", "copy it again or remove it") from None
    orientation = _orientation(image)
    if upright and orientation not in (0, 1):
        raise BadFrame(
            path,
            f"has EXIF orientation {orientation}: viewers show it turned or mirrored, its pixels are stored otherwise, "
            "and labels belong to the one or the other",
            "turn the pixels and remove the tag where labels were drawn on what viewers show, else remove the tag alone",
        )


def _orientation(image: ImageFile.ImageFile) -> object:
    """Return how a viewer turns the picture, 1 = not at all, also where it cannot read what the file says of it."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1


def _png_bit_depth(data: bytes) -> int:
    """Read the bits a sample from the PNG header; Pillow stretches 2- and 4-bit grey to 0..255, which changes ids."""
    return data[24] if data.startswith(_PNG_START) and len(data) > 24 else 0


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
