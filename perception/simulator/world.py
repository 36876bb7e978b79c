"""The parameters of the procedural world: every range that a drive is drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from perception.parameters import Fraction, NotNegative, Range, checked, within

Rendering = Literal["simulator", "street"]
RENDERINGS: tuple[Rendering, ...] = ("simulator", "street")
TIMES_OF_DAY = ("day", "twilight", "night", "artificial_light", "backlit")
WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
SCENES = ("urban", "freeway", "unmarked")
VEHICLES = ("car", "truck", "bus", "train")

Weights = dict[str, NotNegative]


def weights_of(names: tuple[str, ...]) -> AfterValidator:
    """Return the bound of relative weights: only of `names`, one of them above 0."""

    def check(given: Weights) -> Weights:
        if set(given) - set(names) or not any(given.values()):
            raise ValueError(f"must map {', '.join(names)} to weights, and one of them above 0")
        return given

    return AfterValidator(check)


@checked
class World:
    """Hold every range of the procedural world; a drive is a draw from it.

    Ranges are (low, high) and drawn uniformly; weights are relative and need not sum to 1; densities are Poisson means.
    """

    # Conditions: relative weight of each. Rare ones are rare on purpose.
    # of the times of day, drawn once a drive
    time_of_day_weights: Annotated[Weights, weights_of(TIMES_OF_DAY)] = Field(
        default={"day": 0.64, "twilight": 0.11, "night": 0.09, "artificial_light": 0.06, "backlit": 0.10}
    )
    # of the weathers, drawn once a drive
    weather_weights: Annotated[Weights, weights_of(WEATHERS)] = Field(
        default={"clear": 0.50, "cloudy": 0.27, "rain": 0.12, "fog": 0.05, "snow": 0.06}
    )
    # of the scenes, drawn once a drive
    scene_weights: Annotated[Weights, weights_of(SCENES)] = Field(
        default={"urban": 0.60, "freeway": 0.22, "unmarked": 0.18}
    )

    # Camera, drawn once a drive.
    camera_height_m: Annotated[Range, within(0.5, 4.0)] = (1.15, 1.65)  # lens above the road
    camera_pitch_deg: Annotated[Range, within(-10.0, 15.0)] = (0.5, 4.5)  # downwards
    focal_widths: Annotated[Range, within(0.3, 3.0)] = (0.78, 1.05)  # focal length in units of the image's width
    bonnet_share: Fraction = 0.25  # share of drives that show the ego car's bonnet (void)
    # urban and unmarked; freeway drives at 2.5 times this
    ego_speed_mps: Annotated[Range, within(0.0, 40.0)] = (4.0, 11.0)
    frame_interval_s: Annotated[float, Field(ge=0.01, le=10.0)] = 0.25  # time between two frames of a drive
    left_hand_traffic_share: Fraction = 0.5  # share of drives that keep to the left side of the road

    # Road.
    lane_width_m: Annotated[Range, within(2.2, 5.0)] = (2.9, 3.7)  # of one lane
    sidewalk_width_m: Annotated[Range, within(0.8, 8.0)] = (1.6, 4.0)  # of each sidewalk
    curve_radius_m: Annotated[Range, within(250.0, 1e5)] = (320.0, 2500.0)  # of curved roads
    curved_share: Fraction = 0.5  # share of drives on a curved road
    crossing_spacing_m: Annotated[Range, within(40.0, 2000.0)] = (60.0, 160.0)  # between two crossings of an urban road
    view_distance_m: Annotated[float, Field(ge=60.0, le=200.0)] = 130.0  # things farther away are not placed one by one

    # Frequency of things. An urban block is the stretch between two crossings.
    boring_share: Fraction = 0.35  # share of drives with next to no traffic
    vehicles_per_100m: Annotated[Range, within(0.0, 12.0)] = (1.0, 5.0)  # moving, in each direction
    parked_per_100m: Annotated[Range, within(0.0, 14.0)] = (0.0, 9.0)  # along each side of an urban road
    persons_per_100m: Annotated[Range, within(0.0, 60.0)] = (0.5, 8.0)  # on each sidewalk
    riders_per_100m: Annotated[float, Field(ge=0.0, le=30.0)] = 0.7  # cyclists and motorcyclists together, each side
    # bicycles and motorcycles without rider, each side
    parked_cycles_per_100m: Annotated[float, Field(ge=0.0, le=30.0)] = 0.9
    trees_per_100m: Annotated[Range, within(0.0, 30.0)] = (0.0, 9.0)  # street trees, each side
    signs_per_100m: Annotated[float, Field(ge=0.0, le=30.0)] = 3.0  # traffic signs, each side
    clutter_per_100m: Annotated[float, Field(ge=0.0, le=30.0)] = 0.8  # bins, boxes: void
    wall_share: Fraction = 0.18  # share of urban plots closed by a wall
    fence_share: Fraction = 0.22  # share of urban plots closed by a fence
    # of what a moving vehicle is; trains and motorcycles are rare
    vehicle_weights: Annotated[Weights, weights_of(VEHICLES)] = Field(
        default={"car": 0.84, "truck": 0.07, "bus": 0.06, "train": 0.03}
    )
    motorcycle_share: Fraction = 0.25  # share of riders on a motorcycle instead of a bicycle
    oncoming_lead_gap_m: Annotated[Range, within(5.0, 200.0)] = (7.0, 22.0)  # least gap between two vehicles in a lane

    # Appearance.
    # share of simulator foreground things with random texture and colour
    foreground_texture_randomization: Fraction = 0.0
    # distance at which the ego's headlights have faded to a quarter
    headlight_range_m: Annotated[float, Field(ge=5.0, le=200.0)] = 28.0
    # distance at which contrast has fallen to 5 %
    fog_visibility_m: Annotated[Range, within(10.0, 1000.0)] = (30.0, 90.0)
    # street sensor noise by day, standard deviation in grey levels; night has more
    noise_levels: Annotated[Range, within(0.0, 40.0)] = (1.0, 3.0)
    vignetting: Annotated[Range, within(0.0, 0.9)] = (0.05, 0.3)  # street lens: loss of light in the corners
    # street lens: red against blue at the image's edge, at 256 px width
    chromatic_shift_px: Annotated[Range, within(0.0, 5.0)] = (0.0, 0.7)
    blur_px: Annotated[Range, within(0.0, 5.0)] = (0.3, 0.75)  # street lens: standard deviation at 256 px width
    jpeg_quality: Annotated[Range, within(10.0, 100.0)] = (72.0, 94.0)  # street sensor's own compression
    supersampling: Literal[1, 2] = 2  # samples along each axis of a pixel of the image

    def __hash__(self) -> int:
        return hash(tuple(_hashable(getattr(self, f.name)) for f in dataclasses.fields(self)))


def with_all_weights(values: Any) -> Any:
    """Return a world's plain values, a section of params.yaml, with the weights that they do not name as by default."""
    if not isinstance(values, Mapping):
        return values
    default = {field.name: getattr(World(), field.name) for field in dataclasses.fields(World)}
    weights = {name: default[name] | value for name, value in values.items()
               if isinstance(value, Mapping) and isinstance(default.get(name), Mapping)}  # fmt: skip
    return {**values, **weights}


def world_from_dict(values: Mapping[str, Any]) -> World:
    """Return a World from plain values; raises pydantic's ValidationError for one outside its rule."""
    return World(**with_all_weights(values))


def _hashable(value: Any) -> Any:
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value
