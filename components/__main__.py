"""`python -m components STAGE ...`: the one entry point of every stage, on a laptop and in a container."""

import os
import sys
from collections.abc import Sequence

from components.contract import RECORDS_VARIABLE, die_with_parent, main
from components.stages import STAGES
from components.usage import LAUNCHED_VARIABLE, launch_time
from components.warm import WARM_VARIABLE, run_warm


def run(arguments: Sequence[str]) -> int:
    """Run the stage that `arguments` name, in a warm process where the local engine keeps one for it; return its exit code."""
    stage = STAGES.get(arguments[0]) if arguments else None
    code = run_warm(stage, arguments) if stage and WARM_VARIABLE in os.environ else None
    return main(STAGES, arguments) if code is None else code


if __name__ == "__main__":
    if (
        RECORDS_VARIABLE in os.environ
    ):  # the local engine runs us: a killed night must leave no stage behind that still writes
        die_with_parent()
        os.environ[LAUNCHED_VARIABLE] = str(launch_time())
    sys.exit(run(sys.argv[1:]))
