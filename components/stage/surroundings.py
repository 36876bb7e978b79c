"""The environment that a night and its commands run in: nothing of the user's other tools changes what they do."""

import os
import re
import sys
from collections.abc import Mapping

# Settings of Python, DVC and the language that change results, refuse files or stop programs. PYTHONPATH holds users' networks.
_FOREIGN = re.compile("PYTHON(?!PATH$|UNBUFFERED$|DONTWRITEBYTECODE$).*|DVC_.*|LC_.*|LANG|LANGUAGE|TZ")
_OWN = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "TZ": "UTC"}


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without other tools' settings, in one language, one encoding and one time zone.

    Keys and credentials stay (AWS_*, NIGHTDRIVE_*); git's settings are sorted out where git is run.
    """
    return {name: value for name, value in environment.items() if not _FOREIGN.fullmatch(name)} | _OWN


def start_in_own_environment() -> None:
    """Start this process once more where its environment is not its own: Python reads its settings only as it starts."""
    environment = own_environment(os.environ)
    if environment != dict(os.environ):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, environment)
