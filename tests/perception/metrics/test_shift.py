import numpy as np
import pytest

from perception.errors import InputError
from perception.metrics.shift import CORRUPTIONS, STRENGTHS, corrupt


@pytest.fixture
def images():
    ramp = np.linspace(0.1, 0.9, 64, dtype=np.float32)
    edges = (np.indices((48, 64)).sum(axis=0) // 8 % 2).astype(np.float32) * 0.3
    return np.clip(np.stack([ramp[None] * 0.6 + edges] * 3)[None].repeat(2, axis=0), 0, 1).astype(np.float32)


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_stronger_is_farther_from_the_image_and_stays_an_image(kind, images):
    before = images.copy()
    distances = []
    for strength in STRENGTHS:
        changed = corrupt(images, kind, strength)
        assert changed.shape == images.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1
        np.testing.assert_array_equal(changed, corrupt(images, kind, strength))
        distances.append(float(np.abs(changed - images).mean()))
    assert 0 < distances[0] < distances[1] < distances[2]
    np.testing.assert_array_equal(images, before)


def test_each_does_what_its_name_says(images):
    assert corrupt(images, "dark", 3).mean() < 0.5 * images.mean()
    assert corrupt(images, "contrast", 3).std() < 0.4 * images.std()
    steepness = [float(np.square(np.diff(each, axis=3)).mean()) for each in (corrupt(images, "blur", 3), images)]
    assert steepness[0] < 0.5 * steepness[1]
    foggy = corrupt(images, "fog", 3) - images
    assert np.abs(foggy[:, :, 24]).mean() > np.abs(foggy[:, :, 0]).mean()


def test_unknown_corruptions_are_refused(images):
    with pytest.raises(InputError, match="'hail'"):
        corrupt(images, "hail", 1)
    with pytest.raises(InputError, match="strength 4"):
        corrupt(images, "fog", 4)
