"""Speed of the procedural street scenes: frames a second on one thread, rendering and encoding together.

    python benchmarks/scenes_speed.py [--drives 12] [--frames 6] [--height 128] [--width 256] [--rounds 3]

A frame is rendered, its image encoded as JPEG, its label and instances as PNG; setting a drive up counts too. The
figure is frames a second of this thread's processor time, best of the rounds; wall-clock beside it tells how busy the
machine was. The last line is JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from perception.simulator.folder import encode_scene, scene_frames
from perception.simulator.world import RENDERINGS, Rendering, World

BAR_FRAMES_PER_S = 50.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("drives", 12), ("frames", 6), ("height", 128), ("width", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    results: dict[str, object] = {"benchmark": "scenes_speed", "height_px": options.height, "width_px": options.width}
    slowest = float("inf")
    for rendering in RENDERINGS:
        render(rendering, options, drives=1)  # textures and models are built once a process
        rates = [measure(rendering, options) for _ in range(options.rounds)]
        cpu, wall = max(r[0] for r in rates), max(r[1] for r in rates)
        print(f"{rendering}: {cpu:.1f} frames/s of processor time, {wall:.1f} by the clock")
        results[f"{rendering}_frames_per_cpu_s"] = round(cpu, 1)
        results[f"{rendering}_frames_per_s"] = round(wall, 1)
        slowest = min(slowest, cpu)
    print(json.dumps({**results, "bar": BAR_FRAMES_PER_S, "pass": slowest >= BAR_FRAMES_PER_S}))
    return 0


def render(rendering: Rendering, options: argparse.Namespace, drives: int) -> int:
    count = 0
    for _, scene in scene_frames(World(), rendering, 0, drives, options.frames, options.height, options.width):
        encode_scene(scene)
        count += 1
    return count


def measure(rendering: Rendering, options: argparse.Namespace) -> tuple[float, float]:
    cpu, wall = time.thread_time(), time.perf_counter()
    count = render(rendering, options, options.drives)
    return count / (time.thread_time() - cpu), count / (time.perf_counter() - wall)


if __name__ == "__main__":
    sys.exit(main())
