"""Painter's algorithm into a buffer of surface numbers; depth and texture follow from each surface's plane.

Camera axes are x right, y down, z forward. A pixel's ray is (x, y, 1). A surface holds the plane that it lies in
as `plane` with 1/z = plane . ray, and its texture axes, so that depth and texture coordinates are exact in perspective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from perception.simulator.layout import Camera, Road
from perception.simulator.textures import TILE_LEVELS, TILE_PX, FloatArray, Tiles

Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.uint16]  # of surfaces, one a sample
Packed = npt.NDArray[np.uint32]  # colours with glow in one number
Vertices = npt.NDArray[np.int32] | None  # of a polygon for cv2, in fixed point; None for what is out of sight
NEAR_M = 0.4
SHIFT = 4  # fractional bits of polygon vertices


@dataclass(frozen=True)
class View:
    """Hold the pin-hole projection at sampling resolution and the ray of every pixel.

    `ray_x` (width,), `ray_y` (height,) float32.
    """

    width: int
    height: int
    focal: float
    height_m: float
    pitch_rad: float
    ray_x: FloatArray
    ray_y: FloatArray

    @property
    def center(self) -> tuple[float, float]:
        """Return the principal point in pixels."""
        return (self.width - 1) / 2, (self.height - 1) / 2


def make_view(camera: Camera, height: int, width: int) -> View:
    """Set up the projection of a camera for an image of height by width samples."""
    focal = camera.focal_widths * width
    ray_x = ((np.arange(width) - (width - 1) / 2) / focal).astype(np.float32)
    ray_y = ((np.arange(height) - (height - 1) / 2) / focal).astype(np.float32)
    return View(width, height, focal, camera.height_m, camera.pitch_rad, ray_x, ray_y)


def to_camera(view: View, x: FloatArray, y_up: FloatArray | np.float32, z: FloatArray) -> FloatArray:
    """Turn points right of, above the ground and ahead of the ego car into camera axes (..., 3)."""
    sine, cosine = np.float32(np.sin(view.pitch_rad)), np.float32(np.cos(view.pitch_rad))
    below = np.float32(view.height_m) - y_up
    return np.stack([x, below * cosine - z * sine, z * cosine + below * sine], axis=-1)


def road_to_ego(road: Road, ego_s: float, s: Doubles, d: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Turn road coordinates into metres right of and ahead of the ego car, and the road's heading there (radians)."""
    angle = road.curvature_per_m * (s - ego_s)
    if road.curvature_per_m == 0.0:
        return d - road.ego_d_m, s - ego_s, angle
    x = (1 - np.cos(angle)) / road.curvature_per_m + d * np.cos(angle) - road.ego_d_m
    z = np.sin(angle) / road.curvature_per_m - d * np.sin(angle)
    return x, z, angle


def ego_to_road(road: Road, x: Doubles, z: Doubles) -> tuple[Doubles, Doubles]:
    """Turn metres right of and ahead of the ego car into s ahead of it and d."""
    if road.curvature_per_m == 0.0:
        return z, x + road.ego_d_m
    radius, sign = 1 / abs(road.curvature_per_m), np.sign(road.curvature_per_m)
    across = radius - sign * (x + road.ego_d_m)
    return np.arctan2(z, across) * radius, sign * (radius - np.hypot(across, z))


def project(view: View, points: FloatArray) -> FloatArray:
    """Project camera points (..., 3) to pixels (..., 2)."""
    center = np.array(view.center, np.float32)
    return points[..., :2] / points[..., 2:] * np.float32(view.focal) + center


def clip_near(points: FloatArray) -> FloatArray:
    """Cut convex polygons (polygon, vertex, 3) at z = NEAR_M.

    Returns (polygon, 2 * vertex, 3); vertices that are not needed repeat others. Polygons wholly behind become NaN.
    """
    following = np.roll(points, -1, axis=1)
    inside = points[..., 2] >= NEAR_M
    crosses = inside != (following[..., 2] >= NEAR_M)
    rise = np.where(crosses, following[..., 2] - points[..., 2], np.float32(1.0))
    share = ((np.float32(NEAR_M) - points[..., 2]) / rise)[..., None]
    cut = points + (following - points) * share
    both = np.stack([points, cut], axis=2).reshape(len(points), -1, 3)
    valid = np.stack([inside, crosses], axis=2).reshape(len(points), -1)
    index = np.where(valid, np.arange(valid.shape[1]), -1)
    latest = np.maximum.accumulate(index, axis=1)
    latest = np.where(latest < 0, index.max(axis=1, keepdims=True), latest)
    kept = np.take_along_axis(both, np.maximum(latest, 0)[..., None], axis=1)
    kept[~valid.any(axis=1)] = np.nan
    return kept


def _fixed_point(view: View, points: FloatArray) -> npt.NDArray[np.int32]:
    # Vertices far outside the image would overflow cv2's fixed point.
    pixels = np.clip(project(view, points), -8000, 8000)
    return np.rint(pixels * (1 << SHIFT)).astype(np.int32)


def polygon_pixels(view: View, points: FloatArray) -> list[Vertices]:
    """Project convex polygons (polygon, vertex, 3) to fixed-point vertices for cv2; None for what is out of sight."""
    near = points[..., 2].min(axis=1) < NEAR_M
    pixels = _fixed_point(view, np.where(near[:, None, None], np.float32(1.0), points))
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    limit = np.array([view.width, view.height]) << SHIFT
    seen = ((high > 0) & (low < limit)).all(axis=1)
    fixed: list[Vertices] = list(pixels)
    for i in np.flatnonzero(~seen & ~near).tolist():
        fixed[i] = None
    rows = np.flatnonzero(near)
    if len(rows):
        cut = clip_near(points[rows])
        gone = np.isnan(cut[:, 0, 0])
        cut_pixels = _fixed_point(view, np.where(gone[:, None, None], np.float32(1.0), cut))
        for i, polygon, behind in zip(rows.tolist(), cut_pixels, gone.tolist(), strict=True):
            fixed[i] = None if behind else polygon
    return fixed


def fill(buffer: Numbers | Bytes, polygon: Vertices, value: int) -> None:
    """Fill a convex polygon of fixed-point vertices; None fills nothing."""
    if polygon is not None:
        cv2.fillConvexPoly(buffer, polygon, value, cv2.LINE_8, SHIFT)


def stamp(buffer: Numbers, parts: Bytes, flip: bool, box: Sequence[float], first: int) -> None:
    """Stamp a part map over the pixel box (left, top, right, bottom); part p writes surface number first + p - 1."""
    rows, columns = parts.shape
    left, top, right, bottom = box
    x0, x1 = max(0, round(left)), min(buffer.shape[1], max(round(right), round(left) + 1))
    y0, y1 = max(0, round(top)), min(buffer.shape[0], max(round(bottom), round(top) + 1))
    if x0 >= x1 or y0 >= y1:
        return
    step_x, step_y = columns / max(right - left, 1e-6), rows / max(bottom - top, 1e-6)
    start_x, start_y = (x0 + 0.5 - left) * step_x - 0.5, (y0 + 0.5 - top) * step_y - 0.5
    if flip:
        start_x, step_x = columns - 1 - start_x, -step_x
    matrix = np.array([[step_x, 0.0, start_x], [0.0, step_y, start_y]])
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    part = np.asarray(cv2.warpAffine(parts, matrix, (x1 - x0, y1 - y0), flags=nearest), np.uint8)
    cv2.copyTo(part + np.uint16(first - 1), part, buffer[y0:y1, x0:x1])


@dataclass(frozen=True)
class Surfaces:
    """Hold the surfaces of a frame as columns.

    `plane` (3, surface); `u_axis`, `v_axis` (4, surface): texture coordinate in tiles = (axis[:3] . ray) * z + axis[3];
    `mip` (surface,): texels a sample at 1 m; `tile` (surface,); all float32 or int32.
    """

    plane: FloatArray
    u_axis: FloatArray
    v_axis: FloatArray
    mip: FloatArray
    tile: npt.NDArray[np.int32]


def sample_tiles(tiles: Tiles, tile: npt.NDArray[np.int32], u: FloatArray, v: FloatArray, texels: FloatArray) -> Packed:
    """Look texels up at tile coordinates u, v (in tiles, repeating) with `texels` a sample choosing the mip level."""
    level = (np.maximum(texels, np.float32(1.0)).view(np.int32) >> 23) - 127  # floor of log2
    np.minimum(level, TILE_LEVELS - 1, out=level)
    mask = (TILE_PX - 1) >> level
    column = ((u * np.float32(TILE_PX)).astype(np.int32) >> level) & mask
    row = ((v * np.float32(TILE_PX)).astype(np.int32) >> level) & mask
    bits = 7 - level
    index = np.take(tiles.level_offsets, level) + (((tile << bits) + row) << bits) + column
    return np.asarray(np.take(tiles.texels, index), np.uint32)


def shade_surfaces(
    tiles: Tiles, surfaces: Surfaces, number: npt.NDArray[np.intp], ray_x: FloatArray, ray_y: FloatArray
) -> tuple[Packed, FloatArray]:
    """Return the packed texel and 1/z of every sample from its surface's number and ray."""

    def column(values: FloatArray) -> FloatArray:
        return np.take(values, number)

    plane, u_axis, v_axis = surfaces.plane, surfaces.u_axis, surfaces.v_axis
    inverse_z = column(plane[0]) * ray_x + column(plane[1]) * ray_y + column(plane[2])
    np.clip(inverse_z, np.float32(1e-4), np.float32(4.0), out=inverse_z)
    z = np.float32(1.0) / inverse_z
    u = (column(u_axis[0]) * ray_x + column(u_axis[1]) * ray_y + column(u_axis[2])) * z + column(u_axis[3])
    v = (column(v_axis[0]) * ray_x + column(v_axis[1]) * ray_y + column(v_axis[2])) * z + column(v_axis[3])
    return sample_tiles(tiles, np.take(surfaces.tile, number), u, v, z * column(surfaces.mip)), inverse_z
