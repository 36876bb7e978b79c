"""`python -m components STAGE ...`: the one entry point of every stage, on a laptop and in a container."""

import sys

from components.contract import main
from components.stages import STAGES

if __name__ == "__main__":
    sys.exit(main(STAGES, sys.argv[1:]))
