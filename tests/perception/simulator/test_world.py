"""World: validation and plain-dict loading."""

import pickle

import pytest

from perception.errors import InputError
from perception.simulator.world import World, world_from_dict


@pytest.mark.parametrize(
    "values",
    [
        {"camera_height_m": (2.0, 1.0)},
        {"camera_height_m": (0.0, 1.0)},
        {"camera_height_m": 1.5},
        {"camera_height_m": (1.0, float("nan"))},
        {"camera_height_m": ("one", "2")},
        {"boring_share": 1.2},
        {"boring_share": True},
        {"time_of_day_weights": {"dusk": 1.0}},
        {"time_of_day_weights": {"day": -1.0}},
        {"weather_weights": {"clear": 0.0}},
        {"curve_radius_m": (10.0, 20.0)},
        {"supersampling": 3},
    ],
)
def test_bad_values_are_refused_in_one_line_that_names_the_field(values):
    with pytest.raises(InputError) as error:
        World(**values)
    assert next(iter(values)) in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_values_override_fields():
    world = world_from_dict({"camera_height_m": [1.0, 1.2], "weather_weights": {"snow": 0.5}, "boring_share": 0})
    assert world.camera_height_m == (1.0, 1.2)
    assert world.weather_weights["snow"] == 0.5
    assert world.weather_weights["clear"] == World().weather_weights["clear"]
    assert world.boring_share == 0


@pytest.mark.parametrize("values", [{"wheels": 4}, {"weather_weights": 3}, {"camera_height_m": [1]}])
def test_bad_plain_values_are_refused(values):
    with pytest.raises(InputError):
        world_from_dict(values)


def test_worlds_compare_hash_and_pickle():
    assert World() == World() and hash(World()) == hash(World())
    assert pickle.loads(pickle.dumps(World(boring_share=0.1))) == World(boring_share=0.1)
