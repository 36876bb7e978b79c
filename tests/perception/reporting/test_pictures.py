import base64
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from perception.errors import InputError
from perception.reporting import pictures

COLORS = np.array([(10, 20, 30), (200, 0, 0), (0, 255, 0)], dtype=np.uint8)


def decoded(uri: str, kind: str) -> Image.Image:
    head, data = uri.split(",", 1)
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_error_codes_tell_right_wrong_and_unlabelled():
    label = np.array([[0, 1], [255, 2]], np.uint8)
    prediction = np.array([[0, 2], [1, 2]], np.uint8)
    assert pictures.error_codes(label, prediction).tolist() == [[0, 1], [2, 0]]
    with pytest.raises(InputError, match="one size"):
        pictures.error_codes(label, prediction[:1])


def test_heat_map_follows_matplotlib_magma():
    values = np.linspace(0, 1, 256)[None]
    ours = pictures.heat_map(values, 0.0, 1.0).astype(int)
    magma = np.rint(matplotlib.colormaps["magma"](values)[..., :3] * 255).astype(int)
    assert np.abs(ours - magma).max() <= 12
    lightness = ours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness[0]) >= -0.5).all()


def test_heat_map_clips_and_takes_nan_as_low():
    painted = pictures.heat_map(np.array([[-5.0, np.nan, 99.0]]), 0.0, 2.0)
    assert tuple(painted[0, 0]) == tuple(painted[0, 1]) == (0, 0, 4)
    assert tuple(painted[0, 2]) == (252, 253, 191)
    with pytest.raises(InputError, match="upper end"):
        pictures.heat_map(np.zeros((1, 1)), 1.0, 1.0)


def test_jpeg_keeps_to_width_and_bytes_even_for_noise():
    noise = np.random.default_rng(1).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    uri = pictures.jpeg_data_uri(noise, 400, max_bytes=5_000)
    picture = decoded(uri, "jpeg")
    assert picture.width <= 400
    assert abs(picture.width / picture.height - 2) < 0.1
    assert len(base64.b64decode(uri.split(",")[1])) <= 5_000
    small = np.full((10, 20, 3), 77, np.uint8)
    assert decoded(pictures.jpeg_data_uri(small, 400, max_bytes=5_000), "jpeg").size == (20, 10)


def test_indexed_png_gives_class_colours_back_and_hides_ignored_pixels():
    ids = np.random.default_rng(2).choice(np.array([0, 1, 2, 255], np.uint8), (12, 20))
    painted = np.asarray(decoded(pictures.indexed_png_data_uri(ids, COLORS, 400), "png").convert("RGBA"))
    known = ids != 255
    assert np.array_equal(painted[known][:, :3], COLORS[ids[known]])
    assert (painted[known][:, 3] == 255).all() and (painted[~known][:, 3] == 0).all()
    assert decoded(pictures.indexed_png_data_uri(ids, COLORS, 10), "png").size == (10, 6)
