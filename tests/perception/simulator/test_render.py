"""Rendered drives: determinism, agreement of the two renderings, truth, perspective, variety, rarity."""

from collections import Counter

import numpy as np
import pytest

from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.simulator import textures
from perception.simulator.layout import Camera, draw_layout
from perception.simulator.models import build_library
from perception.simulator.raster import make_view, project, road_to_ego, to_camera
from perception.simulator.render import _mesh_polygons, prepare_drive, render_drive
from perception.simulator.world import World

SIZE = (64, 128)


def render(rendering="street", seed=3, drive=0, frames=1, world=None, size=SIZE):
    return list(render_drive(world or World(), rendering, seed, drive, frames, *size))


@pytest.fixture(scope="module")
def many():
    """One frame of each of many drives in which rare classes and traffic are frequent."""
    world = World(
        boring_share=0.1, vehicle_weights={"car": 0.5, "truck": 0.2, "bus": 0.15, "train": 0.15}, riders_per_100m=3.0
    )
    return [render("simulator", seed=1, drive=drive, world=world)[0] for drive in range(45)]


def test_same_seed_gives_identical_bytes():
    first, second = render(frames=2), render(frames=2)
    for a, b in zip(first, second, strict=True):
        assert a.image.tobytes() == b.image.tobytes()
        assert a.label.tobytes() == b.label.tobytes()
        assert a.instances.tobytes() == b.instances.tobytes()


def test_a_drive_does_not_depend_on_drives_rendered_before():
    alone = render(drive=5)[0].image
    render(drive=4)
    assert np.array_equal(render(drive=5)[0].image, alone)


def test_another_seed_gives_another_world():
    assert not np.array_equal(render(seed=3)[0].label, render(seed=4)[0].label)


@pytest.mark.parametrize("drive", range(6))
def test_both_renderings_share_labels_and_instances(drive):
    for street, simulator in zip(
        render("street", drive=drive, frames=2), render("simulator", drive=drive, frames=2), strict=True
    ):
        assert np.array_equal(street.label, simulator.label)
        assert np.array_equal(street.instances, simulator.instances)
        assert street.conditions == simulator.conditions
        assert not np.array_equal(street.image, simulator.image)


def test_shapes_and_types():
    scene = render()[0]
    assert scene.image.shape == (*SIZE, 3) and scene.image.dtype == np.uint8
    assert scene.label.shape == SIZE and scene.label.dtype == np.uint8
    assert scene.instances.shape == SIZE and scene.instances.dtype == np.uint16


def test_labels_are_train_ids_or_void(many):
    for scene in many:
        assert set(np.unique(scene.label)) <= {*range(19), 255}


def test_every_class_occurs(many):
    seen = set()
    for scene in many:
        seen |= set(np.unique(scene.label).tolist())
    assert seen == {*range(19), 255}


def test_instances_agree_with_labels(many):
    for scene in many:
        known = scene.instances != 0
        assert np.array_equal(scene.instances[known] // 1000, scene.label[known])
        assert np.array_equal(known, np.isin(scene.label, textures.FOREGROUND))


def test_an_instance_keeps_its_number_along_the_drive():
    world = World(boring_share=0.0, ego_speed_mps=(2.0, 2.0), parked_per_100m=(8.0, 9.0), scene_weights={"urban": 1.0})
    first, second = render(drive=2, frames=2, world=world)
    common = set(np.unique(first.instances)) & set(np.unique(second.instances)) - {0}
    assert len(common) >= 0.5 * len(set(np.unique(first.instances)) - {0}) > 0


def test_a_car_twice_as_far_is_half_as_tall():
    view = make_view(Camera(height_m=1.4, pitch_rad=0.0, focal_widths=1.0, bonnet=False), 256, 512)

    def height_px(distance_m):
        ends = to_camera(
            view, np.zeros(2, np.float32), np.array([0.0, 1.5], np.float32), np.full(2, distance_m, np.float32)
        )
        return float(np.diff(-project(view, ends)[:, 1])[0]) * -1

    assert height_px(20.0) == pytest.approx(2 * height_px(40.0), rel=1e-5)
    assert abs(height_px(10.0)) == pytest.approx(512 * 1.5 / 10, rel=1e-5)


def test_things_on_the_ground_rise_to_the_horizon_with_distance():
    view = make_view(Camera(height_m=1.4, pitch_rad=0.05, focal_widths=1.0, bonnet=False), 256, 512)
    z = np.array([5.0, 10.0, 20.0, 40.0, 1e6], np.float32)
    rows = project(view, to_camera(view, np.zeros(5, np.float32), np.zeros(5, np.float32), z))[:, 1]
    assert np.all(np.diff(rows) < 0)
    assert rows[-1] == pytest.approx(view.center[1] - np.tan(0.05) * view.focal, abs=0.1)


def test_vehicles_ahead_show_taillights_and_oncoming_ones_headlights():
    world = World(boring_share=0.0, vehicles_per_100m=(5.0, 5.0), curved_share=0.0)
    prepared = prepare_drive(world, "street", 0, 2, 1, 256, 512)
    things = prepared.layout.things
    x, z, heading = road_to_ego(prepared.layout.road, 0.0, things.s, things.d)
    mesh = _mesh_polygons(prepared, (z > 8) & (z < 60) & (np.abs(x) < 12), x, z, heading)
    material, yaw = prepared.library.materials[mesh.source], things.yaw[mesh.owner]
    front = yaw[material == textures.MATERIAL_ID["headlight"]]
    back = yaw[material == textures.MATERIAL_ID["taillight"]]
    assert len(front) >= 2 and np.all(np.abs(front) > np.pi / 2)
    assert len(back) >= 2 and np.all(np.abs(back) < np.pi / 2)


def test_frames_of_a_drive_are_nearer_to_each_other_than_to_other_drives():
    day = World(time_of_day_weights={"day": 1.0}, weather_weights={"clear": 1.0}, scene_weights={"urban": 1.0})
    frames = [render(drive=drive, frames=2, world=day) for drive in range(5)]
    labels = [[scene.label for scene in drive] for drive in frames]
    within = np.mean([np.mean(a != b) for a, b in labels])
    between = np.mean([np.mean(labels[i][0] != labels[j][0]) for i in range(5) for j in range(i)])
    assert within < 0.6 * between


def test_shares_of_conditions_are_near_their_weights():
    world, library = World(), build_library(0)
    drives = 250
    drawn = [draw_layout(world, library, 0, drive, 1).conditions for drive in range(drives)]
    for weights, field in (
        (world.time_of_day_weights, "time_of_day"), (world.weather_weights, "weather"), (world.scene_weights, "scene"),
    ):  # fmt: skip
        counts, total = Counter(getattr(c, field) for c in drawn), sum(weights.values())
        for name, weight in weights.items():
            share = weight / total
            assert abs(counts[name] / drives - share) < 4 * np.sqrt(share * (1 - share) / drives)


def test_night_is_darker_than_day():
    means = {}
    for time in ("day", "night"):
        world = World(time_of_day_weights={time: 1.0}, weather_weights={"clear": 1.0})
        means[time] = np.mean([render(drive=drive, world=world)[0].image.mean() for drive in range(4)])
    assert means["night"] < 0.5 * means["day"]


def test_fog_takes_contrast_from_what_is_far():
    spread = {}
    for weather in ("clear", "fog"):
        world = World(time_of_day_weights={"day": 1.0}, weather_weights={weather: 1.0}, scene_weights={"freeway": 1.0})
        images = [render("simulator", drive=drive, world=world)[0].image for drive in range(4)]
        spread[weather] = np.mean([image[20:34].std() for image in images])
    assert spread["fog"] < 0.7 * spread["clear"]


def test_texture_randomization_changes_foreground_only():
    plain = render("simulator", drive=2)[0]
    wild = render("simulator", drive=2, world=World(foreground_texture_randomization=1.0))[0]
    assert np.array_equal(plain.label, wild.label)
    changed = np.abs(plain.image.astype(int) - wild.image).max(axis=-1) > 12
    foreground = np.isin(plain.label, textures.FOREGROUND)
    assert changed[foreground].mean() > 0.3
    assert changed[~foreground].mean() < 0.03


@pytest.mark.parametrize(
    "arguments",
    [("oil", 0, 0, 1, 64, 128), ("street", -1, 0, 1, 64, 128), ("street", 0, -1, 1, 64, 128),
     ("street", 0, 0, 0, 64, 128), ("street", 0, 0, 1, 8, 128)],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        next(render_drive(World(), *arguments))


def test_class_ids_are_those_of_the_taxonomy():
    taxonomy = load_taxonomy("cityscapes19")
    for number, name in enumerate(taxonomy.classes):
        assert getattr(textures, name.upper()) == number
    assert tuple(np.flatnonzero(taxonomy.foreground)) == textures.FOREGROUND
