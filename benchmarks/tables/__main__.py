import sys

from benchmarks.tables.command import table
from components.stage.program import run_program

if __name__ == "__main__":
    sys.exit(run_program(table, sys.argv[1:], "python -m benchmarks.tables"))
