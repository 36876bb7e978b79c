"""The command `make operating-characteristics`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.commands.options import PATH, set_option

if TYPE_CHECKING:
    from benchmarks.operating.studies import Study


@click.command(
    epilog='Example: nightdrive operating-characteristics --set "study.repeats=100 study.years=10 world.paired_sd=0.35"'
)
@set_option
@click.option("--out", type=PATH, help="Folder to write the page, its plot and its figures into; default: print only.")
def operating_characteristics(overrides: list[str], out: Path | None) -> None:
    """Simulate a fleet whose truth is known: what the release verdict lets through, by drives, loss and months."""
    import time

    from benchmarks.operating.page import page_text, write_results
    from benchmarks.operating.studies import run_study

    study, start = study_of(overrides), time.monotonic()
    cells, minutes = run_study(study), (time.monotonic() - start) / 60
    command = "make operating-characteristics" + (f' SET="{" ".join(overrides)}"' if overrides else "")
    if out:
        print(f"written: {write_results(study, cells, command, minutes, out)}")
    else:
        print(page_text(study, cells, command, minutes))


def study_of(overrides: Sequence[str]) -> "Study":
    """Return the study that SET=study.NAME=VALUE and SET=world.NAME=VALUE ask for."""
    from benchmarks.operating.studies import Study
    from benchmarks.operating.world import World
    from components.stage.parameters import build_parameters, parse_value
    from perception.errors import InputError

    sections: dict[str, dict[str, object]] = {"study": {}, "world": {}}
    for override in overrides:
        name, separator, value = override.partition("=")
        section, dot, field = name.partition(".")
        if not separator or not dot or section not in sections:
            raise InputError(f"SET={override}: must be study.NAME=VALUE or world.NAME=VALUE")
        sections[section][field] = parse_value(value, override)
    world = build_parameters(World, sections["world"], where="world", place="SET")
    return build_parameters(Study, sections["study"] | {"world": world}, where="study", place="SET")
