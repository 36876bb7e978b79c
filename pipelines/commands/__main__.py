"""`python -m pipelines.commands` is `nightdrive`, for where the console script is not installed."""

import sys

from pipelines.commands.program import main

if __name__ == "__main__":
    sys.exit(main())
