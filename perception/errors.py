"""Errors that people can mend: bad input, and servers that do not answer."""


class InputError(Exception):
    """Report bad input or bad usage in one line: the thing, its value, the rule it breaks and what to do next.

    The command line turns it into exit code 2 without a traceback.
    """


class Unreachable(InputError):
    """Report that a server cannot be reached or failed: the same request may well succeed later, so a cluster retries it."""
