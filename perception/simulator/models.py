"""Shapes of things: polygon models for what is solid, part maps (sprites) for what is intricate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from perception.simulator import textures as tx
from perception.simulator.textures import MATERIAL_ID, FloatArray

CORNERS = 8  # vertices a polygon; shorter ones repeat their last vertex

Point3 = tuple[float, float, float]
Surface = tuple[int, int, int]  # material, slot (which of the thing's colour choices it follows), class


@dataclass
class MeshBuilder:
    """Collect outward-facing polygons; local axes are x right, y up, z forward, in metres."""

    class_id: int
    center: Point3 = (0.0, 0.5, 0.0)  # a point inside: faces are turned away from it
    polygons: list[FloatArray] = field(default_factory=list)
    surfaces: list[Surface] = field(default_factory=list)  # of each polygon
    solids: list[tuple[float, float]] = field(default_factory=list)  # x, z of the middle of the solid of each polygon
    solid: tuple[float, float] = (0.0, 0.0)  # of what is added next; a model's solids are painted far to near

    def face(self, points: Sequence[Point3], material: str, slot: int = 0) -> None:
        """Add a convex polygon of 3 to 8 vertices; `slot` says which of the thing's colour choices it follows."""
        corners = np.array(points, np.float32)
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        if np.dot(normal, corners.mean(axis=0) - np.array(self.center)) < 0:
            corners = corners[::-1]
        padding = np.repeat(corners[-1:], CORNERS - len(corners), axis=0)
        self.polygons.append(np.concatenate([corners, padding]))
        self.surfaces.append((MATERIAL_ID[material], slot, self.class_id))
        self.solids.append(self.solid)

    def box(self, low: Point3, high: Point3, material: str, slot: int = 0, top: str | None = None) -> None:
        """Add the four sides and the top of an axis-aligned box."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        keep, self.center = self.center, ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2)
        for x in (x0, x1):
            self.face([(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)], material, slot)
        for z in (z1, z0):
            self.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], material, slot)
        self.face([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], top or material, slot)
        self.center = keep

    def across(self, low: Point3, high: Point3, material: str, slot: int = 0) -> None:
        """Add a face that is symmetric in x, from (-x, y, z) and (x, y, z) of `low` to those of `high`."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.face([(-x0, y0, z0), (x0, y0, z0), (x1, y1, z1), (-x1, y1, z1)], material, slot)

    def plate(self, x: float, y: float, z: float, half_x: float, half_y: float, material: str) -> None:
        """Add an upright rectangle across the road about its middle."""
        self.face([(x - half_x, y - half_y, z), (x + half_x, y - half_y, z), (x + half_x, y + half_y, z),
                   (x - half_x, y + half_y, z)], material, 1)  # fmt: skip

    def wheel(self, x: float, z: float, radius: float) -> None:
        """Add a wheel that stands at x, z, seen from its outer side."""
        angles = np.arange(8) * np.pi / 4 + np.pi / 8
        for r, material, out in ((radius, "tyre", 0.01), (radius * 0.58, "rim", 0.02)):
            ring = [(x + np.sign(x) * out, radius + r * float(np.sin(a)), z + r * float(np.cos(a))) for a in angles]
            self.face(ring, material, 2)

    def side_windows(self, half: float, y0: float, y1: float, z0: float, z1: float, panes: int) -> None:
        """Add rows of windows on both sides, x = -half and half, from z0 to z1."""
        step = (z1 - z0) / panes
        for x in (-half - 0.015, half + 0.015):
            for i in range(panes):
                a, b = z0 + i * step + 0.06, z0 + (i + 1) * step - 0.06
                self.face([(x, y0, a), (x, y0, b), (x, y1, b), (x, y1, a)], "glass", 1)

    def part_at(self, x: float, z: float) -> None:
        """Say where the middle of the solid is that the next faces belong to."""
        self.solid = (x, z)


def mesh_of(shape: Mapping[str, Any]) -> MeshBuilder:
    """Build a solid of shapes.yaml."""
    mesh = MeshBuilder(_class_id(shape["class"]), tuple(shape.get("center", MeshBuilder.center)))
    for operation, *arguments in shape["parts"]:
        getattr(mesh, operation)(*arguments)
    return mesh


def _class_id(name: str) -> int:
    class_id: int = getattr(tx, name.upper())
    return class_id


# Saloon, hatchback, estate, SUV, van, pick-up: length, width, height of the waist and of the roof, in metres.
_CAR_SIZES = (
    (4.5, 1.78, 0.93, 1.44), (3.9, 1.7, 0.95, 1.5), (4.6, 1.8, 0.95, 1.5),
    (4.6, 1.9, 1.08, 1.74), (5.1, 1.95, 1.15, 2.05), (5.2, 1.9, 1.05, 1.78),
)  # fmt: skip
# Of the same: length of the hood, run of the windscreen, run of the rear window, what lies behind it, in metres.
_CAR_CABINS = (
    (1.15, 0.85, 0.65, 0.85), (0.8, 0.75, 0.35, 0.08), (1.1, 0.8, 0.35, 0.05),
    (1.05, 0.7, 0.35, 0.06), (0.55, 0.75, 0.1, 0.03), (1.1, 0.7, 0.3, 1.9),
)  # fmt: skip


def car_mesh(style: int) -> MeshBuilder:
    """Build a saloon (0), hatchback (1), estate (2), SUV (3), van (4) or pick-up (5), nose towards +z."""
    length, width, waist, height = _CAR_SIZES[style]
    hood, front, rear, back = _CAR_CABINS[style]
    mesh = MeshBuilder(tx.CAR, center=(0.0, 0.7, 0.0))
    half, end, low, inset = width / 2, length / 2, 0.22, 0.14
    nose, tail = (waist - 0.3, end), (waist - 0.12, -end)
    deck = ((waist, end - hood), (waist, -end + 0.2))
    for x in (-half, half):
        bumpers = ((waist - 0.14, end - 0.15), nose, (low + 0.1, end), (low, 0.0))
        mesh.face([(x, y, z) for y, z in ((low + 0.1, -end), tail, deck[1], deck[0], *bumpers)], "body")
    outline = ((low, end), nose, *deck, tail, (low, -end))  # from the front bumper over the deck to the rear one
    for (y0, z0), (y1, z1) in pairwise(outline):
        mesh.across((half, y0, z0), (half, y1, z1), "body")
    for x in (-half, half):
        for z in (-end + 0.85, end - 0.85):
            mesh.wheel(x, z, 0.33 if style < 3 else 0.37)
    for x in (-half + 0.24, half - 0.24):
        mesh.plate(x, waist - 0.38, end + 0.01, 0.17, 0.075, "headlight")
        mesh.plate(x, waist - 0.25, -end - 0.01, 0.16, 0.1, "taillight")
    mesh.plate(0.0, 0.5, -end - 0.01, 0.26, 0.06, "plate")
    mesh.plate(0.0, 0.42, end + 0.01, 0.26, 0.055, "plate")
    mesh.plate(0.0, 0.3, -end - 0.012, half - 0.04, 0.07, "trim")
    mesh.plate(0.0, 0.31, end + 0.012, half - 0.1, 0.09, "trim")
    _cabin(mesh, half, waist, height, (-end + back, -end + back + rear), (end - hood - front, end - hood), inset)
    return mesh


def _cabin(
    mesh: MeshBuilder, half: float, waist: float, height: float, rear: tuple[float, float], front: tuple[float, float],
    inset: float,
) -> None:  # fmt: skip
    """Add windscreen, rear window, side windows and roof between z `rear` (foot, top) and `front` (top, foot)."""
    foot, top, rise = half - 0.04, half - inset, height - waist
    mesh.across((foot, waist, front[1]), (top, height, front[0]), "body")
    mesh.across((foot, waist, rear[0]), (top, height, rear[1]), "body")
    for (a, b), out in ((front, 0.015), (rear, -0.015)):
        lower = (foot - 0.1, waist + 0.1 * rise, a + 0.1 * (b - a) + out)
        mesh.across(lower, (top - 0.06, waist + 0.88 * rise, a + 0.88 * (b - a) + out), "glass", 1)
    for side in (-1.0, 1.0):
        mesh.face([(side * foot, waist, rear[0]), (side * foot, waist, front[1]), (side * top, height, front[0]),
                   (side * top, height, rear[1])], "body")  # fmt: skip
        y0, y1 = waist + 0.08 * rise, waist + 0.86 * rise
        x0, x1 = side * (foot + 0.012), side * (top + 0.025)
        z_low = (rear[0] + 0.22 * (rear[1] - rear[0]) + 0.06, front[1] - 0.22 * (front[1] - front[0]) - 0.1)
        z_high = (rear[1] - 0.02, front[0] - 0.02)
        middle = (z_low[0] + z_low[1]) / 2
        behind, before = middle - 0.04, middle + 0.04
        for a, b, c, d in ((z_low[0], behind, behind, z_high[0]), (before, z_low[1], z_high[1], before)):
            mesh.face([(x0, y0, a), (x0, y0, b), (x1, y1, c), (x1, y1, d)], "glass", 1)
    mesh.across((top, height, rear[1]), (top, height, front[0]), "body")


@dataclass(frozen=True)
class Sprite:
    """Hold an upright cut-out that turns to the camera.

    `parts`: (height, width) uint8, 0 = nothing, p = part p; `width_m`, `height_m` its size, standing on the ground at
    its lower edge, centred. `surfaces`: material, slot and class of parts 1, 2, ...
    """

    parts: npt.NDArray[np.uint8]
    width_m: float
    height_m: float
    surfaces: tuple[Surface, ...]


class Canvas:
    """Draw a part map in metres: x to the right from the middle, y up from the ground."""

    def __init__(self, width_m: float, height_m: float, px_per_m: float, class_id: int) -> None:
        self.size_m, self.scale, self.class_id = (width_m, height_m), px_per_m, class_id
        self.map = np.zeros((round(height_m * px_per_m), round(width_m * px_per_m)), np.uint8)
        self.surfaces: list[Surface] = []

    def part(self, material: str, slot: int = 0, class_id: int | None = None) -> int:
        """Register a part and return its number."""
        self.surfaces.append((MATERIAL_ID[material], slot, self.class_id if class_id is None else class_id))
        return len(self.surfaces)

    def _pixels(self, points: Sequence[tuple[float, float]]) -> npt.NDArray[np.int32]:
        array = np.array(points, np.float64) * [1, -1] + [self.size_m[0] / 2, self.size_m[1]]
        return np.rint(array * self.scale).astype(np.int32)

    def polygon(self, part: int, points: Sequence[tuple[float, float]]) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.map, [self._pixels(points)], part)

    def limb(self, part: int, points: Sequence[tuple[float, float]], width_m: float) -> None:
        """Draw a thick bent line."""
        cv2.polylines(self.map, [self._pixels(points)], False, part, max(1, round(width_m * self.scale)))

    def ellipse(self, part: int, x: float, y: float, radius_x: float, radius_y: float) -> None:
        """Fill an ellipse."""
        center = self._pixels([(x, y)])[0]
        axes = (max(1, round(radius_x * self.scale)), max(1, round(radius_y * self.scale)))
        cv2.ellipse(self.map, (int(center[0]), int(center[1])), axes, 0, 0, 360, part, -1)

    def places(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return y and x in metres of every pixel: (height, width) each."""
        rows, columns = np.mgrid[0 : self.map.shape[0], 0 : self.map.shape[1]]
        return self.size_m[1] - rows / self.scale, columns / self.scale - self.size_m[0] / 2

    def sprite(self) -> Sprite:
        """Freeze the drawing."""
        return Sprite(self.map, *self.size_m, tuple(self.surfaces))


def card_of(shape: Mapping[str, Any]) -> Sprite:
    """Draw a card of shapes.yaml."""
    width_m, height_m = shape["size_m"]
    canvas = Canvas(width_m, height_m, shape["px_per_m"], _class_id(shape["class"]))
    parts = {}
    for name, about in shape["parts"].items():
        material, slot, class_name = about if isinstance(about, list) else (name, about, shape["class"])
        parts[name] = canvas.part(material, slot, _class_id(class_name))
    for operation, part, *arguments in (*shape.get("under", ()), *shape["drawing"]):
        getattr(canvas, operation)(parts[part], *arguments)
    return canvas.sprite()


def person_sprite(phase: float, style: int) -> Sprite:
    """Draw a walking adult (styles 0 to 3) or child (4) at a phase of the step in [0, 1)."""
    m = 1.0 if style < 4 else 0.72  # size against an adult
    c = Canvas(1.1 * m, 1.86 * m, 56, tx.PERSON)
    shoe, trousers, skin = c.part("shoe", 2), c.part("trousers", 1), c.part("skin", 3)
    jacket, hair, bag = c.part("jacket", 0), c.part("hair", 2), c.part("jacket", 2)
    swing = float(np.sin(phase * 2 * np.pi)) * (0.3 if style != 3 else 0.04)
    for sign in (-1, 1):  # legs
        foot_x, knee_x = sign * swing * 0.95, sign * swing * 0.5 + 0.03
        lift = max(0.0, -sign * swing) * 0.25
        c.limb(trousers, [(0, 0.9 * m), (knee_x * m, 0.5 * m), (foot_x * m, (0.08 + lift) * m)], 0.15 * m)
        c.limb(shoe, [(foot_x * m - 0.03, (0.05 + lift) * m), (foot_x * m + 0.14 * m, (0.04 + lift) * m)], 0.08 * m)
    if style == 1:  # skirt or long coat
        c.polygon(jacket, [(-0.19, 0.55), (0.21, 0.55), (0.15, 1.0), (-0.15, 1.0)])
    torso = ((-0.17, 0.86), (0.17, 0.86), (0.21, 1.4), (0.1, 1.5), (-0.1, 1.5), (-0.21, 1.4))
    c.polygon(jacket, [(x * m, y * m) for x, y in torso])
    for sign in (-1, 1):  # arms
        hand = sign * swing * 0.9
        elbow, wrist = (sign * 0.23 * m - hand * 0.4, 1.1 * m), (sign * 0.2 * m - hand, 0.86 * m)
        c.limb(jacket, [(sign * 0.19 * m, 1.38 * m), elbow, wrist], 0.1 * m)
        c.ellipse(skin, sign * 0.2 * m - hand, 0.83 * m, 0.045, 0.055)
    if style == 2:
        c.polygon(bag, [(0.2, 0.72), (0.42, 0.72), (0.4, 1.02), (0.24, 1.02)])
    c.limb(skin, [(0, 1.48 * m), (0, 1.56 * m)], 0.1 * m)
    c.ellipse(skin, 0.01, 1.66 * m, 0.095, 0.125)
    c.ellipse(hair, -0.015, 1.73 * m, 0.11, 0.095)
    return c.sprite()


def tree_sprite(rng: np.random.Generator, style: int) -> Sprite:
    """Grow a tree: broad (0), tall (1), conifer (2), bare (3); crowns have ragged edges and gaps."""
    width, height = ((6.0, 8.0), (4.2, 9.5), (3.6, 8.5), (6.0, 8.5))[style]
    c = Canvas(width, height, 18, tx.VEGETATION)
    bark, dark, middle, light = c.part("bark", 1), c.part("leaves", 0), c.part("leaves", 0), c.part("leaves", 0)
    trunk = (1.9, 2.1, 0.9, 2.2)[style]
    c.limb(bark, [(0, 0), (0.05, trunk), (0, height * 0.7)], 0.34 if style != 2 else 0.26)
    _branches(rng, c, bark, (0.0, trunk), height * 0.3, np.pi / 2, 5 if style == 3 else 3)
    if style == 3:
        return c.sprite()
    y, x = c.places()
    if style == 2:
        reach = (height - y) / (height - trunk) * width * 0.45 * (0.75 + 0.25 * np.cos(y * 6.0))
        density = np.where(y > trunk, 1.15 - np.abs(x) / np.maximum(reach, 0.05), -1.0)
    else:
        center = (height + trunk) / 2
        density = np.full(c.map.shape, -9.0)
        for _ in range(9):
            r = rng.uniform(0.2, 0.3) * min(width, height - trunk)
            reach_x, reach_y = 0.46 * width - r, 0.47 * (height - trunk) - r
            cx = float(np.clip(rng.normal(0, width * 0.17), -reach_x, reach_x))
            cy = center + float(np.clip(rng.normal(0, (height - trunk) * 0.16), -reach_y, reach_y))
            density = np.maximum(density, 1.1 - np.hypot(x - cx, (y - cy) * 0.85) / r)
    noise, lumps = (tx.periodic_noise(rng, falloff, 256)[: len(y), : len(y[0])] for falloff in (0.9, 1.6))
    crown = density + 0.13 * noise + 0.1 * lumps > 0.12
    lit = 0.5 * lumps + (y - height * 0.6) / height * 2.2 - x / width * 0.8 + 0.15 * noise
    c.map[crown] = middle
    c.map[crown & (lit < -0.45)] = dark
    c.map[crown & (lit > 0.5)] = light
    return c.sprite()


def _branches(
    rng: np.random.Generator, c: Canvas, part: int, start: tuple[float, float], length: float, angle: float, depth: int
) -> None:
    if depth == 0 or length < 0.25:
        return
    for turn in rng.uniform(-0.75, 0.75, 2 if depth < 5 else 3):
        direction = angle + float(turn)
        end = (start[0] + length * float(np.cos(direction)), start[1] + length * float(np.sin(direction)))
        c.limb(part, [start, end], 0.035 * depth)
        _branches(rng, c, part, end, length * float(rng.uniform(0.62, 0.8)), direction, depth - 1)


def bush_sprite(rng: np.random.Generator) -> Sprite:
    """Grow a bush of 2.4 by 1.5 m."""
    c = Canvas(2.4, 1.5, 32, tx.VEGETATION)
    dark, light = c.part("leaves", 0), c.part("leaves", 0)
    y, x = c.places()
    noise = tx.periodic_noise(rng, 0.9)[: len(y), : len(y[0])]
    full = 1.0 - np.hypot(x / 1.15, (y - 0.35) / 1.1) + 0.12 * noise > 0.06
    c.map[full] = dark
    c.map[full & (y + 0.15 * noise > 0.75)] = light
    return c.sprite()


@dataclass(frozen=True)
class Library:
    """Hold every model. Meshes are runs of polygons in one pool; sprites follow the meshes in numbering.

    `polygons`: (polygon, 8, 3) float32 m; `solids`: (polygon, 2) x and z of the middle of the solid it belongs to.
    `first`, `count`: (mesh,). The surfaces are those of the polygons, then those of the sprites' parts, which are runs
    too: `materials`, `slots`, `classes`: (surface,); `part_first` (a surface), `part_count`: (sprite,).
    `sprite_size_m`: (sprite, 2) width and height. `number`: the model number(s) of every name.
    """

    polygons: FloatArray
    solids: FloatArray
    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    materials: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    classes: npt.NDArray[np.int32]
    sprites: tuple[Sprite, ...]
    sprite_size_m: FloatArray
    part_first: npt.NDArray[np.int32]
    part_count: npt.NDArray[np.int32]
    number: dict[str, tuple[int, ...]]


PERSON_PHASES = 6


def _models(rng: np.random.Generator) -> dict[str, Sequence[MeshBuilder | Sprite]]:
    """Build every model by name, solids first."""
    shapes = tx.read_table("shapes.yaml")
    return {
        "car": [car_mesh(i) for i in (0, 1, 1, 2, 3, 4)],
        "pickup": [car_mesh(5)],
        **{name: [mesh_of(shape) for shape in each] for name, each in shapes["solids"].items()},
        "person": [person_sprite(p / PERSON_PHASES, style) for style in range(5) for p in range(PERSON_PHASES)],
        **{name: [card_of(shape) for shape in each] for name, each in shapes["cards"].items()},
        "tree": [tree_sprite(rng, style) for style in (0, 0, 0, 1, 1, 2)],
        "bare": [tree_sprite(rng, 3) for _ in range(3)],
        "bush": [bush_sprite(rng) for _ in range(3)],
    }


@lru_cache(maxsize=2)
def build_library(seed: int) -> Library:
    """Build every model; the seed grows the plants."""
    groups = _models(np.random.default_rng([seed, 11]))
    models = [model for group in groups.values() for model in group]
    meshes = [model for model in models if isinstance(model, MeshBuilder)]
    sprites = [model for model in models if isinstance(model, Sprite)]
    numbers = iter(range(len(models)))
    counts = np.array([len(model.surfaces) for model in models], np.int32)
    first = (np.cumsum(counts) - counts).astype(np.int32)
    materials, slots, classes = np.concatenate([np.array(model.surfaces, np.int32) for model in models]).T
    return Library(
        polygons=np.concatenate([np.stack(m.polygons) for m in meshes]),
        solids=np.concatenate([np.array(m.solids, np.float32) for m in meshes]),
        first=first[: len(meshes)],
        count=counts[: len(meshes)],
        materials=np.ascontiguousarray(materials),
        slots=np.ascontiguousarray(slots),
        classes=np.ascontiguousarray(classes),
        sprites=tuple(sprites),
        sprite_size_m=np.array([(s.width_m, s.height_m) for s in sprites], np.float32),
        part_first=first[len(meshes) :],
        part_count=counts[len(meshes) :],
        number={name: tuple(islice(numbers, len(group))) for name, group in groups.items()},
    )
