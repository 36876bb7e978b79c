"""`python -m components.stage STAGE ...`: the one entry point of every stage, on a laptop and in a container."""

import os
import sys
from collections.abc import Sequence

from components.stage.execution import die_with_parent
from components.stage.records import RECORDS_VARIABLE
from components.stage.usage import LAUNCHED_VARIABLE, launch_time
from components.stage.warm import WARM_VARIABLE, run_warm


def run(arguments: Sequence[str]) -> int:
    """Run the stage that `arguments` name and return its exit code.

    Kubeflow's executor input makes it a step of a pipeline; where the local engine keeps a warm process, it runs there.
    """
    if "--executor-input" in arguments:
        from components.stage.kfp_step import run_step

        return run_step(arguments)
    code = run_warm(arguments) if arguments and WARM_VARIABLE in os.environ else None
    if code is not None:
        return code
    from components.stage.command import main

    return main(arguments)


if __name__ == "__main__":
    if RECORDS_VARIABLE in os.environ:  # the local engine runs us: a killed night must leave no stage that still writes
        die_with_parent()
        os.environ[LAUNCHED_VARIABLE] = str(launch_time())
    sys.exit(run(sys.argv[1:]))
