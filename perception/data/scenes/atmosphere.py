"""Sky, light, air, water, lens and sensor: what lies between the surfaces and the stored pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from perception.data.scenes import textures as tx
from perception.data.scenes.conditions import Light, draw_light, uniform
from perception.data.scenes.layout import GROUND, Layout
from perception.data.scenes.models import Library
from perception.data.scenes.raster import View
from perception.data.scenes.world import Rendering, World

FloatArray = npt.NDArray[np.float32]
REFERENCE_WIDTH_PX = 256  # lens parameters are given at this width
WARM = np.array([255.0, 206.0, 140.0], np.float32)


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """Hold the lens and sensor of a street drive."""

    noise: float
    vignetting: float
    chromatic_shift_px: float
    blur_px: float
    jpeg_quality: int
    gain: tuple[float, float, float]
    gamma: float


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
        return (
            np.array(self.light.ambient)[None] * sky[:, None] + np.array(self.light.sun)[None] * direct[:, None]
        ).astype(np.float32)


def draw_look(
    world: World, rendering: Rendering, layout: Layout, library: Library, shared: np.random.Generator,
    own: np.random.Generator,
) -> Look:  # fmt: skip
    """Draw the look of a drive; `shared` is the same for both renderings, `own` is not."""
    light = draw_light(world, layout.conditions, shared)
    dark = layout.conditions.time_of_day in ("night", "artificial_light", "twilight")
    sensor = None
    if rendering == "street":
        night = layout.conditions.time_of_day in ("night", "artificial_light")
        sensor = Sensor(
            noise=uniform(own, world.noise_levels) * (3.0 if night else 1.0),
            vignetting=uniform(own, world.vignetting),
            chromatic_shift_px=uniform(own, world.chromatic_shift_px),
            blur_px=uniform(own, world.blur_px),
            jpeg_quality=round(uniform(own, world.jpeg_quality)),
            gain=(float(own.normal(1.0, 0.03)), 1.0, float(own.normal(0.99, 0.04))),
            gamma=float(own.uniform(0.9, 1.2)),
        )
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
        narrow = 0.16 if sprite.classes[1] in (tx.TRAFFIC_SIGN, tx.POLE) else 0.42
        rows.append((sprite.width_m * narrow * 0.5, 0.1 + sprite.width_m * narrow * 0.25, sprite.height_m * 0.9))
    return np.array(rows, np.float32)


# ---------------------------------------------------------------- backdrop


def paint_backdrop(layout: Layout, view: View, look: Look, rng: np.random.Generator) -> tuple[
    npt.NDArray[np.uint32], npt.NDArray[np.uint16]
]:  # fmt: skip
    """Paint sky, clouds, far hills, woods and houses.

    Returns (height, width) packed colours and (height, width) backdrop class: 0 sky, 1 vegetation, 2 terrain, 3 building.
    """
    elevation = -(view.ray_y + np.float32(np.tan(view.pitch_rad)))[:, None] * np.ones((1, view.width), np.float32)
    color = _sky(elevation, view, look, rng)
    classes = np.zeros(elevation.shape, np.uint16)
    scene = layout.conditions.scene
    plan = {
        "urban": ((3, 0.05, 0.06, 1.0), (1, 0.02, 0.03, 0.7)),
        "freeway": ((2, 0.03, 0.03, 0.3), (1, 0.02, 0.016, 0.8)),
        "unmarked": ((2, 0.04, 0.05, 0.3), (1, 0.02, 0.02, 0.9)),
    }[scene]
    level = np.array(look.light.ambient if not look.dark else (0.9, 0.9, 0.9), np.float32) * 1.3
    hues = {1: (84, 92, 72), 2: (112, 120, 98), 3: (146, 142, 140)}
    for kind, base, spread, rough in plan:
        profile = base * rng.uniform(0.3, 1.2) + spread * _ridge(rng, view.width, rough, kind == 3)
        mask = elevation < profile[None, :].astype(np.float32)
        grain = 1 + (0.1 if kind != 3 else 0.04) * tx.periodic_noise(rng, 0.8, 256)
        tiled = np.tile(grain, (view.height // 256 + 1, view.width // 256 + 1))[: view.height, : view.width]
        painted = np.array(hues[kind], np.float32) * level * tiled[..., None]
        color = np.where(mask[..., None], painted, color)
        classes[mask] = kind
    rows = np.zeros((*classes.shape, 4), np.uint8)
    rows[..., :3] = np.clip(np.rint(color), 0, 255)
    return np.ascontiguousarray(rows).view(np.uint32)[..., 0], classes


def _ridge(rng: np.random.Generator, width: int, rough: float, blocks: bool) -> FloatArray:
    if blocks:
        edges = np.sort(rng.integers(0, width, 24))
        heights = rng.uniform(0, 1.0, 25) * (rng.random(25) < 0.7)
        return heights[np.searchsorted(edges, np.arange(width))].astype(np.float32)
    noise = tx.periodic_noise(rng, 2.2 - rough, 512)[0]
    profile = np.interp(np.linspace(0, 300, width), np.arange(512), noise)
    return (0.5 + 0.3 * profile).astype(np.float32)


def _sky(elevation: FloatArray, view: View, look: Look, rng: np.random.Generator) -> FloatArray:
    light = look.light
    rise = np.clip(elevation / 0.45, 0, 1)[..., None] ** np.float32(0.7)
    color = np.array(light.sky_horizon, np.float32) * (1 - rise) + np.array(light.sky_top, np.float32) * rise
    noise = tx.periodic_noise(rng, 1.7, 256)
    depth = 1 / (np.maximum(elevation, 0) + np.float32(0.10))
    u = (view.ray_x[None, :] * depth * 26).astype(np.int32) & 255
    v = (depth * 22).astype(np.int32) & 255
    cover = np.clip((noise[v, u] - 1.1 + 2.0 * light.clouds) * 0.55, 0, 1)[..., None]
    cover = cv2.GaussianBlur(cover, (0, 0), 1.0)[..., None]
    bright = np.array(light.sky_horizon, np.float32) * np.float32(1.04) * (0.88 + 0.12 * noise[u, v])[..., None]
    color = color * (1 - 0.85 * cover) + bright * 0.85 * cover
    if light.glare > 0:
        color = color + _sun_disc(elevation, view, light)[..., None] * np.array([255, 240, 200], np.float32)
    return color.astype(np.float32)


def _sun_disc(elevation: FloatArray, view: View, light: Light) -> FloatArray:
    sun = light.sun_direction
    away = np.hypot(view.ray_x[None, :] - sun[0] / sun[2], elevation - sun[1] / sun[2])
    return (light.glare * (np.exp(-((away / 0.035) ** 2)) + 0.55 * np.exp(-away / 0.16))).astype(np.float32)


# ---------------------------------------------------------------- finishing a frame


def finish(
    look: Look, view: View, texel: npt.NDArray[np.uint32], tint: npt.NDArray[np.uint32], inverse_z: FloatArray,
    label: npt.NDArray[np.uint8], scale: int, rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Turn texels, tints and depth at sampling resolution into the frame's image (height, width, 3) uint8."""
    height, width = texel.shape
    size = (width // scale, height // scale)
    base = cv2.multiply(
        texel.view(np.uint8).reshape(height, width, 4),
        tint.view(np.uint8).reshape(height, width, 4),
        scale=1 / tx.NEUTRAL,
    )
    small = cv2.resize(base, size, interpolation=cv2.INTER_AREA) if scale > 1 else base
    pick = slice(scale // 2, None, scale)
    z = 1 / inverse_z[pick, pick]
    label = label[pick, pick]
    sky = label == tx.SKY
    color = small[..., :3].astype(np.float32)
    if look.dark:
        color = _light_up(look, view, color, small[..., 3], z, sky, label, scale)
    if look.light.wet > 0:
        color = _reflect(look, view, color, label, scale)
    through = np.exp(-look.light.extinction_per_m * z)
    through[sky] = 1.0 if look.light.extinction_per_m < 0.012 else 0.15
    color = color * through[..., None] + np.array(look.light.airlight, np.float32) * (1 - through[..., None])
    color = _weather(look, view, color, scale, rng)
    if look.sensor is not None:
        return _sense(look.sensor, color, rng)
    return np.clip(np.rint(color), 0, 255).astype(np.uint8)


def _light_up(
    look: Look, view: View, color: FloatArray, glow: npt.NDArray[np.uint8], z: FloatArray, sky: npt.NDArray[np.bool_],
    label: npt.NDArray[np.uint8], scale: int,
) -> FloatArray:  # fmt: skip
    """Light a dark frame: ambient, the ego's headlights, street lamps, and what glows by itself with its halo."""
    light = look.light
    ray_x, ray_y = view.ray_x[scale // 2 :: scale], view.ray_y[scale // 2 :: scale]
    level = np.repeat(np.repeat(np.array(light.ambient, np.float32)[None, None], z.shape[0], 0), z.shape[1], 1)
    if light.headlights > 0:
        beam = np.exp(-((ray_x / 0.33) ** 2))[None, :] * np.where(ray_y > -0.02, 1.0, 0.22)[:, None].astype(np.float32)
        reach = beam / (1 + 3 * (z / look.headlight_range_m) ** 2)
        level += (light.headlights * 0.95 * reach)[..., None] * np.array([1.0, 0.98, 0.9], np.float32)
    if light.lamps > 0:
        pools = (0.55 + 0.45 * np.cos(z * np.float32(2 * np.pi / 28))) * np.exp(-z / 90)
        high = np.clip(1.0 + (ray_y + np.tan(view.pitch_rad)) * 2.2, 0.25, 1.0)[:, None]
        level += (light.lamps * 0.5 * pools * high)[..., None] * np.array([1.0, 0.84, 0.6], np.float32)
    level[sky] = 1.0
    lit = color * level
    shine = glow.astype(np.float32)[..., None] / np.float32(255)
    source = np.where((label == tx.BUILDING)[..., None], WARM, color * 1.15)
    emitted = source * shine
    halo = cv2.GaussianBlur(emitted, (0, 0), max(1.0, color.shape[1] / 90))
    return lit * (1 - shine) + emitted + 0.8 * halo


def _reflect(look: Look, view: View, color: FloatArray, label: npt.NDArray[np.uint8], scale: int) -> FloatArray:
    """Mirror the frame in the wet road about the horizon, smeared downwards."""
    height = color.shape[0]
    horizon = int(np.clip((view.center[1] - np.tan(view.pitch_rad) * view.focal) / scale, 1, height - 2))
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1)
    mirrored = cv2.blur(np.ascontiguousarray(color[rows]), (3, max(3, height // 9)))
    share = np.where(label == tx.ROAD, 0.45, np.where(label == tx.SIDEWALK, 0.22, 0.0)) * look.light.wet
    share[:horizon] = 0
    share = share[..., None].astype(np.float32)
    return color * (1 - 0.35 * share) * (1 - share * 0.6) + mirrored * share * 0.85


def _weather(look: Look, view: View, color: FloatArray, scale: int, rng: np.random.Generator) -> FloatArray:
    height, width = color.shape[:2]
    light = look.light
    if light.glare > 0:
        elevation = -(view.ray_y[scale // 2 :: scale] + np.float32(np.tan(view.pitch_rad)))[:, None]
        sun = light.sun_direction
        away = np.hypot(view.ray_x[None, scale // 2 :: scale] - sun[0] / sun[2], elevation - sun[1] / sun[2])
        veil = (light.glare * 0.42 * np.exp(-away / 0.3)).astype(np.float32)[..., None]
        color = color * (1 - 0.3 * light.glare * (1 - veil)) + veil * np.array([255, 236, 196], np.float32)
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
    for x, y in zip(
        rng.integers(0, width, count // 12).tolist(), rng.integers(0, height, count // 12).tolist(), strict=True
    ):
        cv2.circle(layer, (x, y), 1 + width // 500, 235, -1)
    return cv2.GaussianBlur(layer, (3, 3), 0.6).astype(np.float32) / np.float32(255)


def _sense(sensor: Sensor, color: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Pass an image through lens and sensor: vignetting, blur, chromatic shift, white balance, tone, noise, JPEG."""
    height, width = color.shape[:2]
    unit = width / REFERENCE_WIDTH_PX
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    color = color * (1 - np.float32(sensor.vignetting) * (x * x + 0.6 * y * y) / np.float32(1.6))[..., None]
    color = color * np.array(sensor.gain, np.float32)
    if sensor.blur_px > 0:
        color = cv2.GaussianBlur(color, (0, 0), sensor.blur_px * unit)
    image = np.clip(color, 0, 255)
    image = (image / np.float32(255)) ** np.float32(sensor.gamma) * np.float32(255)
    image = _chromatic(image, sensor.chromatic_shift_px * unit)
    if sensor.noise > 0:
        image = image + rng.standard_normal((height, width, 3), np.float32) * np.float32(sensor.noise)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality])
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1])


def _chromatic(image: FloatArray, shift_px: float) -> FloatArray:
    """Scale red up and blue down about the middle so that they part by `shift_px` at the left and right edges."""
    if shift_px <= 0:
        return image
    height, width = image.shape[:2]
    planes = list(cv2.split(image))
    for channel, sign in ((0, 1.0), (2, -1.0)):
        grow = 1 + sign * shift_px / width
        matrix = np.array([[grow, 0, (1 - grow) * width / 2], [0, grow, (1 - grow) * height / 2]], np.float64)
        planes[channel] = cv2.warpAffine(planes[channel], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return cv2.merge(planes)
