"""Contact sheets of procedural street scenes: street image, label overlay, simulator image."""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.data.taxonomies import colorize, load_taxonomy
from perception.errors import InputError
from perception.simulator.layout import draw_layout
from perception.simulator.models import build_library
from perception.simulator.render import Scene, render_drive
from perception.simulator.world import SCENES, TIMES_OF_DAY, WEATHERS, Rendering, World

# Conditions of the drives that are shown, a drive an entry.
CONDITIONS = ("urban day clear", "urban day cloudy", "freeway day clear", "unmarked day", "urban twilight", "urban night",
              "artificial_light", "backlit clear", "rain day urban", "fog urban", "snow day", "freeway night")  # fmt: skip
SHEET_COLUMNS = 2


def contact_sheet(
    wanted: Sequence[str] = CONDITIONS, *, seed: int = 0, first_drive: int = 0, frame: int = 2, width_px: int = 256
) -> NDArray[np.uint8]:
    """Draw one drive for each entry of `wanted`, two side by side: (height, width, 3) uint8 RGB; raises InputError."""
    world = World(boring_share=0.0)
    tiles = [_strip(world, seed, drive, frame, width_px) for drive in pick_drives(world, seed, first_drive, wanted)]
    while len(tiles) % SHEET_COLUMNS:
        tiles.append(np.full_like(tiles[0], 255))
    return np.vstack([np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, len(tiles), SHEET_COLUMNS)])


def pick_drives(world: World, seed: int, first: int, wanted: Sequence[str]) -> list[int]:
    """Return, for each entry of `wanted`, the first drive not yet taken that has its conditions; raises InputError."""
    unknown = {name for entry in wanted for name in entry.split()} - {*TIMES_OF_DAY, *WEATHERS, *SCENES}
    if unknown:
        known = ", ".join((*TIMES_OF_DAY, *WEATHERS, *SCENES))
        raise InputError(f"unknown conditions: {', '.join(sorted(unknown))}; use some of {known}")
    library, chosen = build_library(seed), []
    for entry in wanted:
        for drive in itertools.count(first):
            has = set(vars(draw_layout(world, library, seed, drive, 1).conditions).values())
            if drive not in chosen and set(entry.split()) <= has:
                chosen.append(drive)
                break
    return chosen


def _strip(world: World, seed: int, drive: int, frame: int, width: int) -> np.ndarray:
    """Return street image, overlay and simulator image side by side with a caption, RGB."""
    street, simulator = (_last(world, r, seed, drive, frame, width) for r in ("street", "simulator"))
    colors = colorize(street.label, load_taxonomy("cityscapes19"))
    overlay = (0.4 * street.image + 0.6 * colors).astype(np.uint8)
    picture = np.ascontiguousarray(np.hstack([street.image, overlay, simulator.image]))
    text = f"{drive}: {', '.join(vars(street.conditions).values())}"
    picture[:15, : 7 * len(text)] //= 4
    cv2.putText(picture, text, (4, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
    return np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def _last(world: World, rendering: Rendering, seed: int, drive: int, frame: int, width: int) -> Scene:
    *_, scene = render_drive(world, rendering, seed, drive, frame + 1, width // 2, width)
    return scene
