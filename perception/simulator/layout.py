"""What stands and moves along the road of one drive, in road coordinates.

s runs along the road in metres from the ego car's start; d is the distance from the road's middle, positive to the
right.
The layout is the same for both renderings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perception.simulator import textures as tx
from perception.simulator.conditions import Conditions, choose, draw_conditions, uniform
from perception.simulator.models import PERSON_PHASES, Library
from perception.simulator.world import VEHICLES, World

FloatArray = npt.NDArray[np.float32]
BEHIND_M = 25.0  # the world begins this far behind the ego car
COLOR_SLOTS = 4


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Hold the pin-hole camera of a drive: it looks along the road's heading, pitched down."""

    height_m: float
    pitch_rad: float
    focal_widths: float
    bonnet: bool


@dataclass(frozen=True, kw_only=True)
class Road:
    """Hold the road's cross-section and course."""

    curvature_per_m: float  # positive bends to the right
    ego_d_m: float
    ego_speed_mps: float
    band_limits_m: tuple[float, ...]  # ascending d at which the ground changes
    band_surfaces: tuple[int, ...]  # ground surfaces, one more than limits


@dataclass(frozen=True)
class Things:
    """Hold everything that stands on the ground, one row a thing.

    `model` (thing,) int32; `s`, `d`, `yaw` (thing,) float64: metres and radians against the road; `scale` (thing, 3);
    `layer` (thing,) int32: higher is drawn earlier; `speed_s`, `speed_d` (thing,) m/s; `colors` (thing, 4)
    int32 palette entries; `cycle` (thing,) number of step phases, 1 for what does not walk.
    """

    model: npt.NDArray[np.int32]
    s: npt.NDArray[np.float64]
    d: npt.NDArray[np.float64]
    yaw: npt.NDArray[np.float64]
    scale: FloatArray
    layer: npt.NDArray[np.int32]
    speed_s: npt.NDArray[np.float64]
    speed_d: npt.NDArray[np.float64]
    colors: npt.NDArray[np.int32]
    cycle: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Decals:
    """Hold flat polygons on the ground: `corners` (decal, 8, 2) of s and d; `surface` (decal,) ground surface."""

    corners: npt.NDArray[np.float64]
    surface: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """Hold the world of one drive."""

    conditions: Conditions
    camera: Camera
    road: Road
    things: Things
    decals: Decals


# Ground surfaces: material and class.
GROUND: tuple[tuple[str, int], ...] = (
    ("asphalt", tx.ROAD), ("marking", tx.ROAD), ("marking_yellow", tx.ROAD), ("paving", tx.SIDEWALK),
    ("curb", tx.SIDEWALK), ("grass", tx.TERRAIN), ("dirt", tx.TERRAIN), ("dirt", tx.ROAD),
)  # fmt: skip
ASPHALT, MARKING, MARKING_YELLOW, PAVING, CURB, GRASS, DIRT, TRACK = range(len(GROUND))


class Stage:
    """Collect the things and decals of a drive."""

    def __init__(self, world: World, library: Library, rng: np.random.Generator, end_s: float) -> None:
        self.world, self.library, self.rng, self.end_s = world, library, rng, end_s
        self.rows: list[tuple[float, ...]] = []
        self.corners: list[Sequence[tuple[float, float]]] = []
        self.surfaces: list[int] = []

    def put(
        self, name: str, s: float, d: float, *, yaw: float = 0.0, scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        layer: int = 0, speed_s: float = 0.0, speed_d: float = 0.0, variant: int | None = None, cycle: int = 1,
    ) -> None:  # fmt: skip
        """Stand a model on the ground; without `variant` one of the name's models is drawn."""
        numbers = self.library.number[name]
        model = numbers[int(self.rng.integers(len(numbers))) if variant is None else variant]
        self.rows.append((model, s, d, yaw, *scale, layer, speed_s, speed_d, cycle))

    def paint(self, surface: int, corners: Sequence[tuple[float, float]]) -> None:
        """Lay a convex polygon of (s, d) corners on the ground."""
        self.corners.append([*corners, *[corners[-1]] * (8 - len(corners))])
        self.surfaces.append(surface)

    def strip(self, surface: int, s0: float, s1: float, d: float, half_width: float) -> None:
        """Lay a rectangle along the road."""
        self.paint(surface, [(s0, d - half_width), (s1, d - half_width), (s1, d + half_width), (s0, d + half_width)])

    def scatter(self, per_100m: float) -> list[float]:
        """Draw Poisson places along the whole road."""
        count = int(self.rng.poisson(per_100m * (self.end_s + BEHIND_M) / 100))
        return [float(x) for x in self.rng.uniform(-BEHIND_M, self.end_s, count)]

    def things(self) -> Things:
        """Freeze what was put."""
        table = np.array(self.rows, np.float64).reshape(-1, 11)
        return Things(
            model=table[:, 0].astype(np.int32), s=table[:, 1], d=table[:, 2], yaw=table[:, 3],
            scale=table[:, 4:7].astype(np.float32), layer=table[:, 7].astype(np.int32), speed_s=table[:, 8],
            speed_d=table[:, 9], cycle=table[:, 10].astype(np.int32),
            colors=self.rng.integers(0, tx.PALETTE, (len(table), COLOR_SLOTS)).astype(np.int32),
        )  # fmt: skip

    def decals(self) -> Decals:
        """Freeze what was painted."""
        return Decals(np.array(self.corners, np.float64).reshape(-1, 8, 2), np.array(self.surfaces, np.int32))


@dataclass(frozen=True, kw_only=True)
class Section:
    """Hold the drawn cross-section that the builders share."""

    traffic_side: int  # +1 keeps to the right
    lane_m: float
    lanes: int  # in each direction
    half_road_m: float
    sidewalk_m: float
    median_m: float
    parking_m: float


def draw_layout(world: World, library: Library, seed: int, drive: int, frames: int) -> Layout:
    """Draw the world of one drive, long enough for its frames."""
    rng = np.random.default_rng([seed, drive])
    conditions = draw_conditions(world, rng)
    section = _draw_section(world, conditions, rng)
    camera = Camera(
        height_m=uniform(rng, world.camera_height_m),
        pitch_rad=float(np.deg2rad(uniform(rng, world.camera_pitch_deg))),
        focal_widths=uniform(rng, world.focal_widths),
        bonnet=bool(rng.random() < world.bonnet_share),
    )
    boring = bool(rng.random() < world.boring_share)
    speed = uniform(rng, world.ego_speed_mps) * (2.5 if conditions.scene == "freeway" else 1.0)
    curvature = 0.0
    if rng.random() < world.curved_share:
        curvature = float(rng.choice([-1, 1])) / uniform(rng, world.curve_radius_m)
    end_s = speed * frames * world.frame_interval_s + world.view_distance_m
    stage = Stage(world, library, rng, end_s)
    builder = {"urban": _build_urban, "freeway": _build_freeway, "unmarked": _build_unmarked}[conditions.scene]
    limits, surfaces = builder(stage, section, boring)
    lane = int(rng.integers(section.lanes))
    ego_d = section.traffic_side * (section.median_m / 2 + section.lane_m * (lane + 0.5)) + float(rng.normal(0, 0.15))
    _traffic(stage, section, conditions, boring, (lane, speed))
    road = Road(
        curvature_per_m=curvature, ego_d_m=ego_d, ego_speed_mps=speed,
        band_limits_m=limits, band_surfaces=surfaces,
    )  # fmt: skip
    return Layout(conditions, camera, road, stage.things(), stage.decals())


def _draw_section(world: World, conditions: Conditions, rng: np.random.Generator) -> Section:
    lane_m = uniform(rng, world.lane_width_m)
    side = -1 if rng.random() < world.left_hand_traffic_share else 1
    if conditions.scene == "freeway":
        lanes, lane_m, median, parking, sidewalk = int(rng.integers(2, 4)), max(lane_m, 3.4), 2.4, 2.6, 0.0
    elif conditions.scene == "unmarked":
        lanes, median, parking, sidewalk = 1, 0.0, 0.0, 0.0
        lane_m = min(lane_m, 2.9)
    else:
        lanes, median = 1 + int(rng.random() < 0.3), 0.0
        parking = 2.2 if rng.random() < 0.55 else 0.3
        sidewalk = uniform(rng, world.sidewalk_width_m)
    return Section(
        traffic_side=side, lane_m=lane_m, lanes=lanes, half_road_m=median / 2 + lanes * lane_m + parking,
        sidewalk_m=sidewalk, median_m=median, parking_m=parking,
    )  # fmt: skip


Bands = tuple[tuple[float, ...], tuple[int, ...]]


def _symmetric(edges: Sequence[float], inner_to_outer: Sequence[int]) -> Bands:
    """Mirror bands given from the middle outwards: `edges` m between them, `inner_to_outer` ground surfaces."""
    return (*(-e for e in reversed(edges)), *edges), (*reversed(inner_to_outer), *inner_to_outer[1:])


def _dashes(stage: Stage, d: float, dash_m: float, period_m: float, half_width: float, surface: int = MARKING) -> None:
    for s in np.arange(-BEHIND_M, stage.end_s, period_m):
        stage.strip(surface, float(s), float(s) + dash_m, d, half_width)


def _solid(stage: Stage, d: float, half_width: float, surface: int = MARKING) -> None:
    _dashes(stage, d, 8.0, 8.0, half_width, surface)


# ---------------------------------------------------------------- urban


def _build_urban(stage: Stage, section: Section, boring: bool) -> Bands:
    world, rng = stage.world, stage.rng
    crossings = []
    s = float(rng.uniform(15.0, world.crossing_spacing_m[1]))
    while s < stage.end_s:
        crossings.append(s)
        s += uniform(rng, world.crossing_spacing_m)
    _urban_marks(stage, section)
    for crossing in crossings:
        _crossing(stage, section, crossing)
    line = section.half_road_m + 0.2 + section.sidewalk_m
    for side in (-1, 1):
        _plots(stage, side, line, crossings)
        _street_furniture(stage, section, side, crossings, boring)
    return _symmetric(
        (section.half_road_m, section.half_road_m + 0.2, line),
        (ASPHALT, CURB, PAVING, PAVING if rng.random() < 0.4 else GRASS),
    )


def _urban_marks(stage: Stage, section: Section) -> None:
    rng = stage.rng
    if rng.random() < 0.85:
        dash_m, period_m = (8.0, 8.0) if rng.random() < 0.25 else (3.0, 7.0)
        _dashes(stage, 0.0, dash_m, period_m, 0.07)
    for side in (-1, 1):
        for lane in range(1, section.lanes):
            _dashes(stage, side * lane * section.lane_m, 2.5, 7.0, 0.06)
        if section.parking_m > 1:
            _dashes(stage, side * (section.half_road_m - section.parking_m), 1.0, 2.0, 0.05)
        elif rng.random() < 0.5:
            _solid(stage, side * (section.half_road_m - 0.25), 0.05, MARKING_YELLOW if rng.random() < 0.5 else MARKING)


def _crossing(stage: Stage, section: Section, s: float) -> None:
    half, rng = float(stage.rng.uniform(3.0, 5.0)), stage.rng
    road, outer = section.half_road_m, 90.0
    for side in (-1, 1):
        for ground, s0, s1, inner in (
            (PAVING, s - half - section.sidewalk_m, s + half + section.sidewalk_m, road),
            (ASPHALT, s - half, s + half, road - 0.3),
        ):
            stage.paint(ground, [(s0, side * inner), (s1, side * inner), (s1, side * outer), (s0, side * outer)])
    stage.strip(ASPHALT, s - half, s + half, 0.0, road)
    zebra = rng.random() < 0.6
    lights = rng.random() < 0.65
    for direction in (-1, 1):
        at = s + direction * (half + 1.0)
        if zebra:
            for d in np.arange(-road + 0.5, road - 0.3, 1.0):
                a, b = sorted((at, at + direction * 2.8))
                stage.strip(MARKING, a, b, float(d), 0.25)
        stop = at + direction * 3.6
        keep = -direction * section.traffic_side
        stage.strip(MARKING, stop - 0.2, stop + 0.2, keep * road / 2, road / 2 - 0.3)
        state = int(rng.integers(3))
        if lights:
            for d in (keep * (road + 0.6), -keep * (road + 0.6)):
                stage.put("light", stop - direction * 0.8, d, variant=state + 3 * int(rng.random() < 0.3))


def _free(s: float, crossings: Sequence[float], margin: float) -> bool:
    return all(abs(s - c) > margin for c in crossings)


def _plots(stage: Stage, side: int, line: float, crossings: Sequence[float]) -> None:
    """Line one side of a street with houses, walls, fences, hedges, gardens."""
    world, rng = stage.world, stage.rng
    tall = float(rng.uniform(5.5, 15.0))
    setback = float(rng.choice([0.0, 0.0, 2.5, 5.0]))
    terraced = rng.random() < 0.6
    s = -BEHIND_M
    while s < stage.end_s:
        length = float(rng.uniform(7.0, 20.0))
        blocking = [c for c in crossings if s - 9 < c < s + length + 9]
        if blocking:
            if blocking[0] - 9 - s > 5:
                length = blocking[0] - 9 - s
            else:
                s = blocking[0] + 9.01  # past it, whatever rounding does
                continue
        middle, draw = s + length / 2, rng.random()
        open_share = world.wall_share + world.fence_share
        if draw < open_share:
            _closed_plot(stage, side, line, middle, length, wall=draw < world.wall_share)
        elif draw < open_share + 0.1:
            _garden(stage, side, line, middle, length)
        else:
            _house(stage, side, line + setback, middle, length, tall)
            if setback > 1:
                _front(stage, side, line, middle, length)
        s += length + (0.0 if terraced else float(rng.uniform(0.5, 6.0)))


def _house(stage: Stage, side: int, line: float, s: float, length: float, tall: float) -> None:
    rng = stage.rng
    depth = float(rng.uniform(8, 14))
    height = max(3.2, 3.2 * round(tall * float(rng.uniform(0.65, 1.35)) / 3.2))
    style = int(rng.choice([0, 0, 1, 1, 1, 2, 3])) if height < 15 else int(rng.random() < 0.4)
    scale_y = height if style < 2 else height / 0.74
    stage.put("building", s, side * (line + depth / 2), scale=(depth, scale_y, length), layer=6, variant=style)
    if style == 1:
        stage.put("shop", s, side * (line + 0.06), scale=(0.3, 3.4, length * 0.98), layer=5)


def _front(stage: Stage, side: int, line: float, s: float, length: float) -> None:
    rng = stage.rng
    kind = rng.random()
    for share, name, inset, thick, low, high in (
        (0.35, "wall", 0.15, 0.25, 0.6, 1.2), (0.6, "fence", 0.15, 0.08, 0.8, 1.3), (0.85, "hedge", 0.4, 0.7, 0.8, 1.8),
    ):  # fmt: skip
        if kind < share:
            stage.put(name, s, side * (line + inset), scale=(thick, float(rng.uniform(low, high)), length), layer=3)
            break
    if rng.random() < 0.4:
        stage.put("bush", s + float(rng.uniform(-3, 3)), side * (line + 1.4), layer=4)


def _closed_plot(stage: Stage, side: int, line: float, s: float, length: float, wall: bool) -> None:
    rng = stage.rng
    name, thick, low, high = ("wall", 0.3, 1.2, 2.6) if wall else ("fence", 0.08, 1.0, 2.0)
    stage.put(name, s, side * (line + 0.2), scale=(thick, float(rng.uniform(low, high)), length), layer=3)
    _garden(stage, side, line + 1.5, s, length)


def _garden(stage: Stage, side: int, line: float, s: float, length: float) -> None:
    rng = stage.rng
    for _ in range(int(rng.integers(1, 4))):
        _tree(stage, s + float(rng.uniform(-0.4, 0.4)) * length, side * (line + float(rng.uniform(1.5, 9.0))), layer=4)
    for _ in range(int(rng.integers(0, 3))):
        at = s + float(rng.uniform(-0.4, 0.4)) * length
        stage.put("bush", at, side * (line + float(rng.uniform(0.8, 4.0))), layer=4)


def _tree(stage: Stage, s: float, d: float, layer: int = 0, bare: bool = False) -> None:
    size = float(stage.rng.uniform(0.6, 1.15))
    scale = (size, size * float(stage.rng.uniform(0.9, 1.1)), 1.0)
    stage.put("bare" if bare else "tree", s, d, scale=scale, layer=layer)


def _street_furniture(stage: Stage, section: Section, side: int, crossings: Sequence[float], boring: bool) -> None:
    world, rng = stage.world, stage.rng
    kerb = section.half_road_m + 0.2
    near, far = kerb + 0.45, kerb + max(0.6, section.sidewalk_m - 0.4)
    bare = rng.random() < 0.3
    for s in stage.scatter(uniform(rng, world.trees_per_100m) if section.sidewalk_m > 2.2 else 0.0):
        if _free(s, crossings, 8):
            _tree(stage, s, side * near, bare=bare)
    spacing = float(rng.uniform(22, 38))
    for s in np.arange(-BEHIND_M + float(rng.uniform(0, spacing)), stage.end_s, spacing):
        stage.put("lamp", float(s), side * near, yaw=0.0 if side > 0 else np.pi)
    for s in stage.scatter(world.signs_per_100m):
        stage.put("sign", s, side * near)
    for s in stage.scatter(2.0):
        stage.put("post", s, side * near, variant=int(rng.random() < 0.7))
    for s in stage.scatter(world.clutter_per_100m):
        stage.put("clutter", s, side * far, scale=(0.6, float(rng.uniform(0.8, 1.3)), 0.6))
    quiet = 0.12 if boring else 1.0
    for s in stage.scatter(uniform(rng, world.persons_per_100m) * quiet):
        _pedestrian(stage, s, side * float(rng.uniform(near, max(far, near + 0.1))))
    for s in stage.scatter(world.parked_cycles_per_100m * quiet):
        kind = "motorcycle" if rng.random() < 0.35 else "bicycle"
        stage.put(kind, s, side * float(rng.uniform(near, near + 0.6)))
    for s in stage.scatter(world.riders_per_100m * quiet):
        _rider(stage, s, side * (section.half_road_m - max(section.parking_m, 0.9) + 0.1), side == section.traffic_side)
    if section.parking_m > 1:
        _parked(stage, section, side, crossings, uniform(rng, world.parked_per_100m) * (0.4 if boring else 1.0))
    for crossing in crossings:
        if rng.random() < 0.5 * quiet:
            speed = float(rng.choice([-1.2, 1.2]))
            d = float(rng.uniform(-section.half_road_m, section.half_road_m))
            variant = PERSON_PHASES * int(rng.integers(4))
            stage.put("person", crossing - 7.0, d, speed_d=speed, cycle=PERSON_PHASES, variant=variant)


def _pedestrian(stage: Stage, s: float, d: float) -> None:
    rng = stage.rng
    style = int(rng.choice(5, p=[0.35, 0.2, 0.2, 0.17, 0.08]))
    size = float(rng.uniform(0.92, 1.06))
    speed = 0.0 if style == 3 else float(rng.choice([-1, 1]) * rng.uniform(0.8, 1.6))
    stage.put("person", s, d, scale=(size, size, 1), speed_s=speed, cycle=PERSON_PHASES, variant=PERSON_PHASES * style)


def _rider(stage: Stage, s: float, d: float, along: bool) -> None:
    """Put a rider: mostly along the road and seen from behind or ahead, else crossing it and seen from the side."""
    rng = stage.rng
    motor = rng.random() < stage.world.motorcycle_share
    name, from_end = ("biker", 1) if motor else ("cyclist", 4)
    if rng.random() < 0.3:
        speed = float(rng.choice([-1.0, 1.0])) * (3.0 if motor else 2.0)
        stage.put(name, s, d, speed_d=speed, variant=0)
    else:
        speed = (9.0 if motor else 4.5) * (1.0 if along else -1.0)
        stage.put(name, s, d, speed_s=speed, variant=from_end)


def _parked(stage: Stage, section: Section, side: int, crossings: Sequence[float], per_100m: float) -> None:
    rng, s = stage.rng, -BEHIND_M
    d = side * (section.half_road_m - section.parking_m / 2)
    while s < stage.end_s and per_100m > 0.05:
        s += 5.8 + float(rng.exponential(max(100 / per_100m - 5.8, 0.3)))
        if _free(s, crossings, 11):
            yaw = 0.0 if side == section.traffic_side else np.pi
            name = "pickup" if rng.random() < 0.04 else "car"
            stage.put(name, s, d + float(rng.normal(0, 0.1)), yaw=yaw + float(rng.normal(0, 0.02)))


# ---------------------------------------------------------------- freeway and unmarked roads


def _build_freeway(stage: Stage, section: Section, _boring: bool) -> Bands:
    rng, road = stage.rng, section.half_road_m
    for side in (-1, 1):
        _solid(stage, side * (section.median_m / 2 + 0.2), 0.08)
        _solid(stage, side * (road - section.parking_m), 0.09)
        for lane in range(1, section.lanes):
            _dashes(stage, side * (section.median_m / 2 + lane * section.lane_m), 4.0, 12.0, 0.08)
        noise_wall = rng.random() < 0.35
        for s in np.arange(-BEHIND_M, stage.end_s, 4.0):
            stage.put("guardrail", float(s), side * (road + 0.6), yaw=0.0 if side > 0 else np.pi, layer=3)
            if noise_wall:
                stage.put("barrier", float(s), side * (road + 4.0), scale=(0.3, 3.6, 4.0), layer=5)
        for s in stage.scatter(float(rng.uniform(2, 10))):
            _tree(stage, s, side * (road + float(rng.uniform(6, 22))), layer=6)
        for s in stage.scatter(3.0):
            stage.put("bush", s, side * (road + float(rng.uniform(2.5, 12))), layer=6)
        for s in stage.scatter(0.8):
            stage.put("sign", s, side * (road + 1.2))
        if rng.random() < 0.3:
            for s in np.arange(0, stage.end_s, 40.0):
                stage.put("lamp", float(s), side * (road + 1.0), yaw=0.0 if side > 0 else np.pi, scale=(1.4, 1.35, 1.0))
    concrete = rng.random() < 0.5
    for s in np.arange(-BEHIND_M, stage.end_s, 4.0):
        name, scale = ("barrier", (0.4, 0.85, 4.0)) if concrete else ("guardrail", (1.0, 1.0, 1.0))
        stage.put(name, float(s), 0.0, scale=scale, layer=2)
    s = float(rng.uniform(20, 260))
    while s < stage.end_s:
        stage.put("gantry", s, 0.0, scale=(road * 2 / 24 + 0.08, 1.0, 1.0))
        for d in (-road * 0.55, road * 0.35):
            stage.put("board", s - 0.3, d, variant=int(rng.random() < 0.5))
        s += float(rng.uniform(150, 400))
    return _symmetric((section.median_m / 2, road), (GRASS if not concrete else ASPHALT, ASPHALT, GRASS))


def _build_unmarked(stage: Stage, section: Section, boring: bool) -> Bands:
    world, rng, road = stage.world, stage.rng, section.half_road_m
    track = rng.random() < 0.3
    for side in (-1, 1):
        fenced = rng.random() < 0.4
        for s in np.arange(-BEHIND_M, stage.end_s, 6.0):
            if fenced and rng.random() < 0.85:
                stage.put("fence", float(s), side * (road + 2.2), scale=(0.08, 1.15, 6.0), layer=3)
        for s in stage.scatter(float(rng.uniform(3, 14))):
            _tree(stage, s, side * (road + float(rng.uniform(3.0, 25))), layer=4, bare=rng.random() < 0.15)
        for s in stage.scatter(5.0):
            stage.put("bush", s, side * (road + float(rng.uniform(1.5, 14))), layer=4)
        for s in stage.scatter(1.2):
            _house(stage, side, road + float(rng.uniform(5, 16)), s, float(rng.uniform(8, 14)), 6.0)
        for s in stage.scatter(2.4):
            stage.put("post", s, side * (road + 1.3), variant=0)
        for s in stage.scatter(world.signs_per_100m * 0.3):
            stage.put("sign", s, side * (road + 0.8))
        quiet = 0.1 if boring else 0.35
        for s in stage.scatter(uniform(rng, world.persons_per_100m) * quiet * 0.4):
            _pedestrian(stage, s, side * (road + 0.3))
        for s in stage.scatter(world.riders_per_100m * quiet):
            _rider(stage, s, side * (road - 0.5), side == section.traffic_side)
    return _symmetric((road, road + 1.2), (TRACK if track else ASPHALT, DIRT, GRASS))


# ---------------------------------------------------------------- traffic


def _traffic(stage: Stage, section: Section, conditions: Conditions, boring: bool, ego: tuple[int, float]) -> None:
    """Fill the lanes with moving vehicles; none is closer to the ego car than the least gap."""
    world, rng = stage.world, stage.rng
    lengths = {"car": 4.6, "truck": 14.0, "bus": 11.5, "train": 27.5}
    density = uniform(rng, world.vehicles_per_100m) * (0.06 if boring else 1.0)
    for side in (-1, 1):
        along = side == section.traffic_side
        for lane in range(section.lanes):
            d = side * (section.median_m / 2 + section.lane_m * (lane + 0.5))
            own_lane = along and lane == ego[0]
            speed = ego[1] * float(rng.uniform(0.9, 1.1))
            s = float(rng.uniform(8.0, 45.0)) if own_lane else -BEHIND_M
            while s < stage.end_s + 200 * (not along) and density > 0.02:
                s += float(rng.exponential(100 / density / section.lanes)) + uniform(rng, world.oncoming_lead_gap_m)
                kind = choose(rng, world.vehicle_weights, VEHICLES)
                if conditions.scene == "freeway" and kind in ("train", "bus") and rng.random() < 0.8:
                    kind = "truck"
                s += lengths[kind] / 2
                # In the ego car's own lane nothing is slower than it, so that it keeps its distance.
                velocity = max(speed, ego[1]) if own_lane else speed if along else -speed
                yaw = 0.0 if along else np.pi
                stage.put(kind, s, d + float(rng.normal(0, 0.12)), yaw=yaw, speed_s=velocity)
                s += lengths[kind] / 2
