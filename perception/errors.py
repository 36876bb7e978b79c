"""The one exception that people cause and people can mend."""


class InputError(Exception):
    """Report bad input or bad usage in one line: the thing, its value, the rule it breaks and what to do next.

    The command line turns it into exit code 2 without a traceback.
    """
