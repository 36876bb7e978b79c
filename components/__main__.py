"""`python -m components STAGE ...`: the one entry point of every stage, on a laptop and in a container."""

import os
import sys

from components.contract import RECORDS_VARIABLE, die_with_parent, main
from components.stages import STAGES

if __name__ == "__main__":
    if (
        RECORDS_VARIABLE in os.environ
    ):  # the local engine runs us: a killed night must leave no stage behind that still writes
        die_with_parent()
    sys.exit(main(STAGES, sys.argv[1:]))
