"""Shifts of the input: what weather, light and cameras do to images, to see how accuracy and calibration follow.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions", ICLR 2019; three
strengths each, on float images, the same change for the same seed.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.errors import InputError

STRENGTHS = (1, 2, 3)
Images = NDArray[np.float32]


def corrupt(images: Images, kind: str, strength: int, seed: int = 0) -> Images:
    """Return corrupted copies of images (frame, 3, height, width) float32 in [0, 1].

    kind: one of CORRUPTIONS; strength: 1 to 3. Raises InputError for others.
    """
    if kind not in CORRUPTIONS or strength not in STRENGTHS:
        raise InputError(f"corruption {kind!r} of strength {strength}: use {', '.join(CORRUPTIONS)} and 1 to 3")
    changed = CORRUPTIONS[kind](images, strength - 1, np.random.default_rng(seed))
    return np.clip(changed, 0.0, 1.0).astype(np.float32)


def _noise(images: Images, level: int, generator: np.random.Generator) -> Images:
    noise = generator.standard_normal(images.shape, dtype=np.float32)
    return images + np.float32((0.03, 0.06, 0.12)[level]) * noise


def _blur(images: Images, level: int, _generator: np.random.Generator) -> Images:
    sigma = (0.004, 0.008, 0.016)[level] * images.shape[2]  # of the height, so that sizes compare
    return np.stack([_smooth(image, sigma) for image in images])


def _smooth(image: Images, sigma: float) -> Images:
    blurred = cv2.GaussianBlur(np.ascontiguousarray(image.transpose(1, 2, 0)), (0, 0), sigma)
    return np.asarray(blurred, np.float32).transpose(2, 0, 1)


def _dark(images: Images, level: int, generator: np.random.Generator) -> Images:
    """Take light away and leave the sensor's noise."""
    light = np.float32((0.5, 0.3, 0.15)[level])
    return images * light + np.float32(0.02) * generator.standard_normal(images.shape, dtype=np.float32)


def _fog(images: Images, level: int, _generator: np.random.Generator) -> Images:
    """Blend towards a pale veil that thickens to the horizon at half height."""
    rows = np.abs(np.linspace(-1.0, 1.0, images.shape[2], dtype=np.float32))
    veil = np.float32((0.35, 0.55, 0.75)[level]) * (1.0 - 0.6 * rows)[None, None, :, None]
    return np.asarray(images * (1.0 - veil) + np.float32(0.8) * veil, np.float32)


def _contrast(images: Images, level: int, _generator: np.random.Generator) -> Images:
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray((images - mean) * np.float32((0.6, 0.4, 0.2)[level]) + mean, np.float32)


def _jpeg(images: Images, level: int, _generator: np.random.Generator) -> Images:
    quality = [cv2.IMWRITE_JPEG_QUALITY, (40, 20, 8)[level]]
    pixels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    seen = [cv2.imdecode(cv2.imencode(".jpg", image[..., ::-1], quality)[1], cv2.IMREAD_COLOR) for image in pixels]
    decoded = np.stack([np.asarray(image)[..., ::-1] for image in seen]).transpose(0, 3, 1, 2)
    return np.asarray(decoded, np.float32) / np.float32(255)


CORRUPTIONS: Mapping[str, Callable[[Images, int, np.random.Generator], Images]] = MappingProxyType(
    {"noise": _noise, "blur": _blur, "dark": _dark, "fog": _fog, "contrast": _contrast, "jpeg": _jpeg}
)
