"""Contact sheet of procedural street scenes: street image, label overlay, simulator image.

    python benchmarks/scenes_gallery.py OUT.jpg [--seed 0] [--first-drive 0] [--frame 2] [--width 256]
        [--wanted NAME ...]

`--wanted` picks drives: each NAME is one or more conditions (say "night freeway") and the first drive not yet shown
that has them is taken. Without it, the twelve conditions of the documentation are shown.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from perception.data.taxonomies import colorize, load_taxonomy
from perception.simulator.layout import draw_layout
from perception.simulator.models import build_library
from perception.simulator.render import Scene, render_drive
from perception.simulator.world import SCENES, TIMES_OF_DAY, WEATHERS, Rendering, World

DEFAULT = ("urban day clear", "urban day cloudy", "freeway day clear", "unmarked day", "urban twilight", "urban night",
           "artificial_light", "backlit clear", "rain day urban", "fog urban", "snow day", "freeway night")  # fmt: skip
SHEET_COLUMNS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("seed", 0), ("first-drive", 0), ("frame", 2), ("width", 256), ("quality", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--wanted", nargs="+", default=list(DEFAULT))
    options = parser.parse_args()
    world = World(boring_share=0.0)
    tiles = []
    for drive in pick_drives(world, options.seed, options.first_drive, options.wanted):
        tiles.append(strip(world, options.seed, drive, options.frame, options.width))
    while len(tiles) % SHEET_COLUMNS:
        tiles.append(np.full_like(tiles[0], 255))
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, len(tiles), SHEET_COLUMNS)]
    cv2.imwrite(str(options.out), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, options.quality])
    print(f"{options.out}: {len(tiles)} drives, {options.out.stat().st_size / 1024:.0f} KiB")
    return 0


def pick_drives(world: World, seed: int, first: int, wanted: list[str]) -> list[int]:
    unknown = {name for entry in wanted for name in entry.split()} - {*TIMES_OF_DAY, *WEATHERS, *SCENES}
    if unknown:
        raise SystemExit(f"unknown conditions: {', '.join(sorted(unknown))}")
    library, chosen = build_library(seed), []
    for entry in wanted:
        drive = first
        while True:
            conditions = draw_layout(world, library, seed, drive, 1).conditions
            has = {conditions.time_of_day, conditions.weather, conditions.scene}
            if drive not in chosen and set(entry.split()) <= has:
                break
            drive += 1
        chosen.append(drive)
    return chosen


def strip(world: World, seed: int, drive: int, frame: int, width: int) -> np.ndarray:
    """Return street image, overlay and simulator image side by side with a caption, RGB."""
    street, simulator = (last(world, r, seed, drive, frame, width) for r in ("street", "simulator"))
    colors = colorize(street.label, load_taxonomy("cityscapes19"))
    overlay = (0.4 * street.image + 0.6 * colors).astype(np.uint8)
    picture = np.ascontiguousarray(np.hstack([street.image, overlay, simulator.image]))
    c = street.conditions
    picture[:15, : 7 * len(f"{drive}: {c.time_of_day}, {c.weather}, {c.scene}")] //= 4
    text = f"{drive}: {c.time_of_day}, {c.weather}, {c.scene}"
    cv2.putText(picture, text, (4, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (255, 255, 255), 1, cv2.LINE_AA)
    return np.pad(picture, ((2, 2), (2, 2), (0, 0)), constant_values=255)


def last(world: World, rendering: Rendering, seed: int, drive: int, frame: int, width: int) -> Scene:
    *_, scene = render_drive(world, rendering, seed, drive, frame + 1, width // 2, width)
    return scene


if __name__ == "__main__":
    sys.exit(main())
