"""Texture tiles and materials: what a surface looks like in each rendering, and its class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

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


def _recipes(rough: float) -> dict[str, Callable[[np.random.Generator], FloatArray]]:
    def wall(rng: np.random.Generator, style: int) -> FloatArray:
        return _speckle(rng, 0.06 * rough, 1.4, 0.02) if style % 2 else _masonry(rng, rough)

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
        "glow": lambda _: np.ones((TILE_PX, TILE_PX, 4), np.float32),
        "paint": lambda r: _speckle(r, 0.05, 1.8, 0.015),
        "glass": lambda r: _speckle(r, 0.3, 1.6, 0.02),
        "cloth": lambda r: _speckle(r, 0.1, 1.0, 0.05),
    }
    for i in range(3):
        recipes |= {f"foliage{i}": lambda r: _foliage(r, rough), f"lettered{i}": lambda r: _lettered(r, rough)}
    recipes |= {f"shop{i}": lambda r: _shop(r, rough) for i in range(4)} | {f"wild{i}": _wild for i in range(8)}
    for i in range(10):
        recipes[f"facade{i}"] = lambda r, i=i: _facade(r, wall(r, i), i, rough)  # type: ignore[misc]
    return recipes


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


@dataclass(frozen=True)
class Material:
    """Say how a surface looks: an entry of materials.yaml, which explains them."""

    name: str
    tiles: Sequence[str]
    tile_m: float
    street: Sequence[Sequence[int]]  # colours
    simulator: Sequence[Sequence[int]]
    simulator_tiles: Sequence[str] | None = None  # None: as street
    glows: bool = False  # shines by itself
    tile_height_m: float | None = None  # where a tile is not as high as wide


def read_table(name: str) -> dict[str, Any]:
    """Read a YAML file beside this one."""
    table: dict[str, Any] = yaml.load(Path(__file__).with_name(name).read_text("utf-8"), Loader=yaml.CSafeLoader)
    return table


MATERIALS = tuple(Material(name=name, **row) for name, row in read_table("materials.yaml")["materials"].items())
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
