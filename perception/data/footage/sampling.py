"""Which frames of a recording are taken, and what its clocks did."""

import math
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from perception.data.footage.frames import Shot
from perception.data.footage.settings import FootageSettings
from perception.data.picture_hash import difference_hash, hash_distance

GAP_S = 60.0  # a clock that is further than this from the last frame's has jumped
_EARTH_RADIUS_M = 6_371_008.8  # mean radius, IUGG
_Camera = tuple[str | None, str]  # and the object, where its clock is its own


@dataclass(frozen=True)
class _Taken:
    """Hold what the next frame of a camera is compared with."""

    clock_s: float | None
    place: tuple[float, float] | None
    picture_hash: str


@dataclass
class Sampler:
    """Take the frames of a drive that its settings ask for, and count the others by reason."""

    settings: FootageSettings
    _taken: dict[_Camera, _Taken] = field(default_factory=dict)
    _clocks: dict[_Camera, float] = field(default_factory=dict)

    def takes(self, shot: Shot, object: str, counts: Counter[str]) -> bool:
        """Say whether a frame of an object is taken; what is counted: docs/footage.md."""
        # A clock that knows no date begins with its recording.
        camera = (shot.camera, object if shot.clock_s is not None and shot.timestamp_utc is None else "")
        self._watch_clock(camera, shot.clock_s, counts)
        reason = self._reason_to_skip(camera, shot)
        counts[reason or "taken"] += 1
        return not reason

    def _reason_to_skip(self, camera: _Camera, shot: Shot) -> str:
        wanted, sampling, last = self.settings.cameras, self.settings.sampling, self._taken.get(camera)
        if wanted and not any(fnmatchcase(shot.camera or "", pattern) for pattern in wanted):
            return "other_camera"
        if sampling.every_s and shot.clock_s is None:
            return "no_time"
        if sampling.every_m and shot.place is None:
            return "no_place"
        if last and not self._is_far(shot, last):
            return "too_near"
        seen = difference_hash(shot.picture.pixels()) if sampling.least_change_bits else ""
        if last and sampling.least_change_bits and hash_distance(seen, last.picture_hash) < sampling.least_change_bits:
            return "unchanged"
        self._taken[camera] = _Taken(shot.clock_s, shot.place, seen)
        return ""

    def _is_far(self, shot: Shot, last: _Taken) -> bool:
        sampling, far = self.settings.sampling, True
        if sampling.every_s and shot.clock_s is not None and last.clock_s is not None:
            passed_s = shot.clock_s - last.clock_s  # below 0 where another recording, or another clock, begins
            far = passed_s < 0 or passed_s >= sampling.every_s - 1e-6
        if sampling.every_m and shot.place and last.place:
            far = far and distance_m(shot.place, last.place) >= sampling.every_m
        return far

    def _watch_clock(self, camera: _Camera, clock_s: float | None, counts: Counter[str]) -> None:
        before = self._clocks.get(camera)
        if clock_s is None:
            return
        if before is not None:
            counts["clock_stands"] += clock_s == before
            counts["clock_jumps"] += clock_s < before or clock_s > before + GAP_S
        self._clocks[camera] = clock_s


def distance_m(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Return the distance of two places, latitude and longitude in degrees, along a great circle (haversine formula)."""
    (lat_a, lon_a), (lat_b, lon_b) = (tuple(map(math.radians, each)) for each in (here, there))
    half = math.sin((lat_b - lat_a) / 2) ** 2 + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    return 2 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(half)))
