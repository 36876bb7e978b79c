import sys

from benchmarks.duels.command import bench
from components.stage.program import run_program

if __name__ == "__main__":
    sys.exit(run_program(bench, sys.argv[1:], "python -m benchmarks.duels"))
