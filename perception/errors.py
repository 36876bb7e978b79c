"""Errors that people can mend: bad input, and servers that do not answer."""

import difflib
from collections.abc import Sequence


class InputError(Exception):
    """Report bad input or bad usage in one line: the thing, its value, the rule it breaks and what to do next.

    The command line turns it into exit code 2 without a traceback. Line ends and control characters of what it names are shown as
    they are written in Python, so that no name can steer a terminal or forge a line of a log.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def shown(text: str) -> str:
    """Return text with every character that is not printable as its escape."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


class Unreachable(InputError):
    """Report that a server cannot be reached or failed: the same request may well succeed later, so a cluster retries it."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the hint that ends an error about a misspelt name, or nothing where no known name is close."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
