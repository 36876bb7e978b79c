"""Sky, light, air, water, lens and sensor: what lies between the surfaces and the stored pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from perception.simulator import textures as tx
from perception.simulator.conditions import Light, draw_light, uniform
from perception.simulator.layout import GROUND, Layout
from perception.simulator.models import Library
from perception.simulator.raster import Bytes, Numbers, Packed, View
from perception.simulator.textures import FloatArray
from perception.simulator.world import Rendering, World

REFERENCE_WIDTH_PX = 256  # lens parameters are given at this width
WARM = np.array([255.0, 206.0, 140.0], np.float32)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """Hold the lens and sensor of a street drive, prepared for its image size.

    `gain` (height, width, 3) float32: vignetting and white balance; `tone` (256,) uint8; `noise` int16, larger than the
    image, of which every frame takes another part.
    """

    gain: FloatArray
    tone: Bytes
    noise: npt.NDArray[np.int16]
    chromatic_shift_px: float
    blur_px: float
    jpeg_quality: int


NOISE_MARGIN_PX = 64


def draw_sensor(
    world: World, night: bool, rng: np.random.Generator, noise: FloatArray, height: int, width: int
) -> Sensor:
    """Draw the lens and sensor of a street drive."""
    unit = width / REFERENCE_WIDTH_PX
    vignetting = uniform(rng, world.vignetting)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    exposure = np.float32(rng.uniform(0.85, 1.2))
    balance = np.array([rng.normal(1.0, 0.03), 1.0, rng.normal(0.99, 0.04)], np.float32)
    dark = np.float32(vignetting) * (x * x + np.float32(0.6) * y * y) / np.float32(1.6)
    gain = (1 - dark)[..., None] * balance * exposure
    gamma = float(rng.uniform(0.8, 1.1))
    sigma = uniform(rng, world.noise_levels) * (3.0 if night else 1.0)
    white = np.rint(noise[-1] * np.float32(sigma)).astype(np.int16)
    repeats = ((height + NOISE_MARGIN_PX) // 256 + 1, (width + NOISE_MARGIN_PX) // 256 + 1)
    planes = [np.tile(np.roll(white, rng.integers(0, 256, 2).tolist(), (0, 1)), repeats) for _ in range(3)]
    return Sensor(
        gain=gain.astype(np.float32),
        tone=np.rint((np.arange(256) / 255) ** gamma * 255).astype(np.uint8),
        noise=np.stack(planes, axis=-1),
        chromatic_shift_px=uniform(rng, world.chromatic_shift_px) * unit,
        blur_px=uniform(rng, world.blur_px) * unit,
        jpeg_quality=round(uniform(rng, world.jpeg_quality)),
    )


@dataclass(frozen=True)
class Look:
    """Hold how a drive looks in one rendering."""

    rendering: Rendering
    light: Light
    dark: bool  # lit by a light map instead of the sky
    shadows: bool
    window_glow: float  # 0 to 255: strength of lit windows
    snow_color: FloatArray
    ground_choice: npt.NDArray[np.int32]  # palette entry of every ground surface
    ground_tile_m: FloatArray
    footprints: FloatArray  # (model, 3): half width, half length, height for shadows
    headlight_range_m: float
    sensor: Sensor | None

    def facing(self, normal: FloatArray, pitch_rad: float) -> FloatArray:
        """Return the light on surfaces by their outward normal in camera axes. normal (row, 3) -> (row, 3)."""
        up = -normal[:, 1] * np.cos(pitch_rad) - normal[:, 2] * np.sin(pitch_rad)
        ahead = normal[:, 2] * np.cos(pitch_rad) - normal[:, 1] * np.sin(pitch_rad)
        if self.dark:
            return np.repeat((0.9 + 0.1 * up - 0.08 * ahead)[:, None], 3, axis=1).astype(np.float32)
        sun = self.light.sun_direction
        direct = np.maximum(normal[:, 0] * sun[0] + up * sun[1] + ahead * sun[2], 0.0)
        sky = 0.85 + 0.15 * up
        ambient, lamp = np.array(self.light.ambient, np.float32), np.array(self.light.sun, np.float32)
        return np.asarray(ambient * sky[:, None] + lamp * direct[:, None], np.float32)


def draw_look(
    world: World, rendering: Rendering, layout: Layout, library: Library, shared: np.random.Generator,
    own: np.random.Generator, size: tuple[int, int], noise: FloatArray,
) -> Look:  # fmt: skip
    """Draw the look of a drive; `shared` is the same for both renderings, `own` is not.

    `size` is height, width of the image; `noise` is what `build_noise` gives.
    """
    light = draw_light(world, layout.conditions, shared)
    night = layout.conditions.time_of_day in ("night", "artificial_light")
    dark = night or layout.conditions.time_of_day == "twilight"
    sensor = draw_sensor(world, night, own, noise, *size) if rendering == "street" else None
    return Look(
        rendering, light, dark, light.shadow < 0.97 or not dark, 255.0 * light.lamps,
        np.array([232.0, 236.0, 242.0], np.float32) * np.float32(1.0 if dark else min(1.0, light.ambient[1] * 1.35)),
        own.integers(0, tx.PALETTE, len(GROUND)).astype(np.int32),
        np.array([tx.MATERIALS[tx.MATERIAL_ID[m]].tile_m for m, _ in GROUND], np.float32),
        _footprints(library), world.headlight_range_m, sensor,
    )  # fmt: skip


def _footprints(library: Library) -> FloatArray:
    rows = []
    for first, count in zip(library.first, library.count, strict=True):
        points = library.polygons[first : first + count].reshape(-1, 3)
        low = points[points[:, 1] < 1.0] if (points[:, 1] < 1.0).any() else points
        rows.append((np.abs(low[:, 0]).max(), np.abs(low[:, 2]).max(), points[:, 1].max()))
    for sprite in library.sprites:
        narrow = 0.16 if sprite.surfaces[0][2] in (tx.TRAFFIC_SIGN, tx.POLE) else 0.42
        rows.append((sprite.width_m * narrow * 0.5, 0.1 + sprite.width_m * narrow * 0.25, sprite.height_m * 0.9))
    return np.array(rows, np.float32)


# ---------------------------------------------------------------- backdrop


# What closes the view, by scene: backdrop class, least height and spread (as slopes), roughness.
_FAR: dict[str, tuple[tuple[int, float, float, float], ...]] = {
    "urban": ((3, 0.05, 0.06, 1.0), (1, 0.02, 0.03, 0.7)),
    "freeway": ((2, 0.03, 0.03, 0.3), (1, 0.02, 0.016, 0.8)),
    "unmarked": ((2, 0.04, 0.05, 0.3), (1, 0.02, 0.02, 0.9)),
}
_FAR_HUES = {1: (84.0, 92.0, 72.0), 2: (112.0, 120.0, 98.0), 3: (146.0, 142.0, 140.0)}


def paint_backdrop(
    layout: Layout, view: View, look: Look, noise: FloatArray, rng: np.random.Generator
) -> tuple[Packed, Numbers]:
    """Paint sky, clouds, far hills, woods and houses down to the horizon.

    `noise` (kind, 256, 256) float32 as `build_noise` gives. Returns (row, width) packed colours and (row, width)
    backdrop class of the rows above the horizon: 0 sky, 1 vegetation, 2 terrain, 3 building.
    """
    elevation = -(view.ray_y + np.float32(np.tan(view.pitch_rad)))
    elevation = elevation[elevation > -0.02]
    color = _sky(elevation[1::2] if len(elevation) > 1 else elevation, view.ray_x[1::2], look, noise, rng)
    color = np.asarray(cv2.resize(color, (view.width, len(elevation)), interpolation=cv2.INTER_LINEAR), np.float32)
    classes = np.zeros(color.shape[:2], np.uint16)
    level = np.array(look.light.ambient if not look.dark else (0.9, 0.9, 0.9), np.float32) * np.float32(1.3)
    for kind, base, spread, rough in _FAR[layout.conditions.scene]:
        profile = base * float(rng.uniform(0.3, 1.2)) + spread * _ridge(rng, noise, view.width, rough, kind == 3)
        mask = elevation[:, None] < profile[None, :].astype(np.float32)
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            continue
        top = int(rows[0])
        patch = _patch(noise[0], len(elevation) - top, view.width, rng)
        grain = np.float32(1) + np.float32(0.1 if kind != 3 else 0.04) * patch
        painted = (np.array(_FAR_HUES[kind], np.float32) * level) * grain[..., None]
        np.copyto(color[top:], painted, where=mask[top:, :, None])
        classes[mask] = kind
    rows4 = np.zeros((*classes.shape, 4), np.uint8)
    rows4[..., :3] = np.clip(color, 0, 255)
    return rows4.view(np.uint32)[..., 0], classes


def _patch(noise: FloatArray, height: int, width: int, rng: np.random.Generator) -> FloatArray:
    y, x = rng.integers(0, 256, 2).tolist()
    return np.asarray(noise[(np.arange(y, y + height) & 255)[:, None], np.arange(x, x + width) & 255], np.float32)


def _ridge(rng: np.random.Generator, noise: FloatArray, width: int, rough: float, blocks: bool) -> FloatArray:
    if blocks:
        edges = np.sort(rng.integers(0, width, 24))
        heights = rng.uniform(0, 1.0, 25) * (rng.random(25) < 0.7)
        return heights[np.searchsorted(edges, np.arange(width))].astype(np.float32)
    row = noise[1 if rough > 0.5 else 3, int(rng.integers(256))]
    profile = np.interp(np.linspace(0, 150, width) + float(rng.uniform(0, 100)), np.arange(256), row)
    return np.asarray(0.5 + 0.3 * profile, np.float32)


def _sky(
    elevation: FloatArray, ray_x: FloatArray, look: Look, noise: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Return (row, column, 3) colours of the sky at slopes `elevation` (row,) and `ray_x` (column,)."""
    light = look.light
    rise = np.clip(elevation / np.float32(0.45), 0, 1)[:, None, None] ** np.float32(0.7)
    horizon, top = np.array(light.sky_horizon, np.float32), np.array(light.sky_top, np.float32)
    color = horizon * (1 - rise) + top * rise
    depth = 1 / (np.maximum(elevation, 0) + np.float32(0.10))
    shift = rng.integers(0, 256, 2)
    u = ((ray_x[None, :] * depth[:, None] * 26).astype(np.int32) + shift[0]) & 255
    v = ((depth * 22).astype(np.int32) + shift[1])[:, None] & 255
    cover = np.clip((noise[2][v, u] - np.float32(1.1 - 2.0 * light.clouds)) * np.float32(0.55), 0, 1)
    cover = np.float32(0.85) * cv2.GaussianBlur(cover, (0, 0), 1.0)[..., None]
    bright = horizon * (np.float32(0.92) + np.float32(0.12) * noise[2][u, v])[..., None]
    color = color + (bright - color) * cover
    if light.glare > 0:
        away = _from_sun(elevation, ray_x, light)
        disc = np.exp(-((away / np.float32(0.035)) ** 2)) + np.float32(0.55) * np.exp(-away / np.float32(0.16))
        color += (np.float32(light.glare) * disc)[..., None] * np.array([255, 240, 200], np.float32)
    return np.asarray(color, np.float32)


def _from_sun(elevation: FloatArray, ray_x: FloatArray, light: Light) -> FloatArray:
    """Return how far from the sun, in slopes, each (row, column) lies."""
    sun = light.sun_direction
    right, up = np.float32(sun[0] / sun[2]), np.float32(sun[1] / sun[2])
    return np.asarray(np.hypot(ray_x[None, :] - right, elevation[:, None] - up), np.float32)


# ---------------------------------------------------------------- finishing a frame


def finish(
    look: Look, view: View, color: Bytes, inverse_z: FloatArray, label: Bytes, rng: np.random.Generator
) -> Bytes:
    """Put light, water, air, lens and sensor on a frame.

    `color` (height, width, 4) red, green, blue, glow; `inverse_z` (height, width) 1/m.
    Returns (height, width, 3) uint8.
    """
    scale = view.width // color.shape[1]
    z = np.float32(1) / inverse_z
    sky = label == tx.SKY
    glow = color[..., 3]
    image = color[..., :3].astype(np.float32)
    if look.dark:
        image = _light_up(look, view, image, glow, z, label, scale)
    if look.light.wet > 0:
        image = _reflect(look, view, image, label, scale)
    through = np.exp(np.float32(-look.light.extinction_per_m) * z)
    through[sky] = 1.0 if look.light.extinction_per_m < 0.012 else 0.15
    air = np.array(look.light.airlight, np.float32)
    image = air + (image - air) * through[..., None]
    image = _weather(look, view, image, scale, rng)
    if look.sensor is not None:
        return _sense(look.sensor, image, rng)
    return np.asarray(cv2.convertScaleAbs(np.maximum(image, 0)), np.uint8)


def _light_up(
    look: Look, view: View, image: FloatArray, glow: Bytes, z: FloatArray, label: Bytes, scale: int
) -> FloatArray:
    """Light a dark frame: ambient, the ego's headlights, street lamps, and what glows by itself with its halo."""
    light = look.light
    ray_x, ray_y = view.ray_x[scale // 2 :: scale], view.ray_y[scale // 2 :: scale]
    level = np.empty((*z.shape, 3), np.float32)
    level[:] = light.ambient
    if light.headlights > 0:
        high = np.where(ray_y > -0.02, np.float32(1.0), np.float32(0.22))[:, None]
        beam = np.exp(-((ray_x / np.float32(0.33)) ** 2))[None, :] * high
        reach = np.float32(light.headlights * 0.95) * beam / (1 + np.float32(3 / look.headlight_range_m**2) * z * z)
        level += reach[..., None] * np.array([1.0, 0.98, 0.9], np.float32)
    if light.lamps > 0:
        pools = np.float32(0.55) + np.float32(0.45) * np.cos(z * np.float32(2 * np.pi / 28))
        pools = pools * np.exp(z / np.float32(-90))
        low = np.clip(1 + (ray_y + np.float32(np.tan(view.pitch_rad))) * np.float32(2.2), 0.25, 1.0)[:, None]
        level += (np.float32(light.lamps * 0.7) * pools * low)[..., None] * np.array([1.0, 0.84, 0.6], np.float32)
    level[label == tx.SKY] = 1.0
    if not glow.any():
        return image * level
    shine = glow.astype(np.float32)[..., None] / np.float32(255)
    source = np.where((label == tx.BUILDING)[..., None], WARM, image * np.float32(1.15))
    emitted = source * shine
    halo = cv2.GaussianBlur(emitted, (0, 0), max(1.0, image.shape[1] / 90))
    return np.asarray(image * level * (1 - shine) + emitted + np.float32(0.8) * halo, np.float32)


def _reflect(look: Look, view: View, color: FloatArray, label: Bytes, scale: int) -> FloatArray:
    """Mirror the frame in the wet road about the horizon, smeared downwards."""
    height = color.shape[0]
    horizon = int(np.clip((view.center[1] - np.tan(view.pitch_rad) * view.focal) / scale, 1, height - 2))
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1)
    mirrored = cv2.blur(np.ascontiguousarray(color[rows]), (3, max(3, height // 9)))
    by_class = np.zeros(256, np.float32)
    by_class[[tx.ROAD, tx.SIDEWALK]] = 0.45 * look.light.wet, 0.22 * look.light.wet
    share = np.take(by_class, label)[..., None]
    share[:horizon] = 0
    return np.asarray(color * (1 - np.float32(0.8) * share) + mirrored * (np.float32(0.85) * share), np.float32)


def _weather(look: Look, view: View, color: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
    height, width = color.shape[:2]
    light = look.light
    if light.glare > 0:
        elevation = -(view.ray_y[scale // 2 :: scale] + np.float32(np.tan(view.pitch_rad)))
        away = _from_sun(elevation, view.ray_x[scale // 2 :: scale], light)
        veil = (np.float32(light.glare * 0.42) * np.exp(away / np.float32(-0.3)))[..., None]
        color = color * (1 - np.float32(0.3 * light.glare) * (1 - veil)) + veil * np.array([255, 236, 196], np.float32)
    if light.wet >= 1.0:
        color = color + _streaks(rng, height, width)[..., None] * np.float32(26.0)
    if light.snow_cover > 0:
        flakes = _flakes(rng, height, width)[..., None]
        color = color * (1 - flakes) + np.float32(236.0 if not look.dark else 90.0) * flakes
    return color


def _streaks(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    layer = np.zeros((height, width), np.uint8)
    count = width * height // 260
    x, y = rng.integers(0, width, count), rng.integers(-8, height, count)
    length = rng.integers(height // 28 + 2, height // 12 + 3, count)
    for x0, y0, l0 in zip(x.tolist(), y.tolist(), length.tolist(), strict=True):
        cv2.line(layer, (x0, y0), (x0 + l0 // 6, y0 + l0), 160, 1)
    return layer.astype(np.float32) / np.float32(255)


def _flakes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    layer = np.zeros((height, width), np.uint8)
    count = width * height // 150
    layer[rng.integers(0, height, count), rng.integers(0, width, count)] = 200
    large = [rng.integers(0, size, count // 12).tolist() for size in (width, height)]
    for x, y in zip(*large, strict=True):
        cv2.circle(layer, (x, y), 1 + width // 500, 235, -1)
    return cv2.GaussianBlur(layer, (3, 3), 0.6).astype(np.float32) / np.float32(255)


def _sense(sensor: Sensor, color: FloatArray, rng: np.random.Generator) -> Bytes:
    """Pass an image through lens and sensor: vignetting, blur, chromatic shift, white balance, tone, noise, JPEG."""
    height, width = color.shape[:2]
    pixels = cv2.multiply(color, sensor.gain, dtype=cv2.CV_8U)
    if sensor.blur_px > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), sensor.blur_px)
    pixels = _chromatic(np.asarray(cv2.LUT(pixels, sensor.tone), np.uint8), sensor.chromatic_shift_px)
    top, left = rng.integers(0, NOISE_MARGIN_PX, 2).tolist()
    pixels = cv2.add(pixels, sensor.noise[top : top + height, left : left + width], dtype=cv2.CV_8U)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)


def _chromatic(pixels: Bytes, shift_px: float) -> Bytes:
    """Scale red up and blue down about the middle so that they part by `shift_px` at the left and right edges."""
    if shift_px < 0.05:
        return pixels
    height, width = pixels.shape[:2]
    planes = list(cv2.split(pixels))
    for channel, sign in ((0, 1.0), (2, -1.0)):
        grow = 1 + sign * shift_px / width
        matrix = np.array([[grow, 0, (1 - grow) * width / 2], [0, grow, (1 - grow) * height / 2]], np.float64)
        planes[channel] = cv2.warpAffine(planes[channel], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.merge(planes), np.uint8)
