import sys

from benchmarks.scale.command import scale
from components.stage.program import run_program

if __name__ == "__main__":
    sys.exit(run_program(scale, sys.argv[1:], "python -m benchmarks.scale"))
