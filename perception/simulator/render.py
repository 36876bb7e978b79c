"""Rendering of a drive: the same world as a game engine (`simulator`) or a camera (`street`) would show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from perception.errors import InputError
from perception.simulator import raster
from perception.simulator import textures as tx
from perception.simulator.atmosphere import Look, draw_look, finish, paint_backdrop
from perception.simulator.conditions import Conditions
from perception.simulator.layout import GROUND, Layout, draw_layout
from perception.simulator.models import Library, build_library
from perception.simulator.raster import Bytes, Doubles, Numbers, Packed, Surfaces, Vertices, View
from perception.simulator.textures import FloatArray, Looks, Tiles, build_looks, build_noise, build_tiles
from perception.simulator.world import RENDERINGS, Rendering, World

Indices = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
GROUND_LEVEL = np.float32(0)
FAR_M = 900.0  # where the ground ends and the backdrop begins
MARKS_M = 90.0  # lane marks farther away are thinner than a sample
BACKDROP_M = 350.0  # depth of hills and woods on the backdrop, for the air before them
BACKDROP = len(GROUND)  # surface numbers: ground, then backdrop classes, then the frame's own surfaces
BACKDROP_CLASSES = (tx.SKY, tx.VEGETATION, tx.TERRAIN, tx.BUILDING, tx.VOID)
BONNET = BACKDROP + BACKDROP_CLASSES.index(tx.VOID)
FIRST_FREE = BACKDROP + len(BACKDROP_CLASSES)

cv2.setNumThreads(1)  # images are small: threads cost more than they give, and workers share the cores


@dataclass(frozen=True)
class Scene:
    """Hold one rendered frame with its truth.

    `image` (height, width, 3) uint8 RGB; `label` (height, width) uint8 Cityscapes train ids, 255 void;
    `instances` (height, width) uint16 class_id * 1000 + k for the ten foreground classes, 0 elsewhere; k names the same
    thing in every frame of the drive.
    """

    image: Bytes
    label: Bytes
    instances: Numbers
    conditions: Conditions


@dataclass(frozen=True)
class Ground:
    """Hold what every frame of a drive shares: rays that hit the ground, and the backdrop.

    `surface` (height, width) uint16: ground or backdrop surface; `s`, `d`, `z` (height, width) float32 of the ground
    that is hit (0 above the horizon); `backdrop` (height, width) uint32 packed colours.
    """

    surface: Numbers
    s: FloatArray
    d: FloatArray
    z: FloatArray
    backdrop: Packed


@dataclass(frozen=True)
class Drive:
    """Hold everything needed to render any frame of a drive."""

    world: World
    rendering: Rendering
    layout: Layout
    library: Library
    tiles: Tiles
    looks: Looks
    look: Look
    view: View
    ground: Ground
    polygon_owner: npt.NDArray[np.int32]  # thing of every mesh polygon of the drive
    polygon_source: npt.NDArray[np.int32]  # its polygon in the library
    number: npt.NDArray[np.int32]  # k of every thing
    wild: Flags  # things with random texture


def render_drive(
    world: World, rendering: Rendering, seed: int, drive: int, frames: int, height_px: int, width_px: int
) -> Iterator[Scene]:
    """Render the frames of one drive in order.

    The same world, seed, drive and size give the same bytes; both renderings share labels and instances; no other drive
    need be rendered before. Raises InputError for an unknown rendering or sizes and counts out of range.
    """
    if rendering not in RENDERINGS:
        raise InputError(f"rendering is {rendering!r}; it must be one of {', '.join(RENDERINGS)}; choose one")
    for name, value, low in (
        ("seed", seed, 0), ("drive", drive, 0), ("frames", frames, 1), ("height_px", height_px, 16),
        ("width_px", width_px, 16),
    ):  # fmt: skip
        if value < low:
            raise InputError(f"{name} is {value}; it must be at least {low}; raise it")
    prepared = prepare_drive(world, rendering, seed, drive, frames, height_px, width_px)
    for frame in range(frames):
        yield render_frame(prepared, seed, drive, frame)


def prepare_drive(
    world: World, rendering: Rendering, seed: int, drive: int, frames: int, height_px: int, width_px: int
) -> Drive:
    """Draw a drive's world and compute what its frames share."""
    library, tiles, looks = build_library(seed), build_tiles(rendering, seed), build_looks(rendering, seed)
    layout = draw_layout(world, library, seed, drive, frames)
    rng = np.random.default_rng([seed, drive, 3, rendering == "street"])
    shared, noise = np.random.default_rng([seed, drive, 4]), build_noise(seed)
    look = draw_look(world, rendering, layout, library, shared, rng, (height_px, width_px), noise)
    scale = world.supersampling
    view = raster.make_view(layout.camera, height_px * scale, width_px * scale)
    things = layout.things
    mesh = np.flatnonzero(things.model < len(library.first))
    counts = library.count[things.model[mesh]]
    owner = np.repeat(mesh, counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    wild = np.zeros(len(things.model), np.bool_)
    if rendering == "simulator":
        wild = rng.random(len(things.model)) < world.foreground_texture_randomization
    return Drive(
        world, rendering, layout, library, tiles, looks, look, view,
        _make_ground(layout, view, look, noise, np.random.default_rng([seed, drive, 5])),
        owner.astype(np.int32), (library.first[things.model[owner]] + within).astype(np.int32),
        (np.arange(len(things.model)) % 1000).astype(np.int32), wild,
    )  # fmt: skip


def _make_ground(layout: Layout, view: View, look: Look, noise: FloatArray, rng: np.random.Generator) -> Ground:
    road = layout.road
    sine, cosine = np.sin(view.pitch_rad), np.cos(view.pitch_rad)
    down = view.ray_y.astype(np.float64) * cosine + sine
    first = int(np.searchsorted(down, view.height_m / FAR_M))  # first row whose rays hit the ground
    distance = view.height_m / down[first:]  # along the camera's axis
    x = distance[:, None] * view.ray_x[None, :].astype(np.float64)
    ahead = np.repeat((distance * (cosine - view.ray_y[first:] * sine))[:, None], view.width, axis=1)
    s, d = raster.ego_to_road(road, x, ahead)
    shape = (view.height, view.width)
    surface = np.full(shape, BACKDROP, np.uint16)
    packed = np.zeros(shape, np.uint32)
    colors, classes = paint_backdrop(layout, view, look, noise, rng)
    rows = min(len(colors), view.height)
    packed[:rows], surface[:rows] = colors[:rows], classes[:rows] + np.uint16(BACKDROP)
    surface[first:] = np.array(road.band_surfaces, np.uint16)[np.searchsorted(np.array(road.band_limits_m), d)]
    if layout.camera.bonnet:
        _paint_bonnet(surface, packed, look, rng)
    places = np.zeros((3, *shape), np.float32)
    places[0, first:], places[1, first:], places[2, first:] = s, d, distance[:, None]
    return Ground(surface, places[0], places[1], places[2], packed)


def _paint_bonnet(surface: Numbers, packed: Packed, look: Look, rng: np.random.Generator) -> None:
    """Paint the ego car's bonnet along the lower edge, lighter towards its far rim where the sky is mirrored."""
    height, width = surface.shape
    center, axes = (width // 2, round(height * 1.08)), (round(width * 0.62), round(height * 0.17))
    cv2.ellipse(surface, center, axes, 0, 180, 360, BONNET, -1)
    rows, columns = np.nonzero(surface == BONNET)
    if len(rows):
        sheen = np.linspace(1.25, 0.8, int(rows.max() - rows.min()) + 1)[rows - rows.min()]
        level = 0.35 if look.dark else look.light.ambient[1] * 1.4  # headlights shine over it
        packed[rows, columns] = pack((rng.uniform(25, 150) * level * sheen)[:, None].repeat(3, axis=1), 0.0)


@dataclass(frozen=True)
class Painted:
    """Hold the surfaces drawn in one frame, numbered from FIRST_FREE, and the buffer that says which shows where."""

    buffer: Numbers
    surfaces: Surfaces
    tint: Packed  # (surface,) packed
    classes: Bytes
    instances: Numbers
    shade: Bytes  # (height, width): share of light left on the ground by shadows, 255 = all


def render_frame(drive: Drive, seed: int, number: int, frame: int) -> Scene:
    """Render one frame of a prepared drive."""
    road = drive.layout.road
    time_s = frame * drive.world.frame_interval_s
    ego_s = road.ego_speed_mps * time_s
    painted = _paint(drive, ego_s, time_s)
    color, inverse_z = _shade(drive, painted, ego_s)
    middle = slice(drive.world.supersampling // 2, None, drive.world.supersampling)
    shown = np.ascontiguousarray(painted.buffer[middle, middle])
    label, instances = np.take(painted.classes, shown), np.take(painted.instances, shown)
    rng = np.random.default_rng([seed, number, 6, frame, drive.rendering == "street"])
    image = finish(drive.look, drive.view, color, inverse_z, label, rng)
    return Scene(image, label, instances, drive.layout.conditions)


def _depth_key(x: npt.NDArray[Any], z: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Rank solids by depth: of two at the same distance ahead, the one farther to the side is behind.

    A long vehicle beside the ego car then covers the pole behind it, and the car ahead covers the vehicle.
    """
    return np.asarray(z + 0.8 * np.abs(x), np.float32)


def _paint(drive: Drive, ego_s: float, time_s: float) -> Painted:
    """Draw everything far to near into the surface buffer."""
    view, road, things, library = drive.view, drive.layout.road, drive.layout.things, drive.library
    buffer = drive.ground.surface.copy()
    bonnet = buffer == BONNET if drive.layout.camera.bonnet else None
    _draw_decals(drive, buffer, ego_s)
    s = things.s + things.speed_s * time_s
    d = things.d + things.speed_d * time_s
    x, z, heading = raster.road_to_ego(road, ego_s, s, d)
    reach = 0.5 * things.scale[:, 2] + 6.0
    beside = np.abs(x) < reach + 3.0 + z * 0.52 / drive.layout.camera.focal_widths
    visible = (z > -reach) & (z < drive.world.view_distance_m) & beside
    shade = np.full(buffer.shape, 255, np.uint8)
    _draw_shadows(drive, shade, visible, x, z, heading + things.yaw)
    mesh = _mesh_polygons(drive, visible, x, z, heading)
    sprites = _sprite_things(drive, visible, x, z, time_s)
    # By layer, by depth of their solid, and as their model lists them; lexsort takes the last key first.
    order = np.lexsort(
        (
            np.concatenate([mesh.rank, np.zeros(len(sprites.thing), np.int32)]),
            np.concatenate([mesh.owner, sprites.thing]),
            -np.concatenate([mesh.key, _depth_key(x[sprites.thing], z[sprites.thing])]),
            -np.concatenate([things.layer[mesh.owner], things.layer[sprites.thing]]),
        )
    )
    count, pixels = len(mesh.owner), raster.polygon_pixels(view, mesh.points)
    sprite, flip, boxes = sprites.sprite.tolist(), sprites.flip.tolist(), sprites.boxes.tolist()
    first = (sprites.first + FIRST_FREE + count).tolist()
    for i in order.tolist():
        if i < count:
            raster.fill(buffer, pixels[i], FIRST_FREE + i)
        else:
            j = i - count
            raster.stamp(buffer, library.sprites[sprite[j]].parts, flip[j], boxes[j], first[j])
    if bonnet is not None:
        buffer[bonnet] = BONNET
    return _collect(drive, buffer, shade, mesh, sprites)


def _draw_decals(drive: Drive, buffer: Numbers, ego_s: float) -> None:
    """Draw lane marks and crossing streets onto the ground."""
    decals, view = drive.layout.decals, drive.view
    s = decals.corners[..., 0]
    chosen = np.flatnonzero((s.max(axis=1) > ego_s + 1.0) & (s.min(axis=1) < ego_s + MARKS_M))
    x, z, _ = raster.road_to_ego(drive.layout.road, ego_s, s[chosen], decals.corners[chosen, :, 1])
    points = raster.to_camera(view, x.astype(np.float32), GROUND_LEVEL, z.astype(np.float32))
    for polygon, surface in zip(raster.polygon_pixels(view, points), decals.surface[chosen].tolist(), strict=True):
        raster.fill(buffer, polygon, surface)


def _draw_shadows(drive: Drive, shade: Bytes, visible: Flags, x: Doubles, z: Doubles, heading: Doubles) -> None:
    """Darken the ground under and beside things: cast shadows of the sun, and contact shadows always."""
    look, library, view = drive.look, drive.library, drive.view
    chosen = np.flatnonzero(visible & (z < 70))
    scale, model = drive.layout.things.scale[chosen], drive.layout.things.model[chosen]
    half_x, half_z, height = (look.footprints[model] * scale[:, [0, 2, 1]]).T
    corner_x = np.stack([-half_x, half_x, half_x, -half_x], 1)
    corner_z = np.stack([-half_z, -half_z, half_z, half_z], 1)
    sine, cosine = np.sin(heading[chosen])[:, None], np.cos(heading[chosen])[:, None]
    foot = np.stack([x[chosen, None] + corner_x * cosine + corner_z * sine,
                     z[chosen, None] - corner_x * sine + corner_z * cosine], -1).astype(np.float32)  # fmt: skip
    if look.light.shadow < 0.97:
        sun = look.light.sun_direction
        length = np.minimum(height, 12.0) / max(sun[1], 0.15)
        offset = np.stack([-sun[0] * length, -sun[2] * length], -1).astype(np.float32)
        cast = np.concatenate([foot, foot + offset[:, None]], axis=1)
        for polygon in _ground_pixels(view, cast):
            if polygon is not None:
                raster.fill(shade, np.asarray(cv2.convexHull(polygon), np.int32), round(255 * look.light.shadow))
    solid = (model < len(library.first)) & (z[chosen] < 45)
    for polygon in _ground_pixels(view, foot[solid]):
        raster.fill(shade, polygon, round(255 * min(0.45, look.light.shadow)))


def _ground_pixels(view: View, points: FloatArray) -> list[Vertices]:
    """Project polygons (polygon, vertex, 2) of metres right and ahead on the ground."""
    return raster.polygon_pixels(view, raster.to_camera(view, points[..., 0], GROUND_LEVEL, points[..., 1]))


@dataclass(frozen=True)
class MeshPolygons:
    """Hold the mesh polygons of a frame that face the camera.

    `points` (polygon, 8, 3) and outward `normal` (polygon, 3) in camera axes.
    """

    points: FloatArray
    normal: FloatArray
    origin: FloatArray  # (polygon, 3): where the owner stands
    owner: npt.NDArray[np.int32]
    source: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]
    key: FloatArray  # (polygon,): depth of its solid, for the painter's order
    along: FloatArray  # (polygon, 3): the owner's forward axis in camera axes


def _mesh_polygons(drive: Drive, visible: Flags, x: Doubles, z: Doubles, heading: Doubles) -> MeshPolygons:
    view, things, library = drive.view, drive.layout.things, drive.library
    chosen = np.flatnonzero(visible[drive.polygon_owner])
    owner, source = drive.polygon_owner[chosen], drive.polygon_source[chosen]
    local = library.polygons[source] * things.scale[owner][:, None, :]
    angle = (heading + things.yaw).astype(np.float32)
    sine, cosine = np.sin(angle)[owner], np.cos(angle)[owner]
    at_x, at_z = x.astype(np.float32)[owner], z.astype(np.float32)[owner]
    world_x = local[..., 0] * cosine[:, None] + local[..., 2] * sine[:, None] + at_x[:, None]
    world_z = local[..., 2] * cosine[:, None] - local[..., 0] * sine[:, None] + at_z[:, None]
    points = raster.to_camera(view, world_x, local[..., 1], world_z)
    # Camera axes mirror local ones (y down), so the outward normal is the cross product in reverse.
    normal = np.cross(points[:, 2] - points[:, 0], points[:, 1] - points[:, 0])
    depth = np.maximum(points[..., 2].max(axis=1), 0.5)
    span = np.sqrt(np.linalg.norm(normal, axis=1)) / depth * view.focal
    keep = (np.einsum("ij,ij->i", normal, points[:, 0]) < 0) & (span > 2.0) & (points[..., 2].max(axis=1) > 0.5)
    pitch_sine, pitch_cosine = np.sin(view.pitch_rad), np.cos(view.pitch_rad)
    along = np.stack([sine, -cosine * pitch_sine, cosine * pitch_cosine], -1).astype(np.float32)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    middle = library.solids[source] * things.scale[owner][:, [0, 2]]
    middle_x = middle[:, 0] * cosine + middle[:, 1] * sine + at_x
    middle_z = middle[:, 1] * cosine - middle[:, 0] * sine + at_z
    key = _depth_key(middle_x, middle_z)
    rank = (source - library.first[things.model[owner]]).astype(np.int32)
    return MeshPolygons(
        points[keep], normal[keep].astype(np.float32), raster.to_camera(view, at_x, GROUND_LEVEL, at_z)[keep],
        owner[keep], source[keep], rank[keep], key[keep], along[keep],
    )  # fmt: skip


@dataclass(frozen=True)
class SpriteThings:
    """Hold the sprites of a frame: `boxes` left, top, right, bottom in samples; `first` their first part's surface."""

    thing: Indices
    sprite: Indices
    flip: Flags
    boxes: FloatArray
    first: Indices
    foot: FloatArray  # (sprite, 3) camera axes


def _sprite_things(drive: Drive, visible: Flags, x: Doubles, z: Doubles, time_s: float) -> SpriteThings:
    view, things, library = drive.view, drive.layout.things, drive.library
    meshes = len(library.first)
    thing = np.flatnonzero(visible & (things.model >= meshes) & (z > 1.5))
    step = np.floor(time_s * 6.5 + thing * 1.7).astype(np.intp) % things.cycle[thing]
    sprite = things.model[thing] - meshes + step
    flip = np.where(things.speed_d[thing] != 0, things.speed_d[thing] < 0, thing % 2 == 1)
    size = library.sprite_size_m[sprite] * things.scale[thing, :2]
    at_x, at_z = x[thing].astype(np.float32), z[thing].astype(np.float32)
    foot = raster.to_camera(view, at_x, GROUND_LEVEL, at_z)
    low, high = raster.project(view, foot), raster.project(view, raster.to_camera(view, at_x, size[:, 1], at_z))
    half = size[:, 0] * np.float32(view.focal / 2) / foot[:, 2]
    boxes = np.stack([low[:, 0] - half, high[:, 1], low[:, 0] + half, low[:, 1]], axis=1)
    seen = (boxes[:, 2] > 0) & (boxes[:, 0] < view.width) & (boxes[:, 3] > 0) & (boxes[:, 3] - boxes[:, 1] > 2)
    thing, sprite, flip, boxes, foot = thing[seen], sprite[seen], flip[seen], boxes[seen], foot[seen]
    parts = library.part_count[sprite].astype(np.intp)
    return SpriteThings(thing, sprite, flip, boxes, np.cumsum(parts) - parts, foot)


def _collect(drive: Drive, buffer: Numbers, shade: Bytes, mesh: MeshPolygons, sprites: SpriteThings) -> Painted:
    """Gather class, instance, colour and plane of every surface number."""
    library, things = drive.library, drive.layout.things
    counts = library.part_count[sprites.sprite]
    part_index = np.arange(int(counts.sum())) - np.repeat(sprites.first, counts)
    surface = np.concatenate([mesh.source, np.repeat(library.part_first[sprites.sprite], counts) + part_index])
    owner = np.concatenate([mesh.owner, np.repeat(sprites.thing, counts)]).astype(np.intp)
    material, classes = library.materials[surface].astype(np.intp), library.classes[surface].astype(np.int64)
    choice = things.colors[owner, library.slots[surface]].astype(np.intp)
    tile = drive.looks.tile[material, choice]
    sprite_row = np.repeat(np.arange(len(counts)), counts)
    towards = np.array([[0.0, 0.0, -1.0]], np.float32)
    leafy = material[len(mesh.owner) :] == tx.MATERIAL_ID["leaves"]
    depth = np.where(leafy, 0.55 + 0.22 * part_index, 1.0).astype(np.float32)  # leaves are lit by layers
    cards = drive.look.facing(towards, drive.view.pitch_rad) * depth[:, None]
    lit = np.concatenate([drive.look.facing(mesh.normal, drive.view.pitch_rad), cards])
    tint = drive.looks.color[material, choice] * lit
    glow = np.where(drive.looks.glows[material], 255.0, drive.look.window_glow).astype(np.float32)
    tint = np.where(drive.looks.glows[material][:, None], drive.looks.color[material, choice], tint)
    foreground = np.isin(classes, tx.FOREGROUND)
    if drive.wild.any():
        chosen = drive.wild[owner] & foreground
        tile = np.where(chosen, drive.looks.wild[(owner * 5 + material) % len(drive.looks.wild)], tile)
    snow = np.zeros(len(owner), np.float32)
    snow[: len(mesh.owner)] = np.clip(-mesh.normal[:, 1] * 1.6 - 0.6, 0, 1) * drive.look.light.snow_cover
    tint = tint * (1 - snow[:, None]) + drive.look.snow_color * snow[:, None]
    instances = np.where(foreground, classes * 1000 + drive.number[owner], 0)
    ground_tint, ground_tile, ground_mip = _ground_columns(drive)
    tiles = np.concatenate([ground_tile, tile]).astype(np.int32)
    lead = np.array([*[c for _, c in GROUND], *BACKDROP_CLASSES])
    return Painted(
        buffer,
        _surfaces(drive, mesh, sprites, sprite_row, material, tiles, ground_mip),
        np.concatenate([ground_tint, pack(tint, glow)]),
        np.concatenate([lead, classes]).astype(np.uint8),
        np.concatenate([np.zeros(len(lead)), instances]).astype(np.uint16),
        shade,
    )


def pack(color: FloatArray, alpha: FloatArray | float) -> Packed:
    """Pack (row, 3) colours and alpha into (row,) uint32."""
    rows = np.empty((len(color), 4), np.uint8)
    rows[:, :3] = np.clip(np.rint(color), 0, 255)
    rows[:, 3] = np.clip(np.rint(alpha), 0, 255)
    return rows.view(np.uint32)[:, 0]


def _surfaces(
    drive: Drive, mesh: MeshPolygons, sprites: SpriteThings, sprite_row: Indices, material: Indices,
    tile: npt.NDArray[np.int32], ground_mip: FloatArray,
) -> Surfaces:  # fmt: skip
    """Work out the plane and texture axes of every mesh polygon and sprite part; ground and backdrop need none."""
    count = len(mesh.owner)
    view, looks = drive.view, drive.looks
    wide, high = looks.tile_m[material], looks.tile_height_m[material]
    up = np.array([0.0, -np.cos(view.pitch_rad), -np.sin(view.pitch_rad)], np.float32)
    flat = np.abs(mesh.normal @ up) > 0.7
    across = np.cross(up[None], mesh.normal)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    u_dir = np.where(flat[:, None], mesh.along, across)
    v_dir = np.where(flat[:, None], np.cross(up[None], mesh.along), -up[None])
    offset = np.einsum("ij,ij->i", mesh.normal, mesh.points[:, 0])
    offset = np.where(np.abs(offset) < 1e-4, np.float32(-1e-4), offset)
    shift = (mesh.owner % 7 * 0.19).astype(np.float32)  # so that neighbours differ
    middle = mesh.points.mean(axis=1)
    slant = np.abs(np.einsum("ij,ij->i", mesh.normal, middle)) / np.linalg.norm(middle, axis=1)
    mip = tx.TILE_PX / (wide[:count] * view.focal * np.sqrt(np.clip(slant, 0.12, 1.0)))
    foot = sprites.foot[sprite_row]
    one, zero = np.ones(len(foot), np.float32), np.zeros(len(foot), np.float32)
    size = wide[count:]
    card_u = np.stack([one / size, zero, zero, -foot[:, 0] / size + sprite_row * 0.37])
    card_v = np.stack([zero, one / size, zero, -foot[:, 1] / size + sprite_row * 0.53])
    return Surfaces(
        _both((mesh.normal / offset[:, None]).T, np.stack([zero, zero, 1 / np.maximum(foot[:, 2], 0.3)])),
        _both(_texture_axis(u_dir, mesh.origin, wide[:count], shift), card_u),
        _both(_texture_axis(v_dir, mesh.origin, high[:count], np.zeros_like(shift)), card_v),
        np.concatenate([ground_mip, mip, tx.TILE_PX / (size * view.focal)]).astype(np.float32),
        tile,
    )


def _both(mesh: npt.NDArray[Any], sprites: npt.NDArray[Any]) -> FloatArray:
    return np.pad(np.concatenate([mesh, sprites], axis=1).astype(np.float32), ((0, 0), (FIRST_FREE, 0)))


def _texture_axis(direction: FloatArray, origin: FloatArray, size_m: FloatArray, shift: FloatArray) -> FloatArray:
    """Return (4, row): the axis in tiles a metre, and the offset that puts 0 at the owner's foot."""
    start = -np.einsum("ij,ij->i", direction, origin) / size_m + shift
    return np.concatenate([(direction / size_m[:, None]).T, start[None]])


def _ground_columns(drive: Drive) -> tuple[Packed, npt.NDArray[np.int32], FloatArray]:
    """Return tint, tile and texels a sample at 1 m of the ground and backdrop surfaces."""
    look = drive.look
    material = np.array([tx.MATERIAL_ID[m] for m, _ in GROUND])
    choice = look.ground_choice
    upwards = look.facing(np.array([[0.0, -1.0, 0.0]], np.float32), drive.view.pitch_rad)
    color = drive.looks.color[material, choice] * upwards
    snow = look.light.snow_cover * np.array([0.55 if c == tx.ROAD else 1.0 for _, c in GROUND], np.float32)[:, None]
    color = color * (1 - snow) + look.snow_color * snow
    beyond = len(BACKDROP_CLASSES)
    tile = np.pad(drive.looks.tile[material, choice], (0, beyond))
    mip = tx.TILE_PX / (drive.looks.tile_m[material] * drive.view.focal)
    return np.pad(pack(color, 0.0), (0, beyond)), tile, np.concatenate([mip, np.ones(beyond)]).astype(np.float32)


def _sample_indices(buffer: Numbers, scale: int) -> tuple[Indices, Indices, Indices]:
    """Choose which samples of the surface buffer to shade.

    A pixel whose samples all show one surface is shaded once, at its last sample; a pixel on an edge at every sample.
    Returns flat sample indices, first one for each plain pixel, then blocks for all edge pixels by sample; and the flat
    indices of the plain and of the edge pixels.
    """
    height, width = buffer.shape
    if scale == 1:
        every = np.arange(height * width)
        return every, every, every[:0]
    last = buffer[1::2, 1::2]
    same = (last == buffer[::2, ::2]) & (last == buffer[::2, 1::2]) & (last == buffer[1::2, ::2])
    plain, edge = np.flatnonzero(same), np.flatnonzero(~same)
    columns = width // 2
    corner = plain // columns * (2 * width) + plain % columns * 2
    edge_corner = edge // columns * (2 * width) + edge % columns * 2
    blocks = [edge_corner, edge_corner + 1, edge_corner + width, edge_corner + width + 1]
    return np.concatenate([corner + width + 1, *blocks]), plain, edge


def _shade(drive: Drive, painted: Painted, ego_s: float) -> tuple[Bytes, FloatArray]:
    """Return the frame's colours before light and air (height, width, 4: red, green, blue, glow) and its 1/z."""
    scale = drive.world.supersampling
    index, plain, edge = _sample_indices(painted.buffer, scale)
    number = np.take(painted.buffer.reshape(-1), index).astype(np.intp)
    texel, inverse_z = _texels(drive, painted, ego_s, index, number)
    tint = np.take(painted.tint, number)
    far = np.flatnonzero((number >= BACKDROP) & (number < FIRST_FREE))
    tint[far] = np.take(drive.ground.backdrop.reshape(-1), index[far])
    shape = (painted.buffer.shape[0] // scale, painted.buffer.shape[1] // scale)
    texel_bytes, tint_bytes = (each.view(np.uint8).reshape(-1, 4) for each in (texel, tint))
    samples = cv2.multiply(texel_bytes, tint_bytes, scale=1 / tx.NEUTRAL)
    color = np.empty((shape[0] * shape[1], 4), np.uint8)
    depth = np.empty(len(color), np.float32)
    color.view(np.uint32)[plain, 0] = samples[: len(plain)].view(np.uint32)[:, 0]
    depth[plain] = inverse_z[: len(plain)]
    if len(edge):
        blocks = samples[len(plain) :].reshape(4, len(edge), 4).astype(np.uint16)
        mean = ((blocks[0] + blocks[1] + blocks[2] + blocks[3] + 2) >> 2).astype(np.uint8)
        color.view(np.uint32)[edge, 0] = mean.view(np.uint32)[:, 0]
        depth[edge] = inverse_z[-len(edge) :]
    return color.reshape(*shape, 4), depth.reshape(shape)


def _texels(drive: Drive, painted: Painted, ego_s: float, index: Indices, number: Indices) -> tuple[Packed, FloatArray]:
    """Return packed texel and 1/z of samples given by their flat indices and surface numbers."""
    ground, tiles, surfaces = drive.ground, drive.tiles, painted.surfaces
    texel = np.full(index.shape, 0x00B4B4B4, np.uint32)  # NEUTRAL
    inverse_z = np.where(number == BONNET, np.float32(1.0), np.float32(1 / BACKDROP_M))
    flat = np.flatnonzero(number < BACKDROP)
    here, at = np.take(number, flat), np.take(index, flat)
    z = np.take(ground.z, at)
    size = np.take(drive.look.ground_tile_m, here)
    v = (np.take(ground.s, at) + np.float32(ego_s)) / size
    u = np.take(ground.d, at) / size
    mip = np.take(surfaces.mip, here) * z * np.sqrt(np.minimum(z / np.float32(drive.view.height_m), np.float32(16.0)))
    texel[flat] = raster.sample_tiles(tiles, np.take(surfaces.tile, here), u, v, mip)
    inverse_z[flat] = 1 / np.maximum(z, np.float32(0.3))
    if drive.look.shadows:
        left = np.take(painted.shade, at)
        dark = np.flatnonzero(left < 255)
        channels = texel.view(np.uint8).reshape(-1, 4)
        dimmed = channels[flat[dark], :3].astype(np.uint16) * left[dark, None]
        channels[flat[dark], :3] = (dimmed >> 8).astype(np.uint8)
    solid = np.flatnonzero(number >= FIRST_FREE)
    rows, columns = np.divmod(np.take(index, solid), drive.view.width)
    texel[solid], inverse_z[solid] = raster.shade_surfaces(
        tiles, surfaces, np.take(number, solid), np.take(drive.view.ray_x, columns), np.take(drive.view.ray_y, rows)
    )
    return texel, inverse_z
