"""Stand for kill -9 within this process, at the call of git, of the remote or of another place that comes after so many others."""

from collections.abc import Callable
from typing import Any


class Killed(BaseException):
    """Stand for kill -9: nothing of ours catches it."""


def counting(calls: int) -> tuple[list[int], Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """Return how many calls are left, in a list of one, and what makes a function count among them.

    The call that comes after `calls` others raises Killed: before it did its work where `calls` is odd, else after it.
    """
    left = [calls]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == -1 and calls % 2:
                raise Killed
            answer = real(*arguments, **options)
            if left[0] == -1:
                raise Killed
            return answer

        return call

    return left, counted
