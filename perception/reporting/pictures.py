"""Pictures for a page: errors, heat maps, and the encoding of photos and class ids as data URIs."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perception.data.taxonomies import IGNORE
from perception.errors import InputError

# Nine stops of matplotlib's "magma" (CC0): lightness rises evenly, so that equal steps in value look equal.
HEAT_STOPS = np.array(
    [
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ],
    dtype=np.float64,
)  # fmt: skip
ERROR_COLORS = np.array([(38, 44, 50), (232, 93, 70), (120, 126, 132)], np.uint8)  # of error_codes


def _palette(label: np.ndarray, colors: np.ndarray) -> NDArray[np.uint8]:
    known = label[label != IGNORE]
    if known.size and int(known.max()) >= len(colors):
        raise InputError(
            f"label holds class id {int(known.max())} but only {len(colors)} colours are given; pass one a class"
        )
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    return palette


def error_codes(label: np.ndarray, prediction: np.ndarray) -> NDArray[np.uint8]:
    """Mark each pixel 0 (right), 1 (wrong) or 2 (label is 255, not judged).

    label, prediction: (height, width) uint8. Returns (height, width) uint8.
    """
    if label.shape != prediction.shape:
        raise InputError(
            f"label is {label.shape} and prediction {prediction.shape} (height, width); give both at one size"
        )
    return np.where(label == IGNORE, 2, label != prediction).astype(np.uint8)


def heat_map(values: np.ndarray, low: float, high: float) -> NDArray[np.uint8]:
    """Paint values with a perceptually even map from dark (low) to light (high).

    values: (height, width) float, clipped to [low, high]; NaN is painted as low. Returns (height, width, 3) uint8.
    """
    if not high > low:
        raise InputError(f"heat map range is [{low}, {high}]; the upper end must be above the lower")
    share = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0.0, 1.0)
    position = share * (len(HEAT_STOPS) - 1)
    stops = np.arange(len(HEAT_STOPS))
    channels = [np.interp(position, stops, HEAT_STOPS[:, channel]) for channel in range(3)]
    painted: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return painted


def jpeg_data_uri(pixels: np.ndarray, max_width_px: int, max_bytes: int, quality: int = 82) -> str:
    """Encode an image as a JPEG data URI no wider than max_width_px and, before base64, no larger than max_bytes.

    pixels: (height, width, 3) uint8. Quality falls first, then size; deterministic.
    """
    picture = _shrink(Image.fromarray(np.ascontiguousarray(pixels)), max_width_px, Image.Resampling.LANCZOS)
    data = _jpeg(picture, quality)
    while len(data) > max_bytes and (quality > 40 or picture.width > 32):
        if quality > 40:
            quality -= 14
        else:
            picture = _shrink(picture, picture.width * 3 // 4, Image.Resampling.LANCZOS)
        data = _jpeg(picture, quality)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def indexed_png_data_uri(ids: np.ndarray, colors: np.ndarray, max_width_px: int) -> str:
    """Encode class ids as a palette PNG data URI in which 255 is fully transparent.

    ids: (height, width) uint8; colors: (class, 3) uint8. A few kilobytes for a label map; sharp class borders.
    """
    palette = _palette(ids, colors)
    picture = _shrink(Image.fromarray(np.ascontiguousarray(ids)), max_width_px, Image.Resampling.NEAREST)
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, transparency=IGNORE)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shrink(picture: Image.Image, max_width_px: int, filter_: Image.Resampling) -> Image.Image:
    if picture.width <= max_width_px:
        return picture
    height = max(1, round(picture.height * max_width_px / picture.width))
    return picture.resize((max_width_px, height), filter_)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
