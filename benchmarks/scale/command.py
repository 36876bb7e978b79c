"""The commands of scale and of the simulator: `make simulate`, `make scenes`, and `python -m benchmarks.scale NAME`."""

from pathlib import Path

import click

from benchmarks.lazy import LazyCommands
from pipelines.commands.options import PATH, set_option

_MEASURED = ("pool_scale", "pool_nights", "data_nights", "fleet_rates", "footage_speed", "gpu_feed")
_MEASURED += ("no_regression", "scenes_speed", "erasure")
COMMANDS = {"simulate": "command:simulate", "scenes": "command:scenes"} | {name: f"{name}:run" for name in _MEASURED}


@click.command(epilog='Example: nightdrive simulate --set "cluster.gpus=256 fleet.pool_every=10"')
@click.option("--profile", default="nightly", show_default=True, help="Whose trainings are simulated (params.yaml).")
@set_option
@click.option("--fleet", type=PATH, help="Parameters of fleet and cluster; default: fleet.yaml beside this command.")
@click.option("--rates", type=PATH, help="Measured costs a frame; default: docs/results/fleet_rates.json.")
@click.option("--out", type=PATH, help="Folder to write fleet.md and fleet.svg into; default: print only.")
def simulate(profile: str, overrides: list[str], fleet: Path | None, rates: Path | None, out: Path | None) -> None:
    """Predict a night at a fleet's scale: its hours, its cost, what it waits for and which limits it breaks."""
    from benchmarks.scale.fleet_night import forecast
    from benchmarks.scale.simulate import FLEET_FILE, RATES_FILE, forecast_text, load_world, write_results

    world, measured = load_world(fleet or FLEET_FILE, rates or RATES_FILE, profile, overrides)
    found = forecast(world)
    text = forecast_text(world, found, measured)
    print(text)
    if out:
        command = "make simulate" + (f' SET="{" ".join(overrides)}"' if overrides else "")
        print(f"written: {write_results(world, found, text, command, out)}")


@click.command(epilog="Example: nightdrive scenes --out build/scenes.jpg --wanted 'night freeway'")
@click.option("--out", type=PATH, default=Path("build/scenes.jpg"), show_default=True, help="The picture, a JPEG.")
@click.option("--seed", default=0, show_default=True, help="Of the world.")
@click.option("--first-drive", default=0, show_default=True, help="From which drives are looked for.")
@click.option("--frame", default=2, show_default=True, help="Which frame of a drive is shown.")
@click.option("--width", default=256, show_default=True, help="Of a frame, px.")
@click.option("--wanted", multiple=True, help="Conditions of a drive, such as 'night freeway'; may be repeated.")
def scenes(out: Path, seed: int, first_drive: int, frame: int, width: int, wanted: tuple[str, ...]) -> None:
    """Draw a contact sheet of procedural streets: street image, label overlay, simulator image."""
    import cv2

    from perception.data.files import replace_file
    from perception.simulator.gallery import CONDITIONS, contact_sheet

    sheet = contact_sheet(wanted or CONDITIONS, seed=seed, first_drive=first_drive, frame=frame, width_px=width)
    data = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    replace_file(out, data)
    print(f"{out}: {len(data) / 1024:.0f} KiB")


@click.group(commands=LazyCommands({name: f"benchmarks.scale.{module}" for name, module in COMMANDS.items()}))
def scale() -> None:
    """Measure what a night costs at a fleet's scale, and predict one."""
