"""Help is printed at once: no command loads a library of others before it has read its arguments.

What costs time is loading, so the modules that are loaded are held and not the seconds.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *(f"pipelines.{name}" for name in ("submit", "schedule", "compile", "local", "preflight", "runs", "images")),
    *(f"pipelines.{name}" for name in ("data_versions", "evaluate", "engine", "dag_page")),
    "components",
)
PROBE = """
import json, runpy, sys, sysconfig
before, sys.argv = set(sys.modules), ["probe", "--help"]
try:
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
loaded = {name.partition(".")[0] for name, module in list(sys.modules.items())
          if name not in before and str(getattr(module, "__file__", None) or "").startswith(installed)}
print("\\n" + json.dumps([code, sorted(loaded)]))
"""


@pytest.mark.parametrize("module", COMMANDS)
def test_help_loads_nothing_but_python_and_our_own_code(module: str) -> None:
    program = PROBE.replace("MODULE", repr(module))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    said, _, found = done.stdout.rstrip().rpartition("\n")
    assert said.startswith("usage:")
    assert json.loads(found) == [0, []]
