"""Speed of the procedural street scenes: frames a second on one thread, rendering and encoding together.

A frame is rendered, its image encoded as JPEG, its label and instances as PNG; setting a drive up counts too. The
figure is frames a second of this thread's processor time, best of the rounds; wall-clock beside it tells how busy the
machine was. The last line is JSON.
"""

import json
import time

import click

from perception.simulator.folder import encode_scene, scene_frames
from perception.simulator.world import RENDERINGS, Rendering, World

BAR_FRAMES_PER_S = 50.0


@click.command()
@click.option("--drives", default=12)
@click.option("--frames", default=6)
@click.option("--height", default=128)
@click.option("--width", default=256)
@click.option("--rounds", default=3)
def run(drives: int, frames: int, height: int, width: int, rounds: int) -> int:
    """Render procedural streets on one thread, encoding included, and hold them to 50 frames a second."""
    found: dict[str, object] = {"benchmark": "scenes_speed", "height_px": height, "width_px": width}
    rates = {}
    for rendering in RENDERINGS:
        _rates(rendering, 1, frames, (height, width))  # textures and models are built once a process
        measured = [_rates(rendering, drives, frames, (height, width)) for _ in range(rounds)]
        rates[rendering], wall = (max(column) for column in zip(*measured, strict=True))
        print(f"{rendering}: {rates[rendering]:.1f} frames/s of processor time, {wall:.1f} by the clock")
        found |= {
            f"{rendering}_frames_per_cpu_s": round(rates[rendering], 1),
            f"{rendering}_frames_per_s": round(wall, 1),
        }
    passed = min(rates.values()) >= BAR_FRAMES_PER_S
    print(json.dumps(found | {"bar": BAR_FRAMES_PER_S, "pass": passed}))
    return 0 if passed else 1


def _rates(rendering: Rendering, drives: int, frames: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return the frames a second of this thread's processor time, and by the clock."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for _, scene in scene_frames(World(), rendering, 0, drives, frames, *size):
        encode_scene(scene)
    return drives * frames / (time.thread_time() - cpu), drives * frames / (time.perf_counter() - wall)
