"""The parameters of the procedural world: every range that a drive is drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from perception.errors import InputError

Rendering = Literal["simulator", "street"]
RENDERINGS: tuple[Rendering, ...] = ("simulator", "street")
TIMES_OF_DAY = ("day", "twilight", "night", "artificial_light", "backlit")
WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
SCENES = ("urban", "freeway", "unmarked")

Range = tuple[float, float]
Weights = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class World:
    """Hold every range of the procedural world; a drive is a draw from it.

    Ranges are (low, high) and drawn uniformly; weights are relative and need not sum to 1; densities are Poisson means.
    Raises InputError for a value outside its rule.
    """

    # Conditions: relative weight of each, drawn once a drive. Rare ones are rare on purpose.
    time_of_day_weights: Weights = field(
        default_factory=lambda: {
            "day": 0.64,
            "twilight": 0.11,
            "night": 0.09,
            "artificial_light": 0.06,
            "backlit": 0.10,
        }
    )
    weather_weights: Weights = field(
        default_factory=lambda: {"clear": 0.50, "cloudy": 0.27, "rain": 0.12, "fog": 0.05, "snow": 0.06}
    )
    scene_weights: Weights = field(default_factory=lambda: {"urban": 0.60, "freeway": 0.22, "unmarked": 0.18})

    # Camera, drawn once a drive.
    camera_height_m: Range = (1.15, 1.65)  # lens above the road
    camera_pitch_deg: Range = (0.5, 4.5)  # downwards
    focal_widths: Range = (0.78, 1.05)  # focal length in units of the image's width
    bonnet_share: float = 0.25  # share of drives that show the ego car's bonnet (void)
    ego_speed_mps: Range = (4.0, 11.0)  # urban and unmarked; freeway drives at 2.5 times this
    frame_interval_s: float = 0.25  # time between two frames of a drive
    left_hand_traffic_share: float = 0.5  # share of drives that keep to the left side of the road

    # Road.
    lane_width_m: Range = (2.9, 3.7)
    sidewalk_width_m: Range = (1.6, 4.0)
    curve_radius_m: Range = (320.0, 2500.0)  # of curved roads
    curved_share: float = 0.5  # share of drives on a curved road
    crossing_spacing_m: Range = (60.0, 160.0)  # between two crossings of an urban road
    view_distance_m: float = 130.0  # things farther away are not placed one by one

    # Frequency of things. An urban block is the stretch between two crossings.
    boring_share: float = 0.35  # share of drives with next to no traffic
    vehicles_per_100m: Range = (1.0, 5.0)  # moving, in each direction
    parked_per_100m: Range = (0.0, 9.0)  # along each side of an urban road
    persons_per_100m: Range = (0.5, 8.0)  # on each sidewalk
    riders_per_100m: float = 0.7  # cyclists and motorcyclists together, each side
    parked_cycles_per_100m: float = 0.9  # bicycles and motorcycles without rider, each side
    trees_per_100m: Range = (0.0, 9.0)  # street trees, each side
    signs_per_100m: float = 3.0  # traffic signs, each side
    clutter_per_100m: float = 0.8  # bins, boxes: void
    wall_share: float = 0.18  # share of urban plots closed by a wall
    fence_share: float = 0.22  # share of urban plots closed by a fence
    # What a moving vehicle is: relative weights. Trains and motorcycles are rare.
    vehicle_weights: Weights = field(default_factory=lambda: {"car": 0.84, "truck": 0.07, "bus": 0.06, "train": 0.03})
    motorcycle_share: float = 0.25  # share of riders on a motorcycle instead of a bicycle
    oncoming_lead_gap_m: Range = (7.0, 22.0)  # least gap between two vehicles in a lane

    # Appearance.
    foreground_texture_randomization: float = 0.0  # share of simulator foreground things with random texture and colour
    headlight_range_m: float = 28.0  # distance at which the ego's headlights have faded to a quarter
    fog_visibility_m: Range = (30.0, 90.0)  # distance at which contrast has fallen to 5 %
    noise_levels: Range = (1.0, 3.0)  # street sensor noise by day, standard deviation in grey levels; night has more
    vignetting: Range = (0.05, 0.3)  # street lens: loss of light in the corners
    chromatic_shift_px: Range = (0.0, 0.7)  # street lens: red against blue at the image's edge, at 256 px width
    blur_px: Range = (0.3, 0.75)  # street lens: standard deviation at 256 px width
    jpeg_quality: Range = (72.0, 94.0)  # street sensor's own compression
    supersampling: Literal[1, 2] = 2  # samples along each axis of a pixel of the image

    def __post_init__(self) -> None:
        _check_weights("time_of_day_weights", self.time_of_day_weights, TIMES_OF_DAY)
        _check_weights("weather_weights", self.weather_weights, WEATHERS)
        _check_weights("scene_weights", self.scene_weights, SCENES)
        _check_weights("vehicle_weights", self.vehicle_weights, ("car", "truck", "bus", "train"))
        for name, (low, high) in _RANGE_LIMITS.items():
            _check_range(name, getattr(self, name), low, high)
        for name, (low, high) in _NUMBER_LIMITS.items():
            _check_number(name, getattr(self, name), low, high)
        if self.supersampling not in (1, 2):
            raise InputError(f"World.supersampling is {self.supersampling!r}; it must be 1 or 2; choose one of them")

    def __hash__(self) -> int:
        return hash(tuple(_hashable(getattr(self, f.name)) for f in fields(self)))


# Least and greatest value of every range and number.
_RANGE_LIMITS: dict[str, Range] = {
    "camera_height_m": (0.5, 4.0),
    "camera_pitch_deg": (-10.0, 15.0),
    "focal_widths": (0.3, 3.0),
    "ego_speed_mps": (0.0, 40.0),
    "lane_width_m": (2.2, 5.0),
    "sidewalk_width_m": (0.8, 8.0),
    "curve_radius_m": (250.0, 1e5),
    "crossing_spacing_m": (40.0, 2000.0),
    "vehicles_per_100m": (0.0, 12.0),
    "parked_per_100m": (0.0, 14.0),
    "persons_per_100m": (0.0, 60.0),
    "trees_per_100m": (0.0, 30.0),
    "oncoming_lead_gap_m": (5.0, 200.0),
    "fog_visibility_m": (10.0, 1000.0),
    "noise_levels": (0.0, 40.0),
    "vignetting": (0.0, 0.9),
    "chromatic_shift_px": (0.0, 5.0),
    "blur_px": (0.0, 5.0),
    "jpeg_quality": (10.0, 100.0),
}
_NUMBER_LIMITS: dict[str, Range] = {
    "bonnet_share": (0.0, 1.0),
    "frame_interval_s": (0.01, 10.0),
    "left_hand_traffic_share": (0.0, 1.0),
    "curved_share": (0.0, 1.0),
    "view_distance_m": (60.0, 200.0),
    "boring_share": (0.0, 1.0),
    "riders_per_100m": (0.0, 30.0),
    "parked_cycles_per_100m": (0.0, 30.0),
    "signs_per_100m": (0.0, 30.0),
    "clutter_per_100m": (0.0, 30.0),
    "wall_share": (0.0, 1.0),
    "fence_share": (0.0, 1.0),
    "motorcycle_share": (0.0, 1.0),
    "foreground_texture_randomization": (0.0, 1.0),
    "headlight_range_m": (5.0, 200.0),
}


def world_from_dict(values: Mapping[str, Any]) -> World:
    """Build a World from plain values, such as a section of params.yaml.

    Ranges are lists of two numbers, weights are mappings that may name only the entries they change.
    Raises InputError for an unknown field or a value outside its rule.
    """
    defaults = World()
    known = {f.name for f in fields(World)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(f"World has no field {name!r}; use one of {', '.join(sorted(known))}")
        default = getattr(defaults, name)
        if isinstance(default, Mapping):
            if not isinstance(value, Mapping):
                raise InputError(f"World.{name} is {value!r}; it must map names to weights; give a mapping")
            arguments[name] = {**default, **value}
        elif isinstance(default, tuple):
            arguments[name] = tuple(value) if isinstance(value, list | tuple) else value
        else:
            arguments[name] = value
    return World(**arguments)


def _hashable(value: Any) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise InputError(f"World.{name} is {value!r}; it must be a number from {low:g} to {high:g}; change it")


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, tuple) or len(value) != 2 or not all(_is_number(v) for v in value):
        raise InputError(f"World.{name} is {value!r}; it must be a range of two numbers; write it as [low, high]")
    if not low <= value[0] <= value[1] <= high:
        raise InputError(
            f"World.{name} is {value!r}; it must rise and lie within {low:g} to {high:g}; change one of its ends"
        )


def _check_weights(name: str, value: Any, names: tuple[str, ...]) -> None:
    if not isinstance(value, Mapping) or set(value) - set(names):
        raise InputError(f"World.{name} is {value!r}; it must map {', '.join(names)} to weights; use only these names")
    if not all(_is_number(v) and v >= 0 for v in value.values()) or sum(value.values()) <= 0:
        raise InputError(
            f"World.{name} is {dict(value)!r}; weights are numbers of at least 0, one of them above 0; change them"
        )
