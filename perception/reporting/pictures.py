"""Pictures for a page: class colours over images, errors, heat maps, and their encoding as data URIs."""

import base64
import io
from collections.abc import Sequence

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
RIGHT_COLOR, WRONG_COLOR, UNKNOWN_COLOR = (38, 44, 50), (232, 93, 70), (120, 126, 132)


def color_labels(label: np.ndarray, colors: np.ndarray) -> NDArray[np.uint8]:
    """Paint class ids in their colours.

    label: (height, width) uint8 class ids, 255 = ignore (painted black); colors: (class, 3) uint8. Returns
    (height, width, 3) uint8. Raises InputError when an id has no colour.
    """
    painted: NDArray[np.uint8] = _palette(label, colors)[label]
    return painted


def _palette(label: np.ndarray, colors: np.ndarray) -> NDArray[np.uint8]:
    known = label[label != IGNORE]
    if known.size and int(known.max()) >= len(colors):
        raise InputError(
            f"label holds class id {int(known.max())} but only {len(colors)} colours are given; pass one a class"
        )
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = colors
    return palette


def overlay(image: np.ndarray, label: np.ndarray, colors: np.ndarray, alpha: float = 0.55) -> NDArray[np.uint8]:
    """Blend class colours over an image; ignored pixels show the image alone.

    image: (height, width, 3) uint8; label: (height, width) uint8; colors: (class, 3) uint8; alpha: share of the
    colour in [0, 1]. Returns (height, width, 3) uint8.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}; give a share of the colour between 0 and 1")
    if image.shape[:2] != label.shape:
        raise InputError(f"image is {image.shape[:2]} and label {label.shape} (height, width); give both at one size")
    blended = (1.0 - alpha) * image + alpha * color_labels(label, colors)
    return np.where((label == IGNORE)[..., None], image, np.rint(blended)).astype(np.uint8)


def side_by_side(
    images: Sequence[np.ndarray], gap_px: int = 4, gap_color: tuple[int, int, int] = (255, 255, 255)
) -> NDArray[np.uint8]:
    """Put images of one height in a row.

    images: each (height, width, 3) uint8. Returns (height, sum of widths + gaps, 3) uint8.
    """
    heights = {image.shape[0] for image in images}
    if len(heights) != 1:
        raise InputError(
            f"images to put side by side have heights {sorted(heights)}; give at least one, all of one height"
        )
    gap = np.full((heights.pop(), gap_px, 3), gap_color, dtype=np.uint8)
    parts = [part for image in images for part in (gap, image)]
    return np.concatenate(parts[1:], axis=1)


def error_codes(label: np.ndarray, prediction: np.ndarray) -> NDArray[np.uint8]:
    """Mark each pixel 0 (right), 1 (wrong) or 2 (label is 255, not judged).

    label, prediction: (height, width) uint8. Returns (height, width) uint8.
    """
    if label.shape != prediction.shape:
        raise InputError(
            f"label is {label.shape} and prediction {prediction.shape} (height, width); give both at one size"
        )
    return np.where(label == IGNORE, 2, label != prediction).astype(np.uint8)


def error_palette() -> NDArray[np.uint8]:
    """Give the colours of error_codes: (3, 3) uint8."""
    return np.array([RIGHT_COLOR, WRONG_COLOR, UNKNOWN_COLOR], dtype=np.uint8)


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
