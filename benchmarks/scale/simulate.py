"""Predict a night at a fleet's scale from measured costs, say what it waits for, and draw it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.results import RESULTS, ROOT, write_page, write_plot
from benchmarks.scale import fleet_night
from benchmarks.scale.fleet_night import Forecast, Plan, Rates, StageForecast, World
from components.stage.parameters import build_parameters, parse_value, read_yaml
from perception.errors import InputError
from pipelines.nightly import nightly
from pipelines.settings import load_settings

FLEET_FILE, RATES_FILE = Path(__file__).with_name("fleet.yaml"), ROOT / RESULTS / "fleet_rates.json"
SECTIONS = {
    "fleet": fleet_night.Fleet, "cluster": fleet_night.FleetCluster, "limits": fleet_night.Limits, "gpu": fleet_night.Gpu,
    "prices": fleet_night.Prices,
}  # fmt: skip


def load_world(file: Path, rates_file: Path, profile: str, overrides: Sequence[str]) -> tuple[World, dict[str, Any]]:
    """Read fleet.yaml, the measured rates and the night's parameters; return them, and what is known of the measurement."""
    written = read_yaml(file)
    for override in overrides:
        _override(written, override)
    sections: dict[str, Any] = {
        name: build_parameters(kind, written.get(name) or {}, where=name) for name, kind in SECTIONS.items()
    }
    measured = _rates(rates_file)
    known = {name: value for name, value in measured["rates"].items() if name != "frame_bytes"}
    rates = build_parameters(Rates, known, where=str(rates_file))
    plan = Plan.of(load_settings(nightly(), profile))
    return World(rates=rates, plan=plan, **sections), measured  # type: ignore[arg-type]


def _override(written: dict[str, Any], override: str) -> None:
    name, separator, value = override.partition("=")
    section, dot, field = name.partition(".")
    if not separator or not dot or section not in SECTIONS:
        raise InputError(f"SET={override}: must be SECTION.NAME=VALUE, of {', '.join(SECTIONS)} in fleet.yaml")
    written.setdefault(section, {})[field] = parse_value(value, override)


def _rates(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        assert isinstance(found["rates"], Mapping)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; measure with `python -m benchmarks.scale fleet_rates` first") from None
    except (ValueError, KeyError, AssertionError):
        raise InputError(
            f"{file}: holds no measured rates; measure with `python -m benchmarks.scale fleet_rates`"
        ) from None
    return found


# ---------------------------------------------------------------- in words


def forecast_text(world: World, found: Forecast, measured: Mapping[str, Any]) -> str:
    """Write the prediction: what comes in, every stage, what the night waits for, which limits it breaks, what it costs."""
    fleet, hours = world.fleet, found.hours
    lines = [
        f"a night: {fleet.raw_frames:,.0f} raw frames ({fleet.bytes_a_year / fleet.nights_a_year / 1e12:,.0f} TB), "
        f"{fleet.pool_frames:,} in the pool, {fleet.curated_frames:,} curated",
        f"{'stage':44} {'hours':>7} {'GPU-h':>8} {'core-h':>9} {'TB':>7} {'pods':>6} {'GiB':>6}",
        *(_stage_line(stage) for stage in found.stages),
        f"{'the night':44} {hours:7.2f} {found.gpu_hours:8.1f} {sum(s.core_hours for s in found.stages):9.1f} "
        f"{sum(s.moved_tb for s in found.stages):7.1f} {sum(s.pods for s in found.stages):6d}",
        f"bottleneck: {found.bottleneck} (twice as much: {found.hours_if_doubled[found.bottleneck]:.2f} h instead of {hours:.2f})",
        "twice as much of: " + "; ".join(f"{name} {each:.2f} h" for name, each in found.hours_if_doubled.items()),
        *(f"limit: {each}" for each in found.exceeded or ("none is broken",)),
        "cost, at assumed prices: " + ", ".join(f"{name} {each:,.0f}" for name, each in found.cost.items()),
        f"measured on: {measured['hardware']}, {measured['date']}, by {measured['command']}; one H200 for the GPU (fleet.yaml)",
    ]
    return "\n".join(lines)


def _stage_line(stage: StageForecast) -> str:
    aside = "" if stage.critical else " (beside)"
    memory = f"{stage.memory_gib:6.1f}" if stage.memory_gib else f"{'':6}"
    return (
        f"{stage.name + aside:44} {stage.hours:7.2f} {stage.gpu_hours:8.1f} {stage.core_hours:9.1f} {stage.moved_tb:7.1f} "
        f"{stage.pods:6d} {memory}{'  ' + stage.note if stage.note else ''}"
    ).rstrip()


# ---------------------------------------------------------------- the picture and the page


def draw(world: World, found: Forecast) -> Figure:
    """Draw the hours of every stage, one after the other as they wait for each other."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    bars, start = figure.subplots(), 0.0
    for row, stage in enumerate(found.stages):
        color, alpha = "tab:orange" if stage.gpu_hours else "tab:blue", 0.9 if stage.critical else 0.4
        bars.barh(row, stage.hours, left=start, color=color, alpha=alpha)
        start += stage.hours if stage.critical else 0.0
    names = [stage.name.replace("gates, compress, evaluate, propose, ", "... ") for stage in found.stages]
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.axvline(world.fleet.window_hours, color="tab:red", linestyle="--")
    bars.set_xlabel("hours since the last upload; orange: with GPUs, dashed: the window")
    return figure


def write_results(world: World, found: Forecast, text: str, command: str, folder: Path) -> Path:
    """Write fleet.md and fleet.svg into the folder and return the page."""
    write_plot(folder / "fleet.svg", draw(world, found))
    body = "\n".join("    " + line for line in text.splitlines())
    return write_page(
        folder / "fleet.md",
        f"# A night of a fleet, predicted\n\n    {command}\n\nNothing of this ran: it is a model of a night, explained in "
        f"[scale](../scale.md). What is measured, stated and assumed stands in [fleet.yaml](../../benchmarks/scale/fleet.yaml).\n\n"
        f"{body}\n\n![Hours of every stage](fleet.svg)\n",
    )
