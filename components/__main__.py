"""`python -m components STAGE ...`: the one entry point of every stage, on a laptop and in a container."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.contract import RECORDS_VARIABLE, Stage, die_with_parent, main
from components.usage import LAUNCHED_VARIABLE, launch_time
from components.warm import WARM_VARIABLE, run_warm


def run(arguments: Sequence[str]) -> int:
    """Run the stage that `arguments` name, in a warm process where the local engine keeps one for it; return its exit code."""
    stages = named_stages(arguments)
    stage = stages.get(arguments[0]) if arguments else None
    code = run_warm(stage, arguments) if stage and WARM_VARIABLE in os.environ else None
    return main(stages, arguments) if code is None else code


def named_stages(arguments: Sequence[str]) -> Mapping[str, Stage]:
    """Return the one stage that the arguments begin with, so that no other is imported; all where they begin with none."""
    name = arguments[0] if arguments else ""
    if name.isidentifier() and Path(__file__).with_name(f"{name}.py").is_file():
        stage = getattr(importlib.import_module(f"components.{name}"), "STAGE", None)
        if isinstance(stage, Stage) and stage.name == name:
            return {name: stage}
    from components.stages import STAGES

    return STAGES


if __name__ == "__main__":
    if (
        RECORDS_VARIABLE in os.environ
    ):  # the local engine runs us: a killed night must leave no stage behind that still writes
        die_with_parent()
        os.environ[LAUNCHED_VARIABLE] = str(launch_time())
    sys.exit(run(sys.argv[1:]))
