"""Conditions of a drive and the light, air and ground that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.parameters import Range
from perception.simulator.textures import read_table
from perception.simulator.world import SCENES, TIMES_OF_DAY, WEATHERS, Weights, World

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Conditions:
    """Name what a drive was recorded in."""

    time_of_day: str
    weather: str
    scene: str


@dataclass(frozen=True, kw_only=True)
class Light:
    """Say how a drive is lit; colours are factors on reflected light or 0 to 255 values of the sky."""

    ambient: Rgb  # light from everywhere
    sun: Rgb  # light from the sun's direction
    sun_direction: Rgb  # unit vector towards the sun: right, up, forward at the start of the drive
    shadow: float  # share of light left in a cast shadow
    sky_top: Rgb
    sky_horizon: Rgb
    clouds: float  # cover, 0 to 1
    airlight: Rgb  # colour that distance fades to
    extinction_per_m: float  # contrast over distance d is exp(-extinction * d)
    headlights: float  # strength of the ego's own lights
    lamps: float  # strength of street lamps and lit windows
    wet: float  # strength of reflections on the road
    snow_cover: float  # share of snow on the ground
    glare: float  # strength of the veil round a low sun


def uniform(rng: np.random.Generator, bounds: Range) -> float:
    """Draw a float uniformly from (low, high)."""
    return float(rng.uniform(bounds[0], bounds[1]))


def choose(rng: np.random.Generator, weights: Weights, names: tuple[str, ...]) -> str:
    """Draw a name by its relative weight; names without a weight have weight 0."""
    mass = np.array([float(weights.get(name, 0.0)) for name in names])
    return names[int(rng.choice(len(names), p=mass / mass.sum()))]


def draw_conditions(world: World, rng: np.random.Generator) -> Conditions:
    """Draw the conditions of one drive."""
    return Conditions(
        choose(rng, world.time_of_day_weights, TIMES_OF_DAY),
        choose(rng, world.weather_weights, WEATHERS),
        choose(rng, world.scene_weights, SCENES),
    )


def _scaled(color: Rgb, factor: float) -> Rgb:
    return (color[0] * factor, color[1] * factor, color[2] * factor)


_LIGHT = read_table("light.yaml")


def draw_light(world: World, conditions: Conditions, rng: np.random.Generator) -> Light:
    """Draw the light of a drive under its conditions."""
    time, weather = _LIGHT["times_of_day"][conditions.time_of_day], _LIGHT["weathers"][conditions.weather]
    dark = conditions.time_of_day in ("night", "artificial_light")
    low_sun = conditions.time_of_day == "backlit"
    azimuth = float(rng.normal(0, 0.16)) if low_sun else float(rng.uniform(-np.pi, np.pi))
    elevation = float(rng.uniform(0.10, 0.2)) if low_sun else float(rng.uniform(0.45, 1.1))
    dim = max(weather["dim"], 0.45) if low_sun else weather["dim"]
    gray, level = weather["gray"], weather["level"]
    visibility = uniform(rng, world.fog_visibility_m)
    top, horizon = _greyed(time["sky_top"], gray, level), _greyed(time["sky_horizon"], gray * 0.8, level)
    if conditions.weather in ("cloudy", "fog", "rain", "snow") and not dark:
        top = _mixed(top, horizon, 0.65)
    return Light(
        ambient=_scaled(time["ambient"], level * (1.12 if dim < 0.3 else 1.0)),
        sun=_scaled(time["sun"], dim),
        sun_direction=(
            float(np.sin(azimuth) * np.cos(elevation)), float(np.sin(elevation)),
            float(np.cos(azimuth) * np.cos(elevation)),
        ),
        shadow=1.0 if dark else 1.0 - 0.55 * min(1.0, dim * 1.3),
        sky_top=top,
        sky_horizon=horizon,
        clouds=weather["clouds"] * float(rng.uniform(0.6, 1.0)),
        airlight=_greyed(horizon, 0.5, 0.93),
        extinction_per_m=3.0 / (weather["seen_m"] or visibility),  # contrast of 5 % is exp(-3)
        headlights=time.get("headlights", 0.0),
        lamps=time.get("lamps", 0.0),
        wet=weather["wet"],
        snow_cover=float(rng.uniform(0.55, 0.95)) if conditions.weather == "snow" else 0.0,
        glare=1.0 if low_sun and conditions.weather in ("clear", "cloudy") else 0.4 if low_sun else 0.0,
    )  # fmt: skip


def _mixed(a: Rgb, b: Rgb, share: float) -> Rgb:
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _greyed(color: Rgb, share: float, level: float) -> Rgb:
    mean = sum(color) / 3
    return _scaled(_mixed(color, (mean, mean, mean), share), level)
