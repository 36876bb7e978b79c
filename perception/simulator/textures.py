"""Texture tiles and materials: what a surface looks like in each rendering, and its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from perception.data.taxonomies import IGNORE
from perception.simulator.world import Rendering

FloatArray = npt.NDArray[np.float32]

TILE_PX = 128
TILE_LEVELS = 8  # mip levels: 128, 64, ..., 1
NEUTRAL = 180.0  # tile value that leaves a tint unchanged
PALETTE = 16  # colours a material and rendering

# Cityscapes train ids.
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)
VOID = IGNORE
FOREGROUND = (TRAFFIC_LIGHT, TRAFFIC_SIGN, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE)


@dataclass(frozen=True)
class Tiles:
    """Hold all tiles with their mip levels in one flat array.

    `texels`: (texel,) uint32, packed red, green, blue, glow; level L of tile t starts at
    `level_offsets[L] + t * (TILE_PX >> L) ** 2`. `names` gives the tiles' numbers.
    """

    texels: npt.NDArray[np.uint32]
    level_offsets: npt.NDArray[np.int32]
    names: dict[str, int]


def periodic_noise(rng: np.random.Generator, falloff: float, size: int = TILE_PX, stretch: float = 1.0) -> FloatArray:
    """Draw noise that repeats without a seam, with amplitude spectrum 1 / frequency ** falloff.

    Returns (size, size) float32 with mean 0 and standard deviation 1. `stretch` above 1 elongates it along the rows.
    """
    frequency_y = np.fft.fftfreq(size)[:, None] * size
    frequency_x = np.fft.rfftfreq(size)[None, :] * size
    radius = np.hypot(frequency_y, frequency_x * stretch)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / radius**falloff
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return np.asarray(noise / noise.std(), np.float32)


@lru_cache(maxsize=2)
def build_noise(seed: int) -> FloatArray:
    """Draw the noise that drives take pieces of: (5, 256, 256) float32, falloffs 0.8, 1.2, 1.7, 2.0 and 0."""
    rng = np.random.default_rng([seed, 13])
    return np.stack([periodic_noise(rng, falloff, 256) for falloff in (0.8, 1.2, 1.7, 2.0, 0.0)])


def _gray(values: FloatArray) -> FloatArray:
    """Make a neutral tile without glow from (size, size) values around 1. Returns (size, size, 4)."""
    tile = np.zeros((*values.shape, 4), np.float32)
    tile[..., :3] = values[..., None]
    return tile


def _speckle(rng: np.random.Generator, contrast: float, falloff: float, grain: float) -> FloatArray:
    values = 1 + contrast * periodic_noise(rng, falloff) + grain * rng.standard_normal((TILE_PX, TILE_PX))
    return _gray(values.astype(np.float32))


def _asphalt(rng: np.random.Generator, rough: float) -> FloatArray:
    tile = _speckle(rng, 0.06 * rough, 1.2, 0.07 * rough)
    for _ in range(int(2 + 2 * rough)):  # cracks and repairs
        start = rng.integers(0, TILE_PX, 2)
        steps = np.cumsum(rng.integers(-9, 10, (8, 2)), axis=0) + start
        shade = np.ascontiguousarray(tile[..., 0])
        cv2.polylines(shade, [steps.reshape(-1, 1, 2).astype(np.int32)], False, 0.78, 1)
        tile[..., :3] = shade[..., None]
    return tile


def _slabs(rng: np.random.Generator, rough: float) -> FloatArray:
    cells = 1 + 0.07 * rough * rng.standard_normal((8, 8))
    values = np.kron(cells, np.ones((16, 16)))
    values += 0.05 * rough * periodic_noise(rng, 0.9)
    values[::16, :] *= 0.8
    values[:, ::16] *= 0.85
    return _gray(values.astype(np.float32))


def _bricks(rng: np.random.Generator, rough: float) -> FloatArray:
    values = np.ones((TILE_PX, TILE_PX), np.float32) * 1.15  # mortar
    for row in range(16):
        for column in range(8):
            left = (column * 16 + (row % 2) * 8) % TILE_PX
            shade = 1 + 0.13 * rough * float(rng.standard_normal())
            block = [(left + i) % TILE_PX for i in range(15)]
            values[row * 8 : row * 8 + 7, block] = shade
    return _gray(values + np.float32(0.06 * rough) * periodic_noise(rng, 1.0))


def _planks(rng: np.random.Generator, rough: float, gap: float, rails: bool) -> FloatArray:
    values = np.ones((TILE_PX, TILE_PX), np.float32)
    for left in range(0, TILE_PX, 16):
        values[:, left : left + 16] *= 1 + 0.1 * rough * float(rng.standard_normal())
        values[:, left : left + max(1, int(16 * gap))] *= 0.35
    if rails:
        values[10:20], values[100:110] = 0.95, 0.9
    return _gray(values + np.float32(0.05 * rough) * periodic_noise(rng, 1.0, stretch=0.2))


def _mesh(rng: np.random.Generator) -> FloatArray:
    values = 0.55 + 0.15 * periodic_noise(rng, 1.2)  # what is seen through it
    for left in range(0, TILE_PX, 8):
        values[:, left : left + 2] = 1.0
    values[0:6], values[118:128], values[:, 0:5] = 1.1, 1.05, 1.1
    return _gray(values.astype(np.float32))


def _foliage(rng: np.random.Generator, rough: float) -> FloatArray:
    leaves = 0.23 * periodic_noise(rng, 0.55) + 0.22 * periodic_noise(rng, 1.3)
    tile = _gray((1 + rough * leaves).astype(np.float32))
    yellow = 0.1 * rough * periodic_noise(rng, 1.2)
    tile[..., 0] *= 1 + yellow
    tile[..., 2] *= 1 - yellow
    return tile


def _facade(rng: np.random.Generator, base: FloatArray, style: int, rough: float) -> FloatArray:
    """Put four by four windows on a wall tile; the windows' glow says which are lit at night."""
    tile = base.copy()
    width = (16, 12, 26, 20, 10)[style % 5]
    height = (20, 22, 18, 14, 24)[style % 5]
    for row in range(4):
        if style % 3 == 1:  # cornice between floors
            tile[row * 32 : row * 32 + 3, :, :3] *= 1.18
            tile[row * 32 + 3, :, :3] *= 0.7
        for column in range(4):
            top, left = row * 32 + (30 - height) // 2 + 2, column * 32 + (32 - width) // 2
            _window(rng, tile[top : top + height, left : left + width], style, rough)
            if style % 2 == 0:  # sill
                tile[top + height : top + height + 2, left - 1 : left + width + 1, :3] *= 1.2
    return tile


def _window(rng: np.random.Generator, pane: FloatArray, style: int, rough: float) -> None:
    sky = float(rng.uniform(0.22, 0.62))
    gradient = np.linspace(sky * 1.25, sky * 0.65, pane.shape[0], dtype=np.float32)[:, None]
    pane[..., :3] = gradient[..., None] * np.array([0.88, 0.98, 1.1], np.float32)
    if rng.random() < 0.35 * rough:  # curtain or blind
        pane[: int(pane.shape[0] * rng.uniform(0.3, 0.9)), :, :3] = rng.uniform(0.7, 1.1)
    frame = 0.35 if style % 4 == 3 else 1.15
    pane[0, :, :3] = pane[-1, :, :3] = frame
    pane[:, 0, :3] = pane[:, -1, :3] = frame
    pane[:, pane.shape[1] // 2, :3] = frame
    if rng.random() < 0.3:
        pane[1:-1, 1:-1, 3] = rng.uniform(0.5, 1.0)


def _shop(rng: np.random.Generator, rough: float) -> FloatArray:
    """Draw one storey of shop fronts: fascia, glass, doors; the tile is four metres high."""
    tile = np.ones((TILE_PX, TILE_PX, 4), np.float32) * np.array([0.55, 0.55, 0.55, 0.0], np.float32)
    left = 0
    while left < TILE_PX:
        width = int(rng.integers(26, 56))
        right = min(left + width, TILE_PX)
        fascia = rng.uniform(0.25, 1.2, 3) * (0.5 + 0.5 * rough)
        tile[8:30, left:right, :3] = fascia
        for x in range(left + 4, right - 4, 5):  # lettering
            if rng.random() < 0.7:
                tile[15 : 15 + int(rng.integers(5, 9)), x : x + 3, :3] = 1.35 if fascia.mean() < 0.8 else 0.3
        tile[34:112, left + 2 : right - 2, :3] = np.float32(rng.uniform(0.15, 0.4))
        for _ in range(5):  # goods, posters, reflections
            x, y = int(rng.integers(left + 2, max(left + 3, right - 8))), int(rng.integers(40, 95))
            tile[y : y + int(rng.integers(6, 18)), x : min(x + int(rng.integers(4, 10)), right - 2), :3] = rng.uniform(
                0.2, 1.0, 3
            )
        tile[34:112, left + 2 : right - 2, 3] = rng.uniform(0.4, 1.0) if rng.random() < 0.75 else 0.0
        tile[30:, left : left + 2, :3] = fascia * 0.8
        left = right
    return tile


def _roof(rng: np.random.Generator, rough: float) -> FloatArray:
    values = 1 + 0.1 * rough * rng.standard_normal((16, 16))
    tiles = np.kron(values, np.ones((8, 8))).astype(np.float32)
    tiles[::8] *= 0.75
    return _gray(tiles)


def _bark(rng: np.random.Generator, rough: float) -> FloatArray:
    return _gray(1 + np.float32(0.25 * rough) * periodic_noise(rng, 0.8, stretch=0.2))


def _corrugated(rng: np.random.Generator, rough: float) -> FloatArray:
    ridge = 1 + 0.12 * np.sign(np.sin(np.arange(TILE_PX) * 2 * np.pi / 8))[None, :]
    return _gray((ridge + 0.05 * rough * periodic_noise(rng, 1.5)).astype(np.float32))


def _lettered(rng: np.random.Generator, rough: float) -> FloatArray:
    """Draw a vehicle's side with a company's stripe and lettering."""
    tile = _gray(1 + np.float32(0.05 * rough) * periodic_noise(rng, 1.5))
    tile[70:90, :, :3] *= rng.uniform(0.3, 1.0, 3).astype(np.float32)
    for x in range(10, 118, 12):
        tile[30 : 30 + int(rng.integers(14, 24)), x : x + 7, :3] *= 0.35
    return tile


def _wild(rng: np.random.Generator) -> FloatArray:
    """Draw a loud random pattern for shape-biased training."""
    tile = np.zeros((TILE_PX, TILE_PX, 4), np.float32)
    if rng.random() < 0.5:
        for channel in range(3):
            tile[..., channel] = 0.75 + 0.4 * periodic_noise(rng, float(rng.uniform(0.5, 2.0)))
        return tile
    cells = int(rng.choice([4, 8, 16]))
    colors = rng.uniform(0.1, 1.4, (cells, cells, 3))
    tile[..., :3] = np.kron(colors, np.ones((TILE_PX // cells, TILE_PX // cells, 1)))
    return tile


def _glow() -> FloatArray:
    return np.ones((TILE_PX, TILE_PX, 4), np.float32)


def _recipes(rough: float) -> dict[str, Callable[[np.random.Generator], FloatArray]]:
    recipes: dict[str, Callable[[np.random.Generator], FloatArray]] = {
        "plain": lambda _: _gray(np.ones((TILE_PX, TILE_PX), np.float32)),
        "asphalt": lambda r: _asphalt(r, rough),
        "slabs": lambda r: _slabs(r, rough),
        "grass": lambda r: _speckle(r, 0.14 * rough, 0.7, 0.1 * rough),
        "dirt": lambda r: _speckle(r, 0.12 * rough, 1.1, 0.05 * rough),
        "snow": lambda r: _speckle(r, 0.04, 1.2, 0.02),
        "plaster": lambda r: _speckle(r, 0.05 * rough, 1.4, 0.02),
        "concrete": lambda r: _speckle(r, 0.08 * rough, 1.3, 0.03),
        "bricks": lambda r: _bricks(r, rough),
        "planks": lambda r: _planks(r, rough, 0.07, rails=False),
        "pickets": lambda r: _planks(r, rough, 0.45, rails=True),
        "mesh": _mesh,
        "roof": lambda r: _roof(r, rough),
        "bark": lambda r: _bark(r, rough),
        "corrugated": lambda r: _corrugated(r, rough),
        "glow": lambda _: _glow(),
        "paint": lambda r: _speckle(r, 0.05, 1.8, 0.015),
        "glass": lambda r: _speckle(r, 0.3, 1.6, 0.02),
        "cloth": lambda r: _speckle(r, 0.1, 1.0, 0.05),
    }
    for i in range(3):
        recipes[f"foliage{i}"] = lambda r: _foliage(r, rough)
        recipes[f"lettered{i}"] = lambda r: _lettered(r, rough)
    for i in range(4):
        recipes[f"shop{i}"] = lambda r: _shop(r, rough)
    for i in range(8):
        recipes[f"wild{i}"] = _wild
    for i in range(10):
        wall = (_masonry, _render)[i % 2]
        recipes[f"facade{i}"] = lambda r, i=i, wall=wall: _facade(r, wall(r, rough), i, rough)  # type: ignore[misc]
    return recipes


def _render(rng: np.random.Generator, rough: float) -> FloatArray:
    return _speckle(rng, 0.06 * rough, 1.4, 0.02)


def _masonry(rng: np.random.Generator, rough: float) -> FloatArray:
    """Draw brickwork seen from across a street: courses of bricks too small to count, weathered."""
    courses = (
        1 + 0.05 * rough * rng.standard_normal((TILE_PX, 1)) + 0.09 * rough * rng.standard_normal((TILE_PX, TILE_PX))
    )
    return _gray((courses + 0.05 * rough * periodic_noise(rng, 1.4)).astype(np.float32))


@lru_cache(maxsize=4)
def build_tiles(rendering: Rendering, seed: int) -> Tiles:
    """Draw every tile of one rendering with its mip levels."""
    rough = 1.0 if rendering == "street" else 0.6
    names: dict[str, int] = {}
    bases = []
    for name, recipe in _recipes(rough).items():
        rng = np.random.default_rng([seed, len(names), rendering == "street"])
        names[name] = len(names)
        bases.append(np.clip(recipe(rng) * np.array([NEUTRAL] * 3 + [255.0], np.float32), 0, 255))
    levels, offsets, offset = [], [], 0
    for level in range(TILE_LEVELS):
        size = TILE_PX >> level
        offsets.append(offset)
        for base in bases:
            shrunk = cv2.resize(base, (size, size), interpolation=cv2.INTER_AREA)
            levels.append(np.rint(shrunk).astype(np.uint8).reshape(-1, 4))
        offset += len(bases) * size * size
    texels = np.ascontiguousarray(np.concatenate(levels)).view(np.uint32).reshape(-1)
    return Tiles(texels, np.array(offsets, np.int32), names)


Color = tuple[int, int, int]


@dataclass(frozen=True)
class Material:
    """Say how a surface looks: tiles to choose from, metres a tile covers, colours by rendering."""

    name: str
    tiles: tuple[str, ...]
    tile_m: float
    street: tuple[Color, ...]
    simulator: tuple[Color, ...]
    simulator_tiles: tuple[str, ...] | None = None  # None: as street
    glows: bool = False  # shines by itself
    tile_height_m: float | None = None  # where a tile is not as high as wide


_PLAIN = ("plain",)
_CAR_STREET: tuple[Color, ...] = (
    (28, 29, 32), (22, 22, 24), (196, 198, 200), (150, 153, 157), (168, 171, 176), (222, 223, 222), (120, 124, 130),
    (44, 55, 82), (30, 42, 70), (126, 28, 30), (92, 96, 100), (205, 207, 210), (60, 72, 66), (80, 130, 150),
    (64, 66, 70), (170, 150, 110),
)  # fmt: skip
_WRONG: tuple[Color, ...] = (
    (214, 72, 60), (70, 180, 86), (74, 96, 214), (222, 196, 70), (186, 84, 196), (72, 196, 200), (226, 140, 60),
    (150, 210, 90), (226, 120, 160), (110, 120, 230), (90, 200, 150), (200, 170, 230), (230, 220, 140),
    (140, 90, 60), (170, 60, 100), (120, 160, 200),
)  # fmt: skip
_CLOTH_STREET: tuple[Color, ...] = (
    (30, 31, 36), (44, 46, 54), (24, 25, 28), (60, 64, 78), (38, 48, 74), (90, 88, 86), (110, 96, 80), (70, 40, 40),
    (150, 148, 144), (200, 196, 190), (52, 62, 50), (34, 36, 44), (130, 40, 44), (80, 96, 128), (46, 40, 38),
    (170, 150, 60),
)  # fmt: skip
_BUILDING_STREET: tuple[Color, ...] = (
    (168, 150, 128), (188, 176, 156), (150, 112, 90), (140, 96, 76), (176, 168, 160), (120, 108, 100), (196, 188, 170),
    (160, 140, 110), (132, 120, 112), (178, 156, 120), (208, 202, 192), (110, 92, 82), (186, 164, 140), (150, 146, 144),
    (170, 128, 100), (98, 90, 88),
)  # fmt: skip
_BUILDING_SIMULATOR: tuple[Color, ...] = (
    (184, 158, 128), (198, 184, 152), (166, 112, 84), (152, 92, 70), (180, 172, 160), (128, 112, 98), (204, 194, 170),
    (172, 146, 104), (142, 124, 110), (190, 162, 114), (212, 206, 192), (122, 94, 78), (196, 168, 136), (158, 152, 146),
    (184, 130, 94), (108, 96, 88),
)  # fmt: skip
_GREEN_STREET: tuple[Color, ...] = ((64, 78, 42), (78, 88, 50), (54, 70, 40), (88, 92, 54), (70, 74, 46), (96, 98, 60))
_GREEN_SIMULATOR: tuple[Color, ...] = ((58, 92, 40), (72, 104, 46), (50, 84, 38), (84, 108, 50), (66, 88, 42))


def _same(*colors: Color) -> tuple[tuple[Color, ...], tuple[Color, ...]]:
    return colors, colors


_WALLS = ((150, 146, 138), (128, 110, 96), (170, 166, 158), (112, 104, 98), (140, 96, 80))
_FENCES = ((104, 84, 64), (60, 62, 60), (150, 146, 140), (44, 66, 50), (128, 106, 80))
_FACADES = tuple(f"facade{i}" for i in range(10))
_LEAVES = ("foliage0", "foliage1", "foliage2")

MATERIALS: tuple[Material, ...] = (
    # Ground and background: the simulator's texture is plausible.
    Material("asphalt", ("asphalt",), 6.0, ((96, 96, 98), (110, 109, 108), (84, 85, 88), (120, 118, 114)),
             ((88, 89, 92), (102, 102, 102), (94, 93, 90))),
    Material("marking", ("concrete",), 3.0, ((206, 206, 200), (190, 188, 180), (216, 216, 210)), ((226, 226, 222),)),
    Material("marking_yellow", ("concrete",), 3.0, ((186, 160, 70), (196, 172, 90)), ((214, 184, 60),)),
    Material("paving", ("slabs",), 4.0, ((140, 136, 130), (124, 120, 116), (152, 142, 132), (110, 106, 104)),
             ((148, 144, 138), (136, 130, 122))),
    Material("curb", ("concrete",), 3.0, *_same((158, 156, 150), (140, 138, 134))),
    Material("grass", ("grass",), 7.0, ((96, 102, 58), (110, 108, 66), (84, 94, 54), (122, 114, 76)),
             ((88, 114, 56), (100, 122, 60), (116, 118, 66))),
    Material("dirt", ("dirt",), 7.0, ((132, 116, 92), (116, 104, 86)), ((140, 118, 88),)),
    Material("facade", _FACADES, 12.8, _BUILDING_STREET, _BUILDING_SIMULATOR),
    Material("shop", ("shop0", "shop1", "shop2", "shop3"), 14.0,
             *_same((196, 190, 180), (160, 150, 140), (140, 136, 132)), tile_height_m=3.4),
    Material("roof", ("roof",), 6.0, ((96, 80, 74), (74, 74, 78), (120, 84, 66)), ((110, 84, 72), (80, 80, 84))),
    Material("skyline", _FACADES, 40.0, ((150, 150, 154), (136, 132, 130)), ((150, 150, 156),)),
    Material("wall", ("concrete", "bricks"), 4.0, *_same(*_WALLS)),
    Material("barrier", ("corrugated", "concrete"), 8.0, ((140, 142, 138), (120, 128, 118)), ((150, 152, 146),)),
    Material("fence", ("pickets", "mesh", "planks"), 3.0, *_same(*_FENCES)),
    Material("rail", ("plain",), 3.0, *_same((150, 152, 154), (132, 134, 136))),
    Material("pole", ("concrete",), 2.0, ((84, 86, 86), (120, 122, 122), (60, 62, 62), (104, 96, 84)),
             ((96, 98, 100), (128, 130, 130))),
    Material("leaves", _LEAVES, 4.0, _GREEN_STREET, _GREEN_SIMULATOR),
    Material("bark", ("bark",), 1.5, ((76, 66, 56), (92, 84, 74)), ((86, 70, 52),)),
    Material("hill", _LEAVES, 60.0, ((104, 112, 98), (118, 122, 108)), ((98, 122, 92),)),
    Material("clutter", ("plain", "corrugated"), 1.5, ((50, 66, 54), (90, 90, 92), (120, 60, 40)), ((80, 110, 90),)),
    # Foreground: the simulator gives true shape with flat, wrong texture.
    Material("body", ("paint",), 2.0, _CAR_STREET, _WRONG, _PLAIN),
    Material("side", ("lettered0", "lettered1", "lettered2", "corrugated", "paint"), 6.0,
             ((220, 220, 216), (186, 188, 190), (196, 60, 52), (60, 96, 150), (208, 176, 70), (90, 110, 100)),
             _WRONG, _PLAIN),
    Material("glass", ("glass",), 1.7, ((46, 54, 60), (66, 76, 84), (36, 42, 46), (90, 102, 110)), _WRONG, _PLAIN),
    Material("tyre", ("plain",), 1.0, ((26, 26, 27), (34, 34, 34)), ((120, 124, 130), (70, 72, 80), (150, 140, 120)),
             _PLAIN),
    Material("rim", ("plain",), 1.0, ((130, 132, 136), (96, 98, 102)), ((170, 172, 180), (200, 200, 120)), _PLAIN),
    Material("trim", ("plain",), 1.0, ((32, 33, 35), (52, 54, 57)), _WRONG, _PLAIN),
    Material("plate", ("plain",), 1.0, ((214, 212, 204), (208, 184, 60)), _WRONG, _PLAIN),
    Material("headlight", ("glow",), 1.0, ((226, 228, 222),), _WRONG, _PLAIN, glows=True),
    Material("taillight", ("glow",), 1.0, ((168, 24, 22), (140, 20, 20)), _WRONG, _PLAIN, glows=True),
    Material("skin", ("plain",), 1.0, ((196, 150, 126), (150, 108, 84), (98, 70, 54), (210, 168, 146)), _WRONG, _PLAIN),
    Material("hair", ("plain",), 1.0, ((42, 32, 26), (26, 24, 22), (110, 84, 56), (140, 136, 130)), _WRONG, _PLAIN),
    Material("jacket", ("cloth",), 0.8, _CLOTH_STREET, _WRONG, _PLAIN),
    Material("trousers", ("cloth",), 0.8, _CLOTH_STREET[:7], _WRONG, _PLAIN),
    Material("shoe", ("plain",), 1.0, ((28, 26, 25), (60, 50, 44), (150, 148, 144)), _WRONG, _PLAIN),
    Material("frame", ("paint",), 1.0, ((34, 36, 40), (120, 30, 30), (40, 66, 110), (150, 152, 156)), _WRONG, _PLAIN),
    Material("spokes", ("glass",), 0.6, ((96, 96, 94), (120, 118, 112)), _WRONG, _PLAIN),
    Material("housing", ("plain",), 1.0, ((30, 32, 32), (44, 46, 44)), _WRONG, _PLAIN),
    Material("lamp_red", ("glow",), 1.0, ((236, 48, 36),), ((200, 160, 120),), _PLAIN, glows=True),
    Material("lamp_amber", ("glow",), 1.0, ((240, 160, 40),), ((160, 200, 120),), _PLAIN, glows=True),
    Material("lamp_green", ("glow",), 1.0, ((60, 220, 140),), ((120, 160, 200),), _PLAIN, glows=True),
    Material("lamp_off", ("plain",), 1.0, ((56, 44, 42), (50, 50, 40), (40, 52, 46)), _WRONG, _PLAIN),
    Material("sign_red", ("plain",), 1.0, ((176, 34, 36), (150, 36, 40)), _WRONG, _PLAIN),
    Material("sign_white", ("plain",), 1.0, ((218, 218, 214), (196, 196, 190)), _WRONG, _PLAIN),
    Material("sign_blue", ("plain",), 1.0, ((36, 74, 150), (30, 60, 120)), _WRONG, _PLAIN),
    Material("sign_yellow", ("plain",), 1.0, ((222, 186, 50),), _WRONG, _PLAIN),
    Material("sign_green", ("plain",), 1.0, ((26, 96, 70),), _WRONG, _PLAIN),
    Material("sign_ink", ("plain",), 1.0, ((30, 30, 32),), _WRONG, _PLAIN),
    Material("lamp_street", ("glow",), 1.0, ((210, 206, 190),), ((210, 206, 190),), glows=True),
)  # fmt: skip
MATERIAL_ID: dict[str, int] = {m.name: i for i, m in enumerate(MATERIALS)}


@dataclass(frozen=True)
class Looks:
    """Hold the materials of one rendering as tables.

    `color`: (material, PALETTE, 3) float32; `tile`: (material, PALETTE) int32; `tile_m`, `tile_height_m`: (material,)
    float32;
    `glows`: (material,) bool; `wild`: (8,) int32 tiles for randomised foreground.
    """

    color: FloatArray
    tile: npt.NDArray[np.int32]
    tile_m: FloatArray
    tile_height_m: FloatArray
    glows: npt.NDArray[np.bool_]
    wild: npt.NDArray[np.int32]


@lru_cache(maxsize=4)
def build_looks(rendering: Rendering, seed: int) -> Looks:
    """Lay the materials of one rendering out as tables, with a little variation of every colour."""
    tiles = build_tiles(rendering, seed)
    rng = np.random.default_rng([seed, 7, rendering == "street"])
    color = np.zeros((len(MATERIALS), PALETTE, 3), np.float32)
    tile = np.zeros((len(MATERIALS), PALETTE), np.int32)
    for i, material in enumerate(MATERIALS):
        colors = material.street if rendering == "street" else material.simulator
        names = material.tiles if rendering == "street" else material.simulator_tiles or material.tiles
        for k in range(PALETTE):
            color[i, k] = np.array(colors[k % len(colors)]) * (1 + 0.05 * rng.standard_normal())
            tile[i, k] = tiles.names[names[int(rng.integers(len(names)))]]
    return Looks(
        color=color,
        tile=tile,
        tile_m=np.array([m.tile_m for m in MATERIALS], np.float32),
        tile_height_m=np.array([m.tile_height_m or m.tile_m for m in MATERIALS], np.float32),
        glows=np.array([m.glows for m in MATERIALS]),
        wild=np.array([tiles.names[f"wild{i}"] for i in range(8)], np.int32),
    )
