"""Errors that people can mend: bad input, and servers that do not answer."""

import difflib
from collections.abc import Sequence


class InputError(Exception):
    """Report bad input or bad usage in one line: the thing, its value, the rule it breaks and what to do next.

    The command line turns it into exit code 2 without a traceback.
    """


class Unreachable(InputError):
    """Report that a server cannot be reached or failed: the same request may well succeed later, so a cluster retries it."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the hint that ends an error about a misspelt name, or nothing where no known name is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
