"""The page that shows a night and its repetition side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from perception.reporting.page import template_environment

Value = str | int | float | bool | None


@dataclass(frozen=True)
class FigurePair:
    """One figure of both nights."""

    name: str
    first: Value
    second: Value
    timed: bool  # a time, which differs from run to run

    @property
    def differs(self) -> bool:
        """Say whether the figure should be equal and is not."""
        return self.first != self.second and not self.timed

    @property
    def difference(self) -> str:
        """Return how much larger the second figure is; empty where they are equal or no numbers."""
        numbers = [
            each for each in (self.first, self.second) if isinstance(each, int | float) and not isinstance(each, bool)
        ]
        return f"{numbers[1] - numbers[0]:+.6g}" if len(numbers) == 2 and self.first != self.second else ""


def render_replay(night: str, overrides: Sequence[str], pairs: Sequence[FigurePair]) -> str:
    """Return the page: what differs first, then all figures."""
    template = template_environment().get_template("replay.html")
    return template.render(night=night, overrides=overrides, pairs=sorted(pairs, key=lambda pair: not pair.differs))
