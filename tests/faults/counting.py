"""What a campaign counts, and the table that it prints."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Count:
    """One row: what was done to the night, and how it ended."""

    name: str
    cases: int
    kills: int = 0
    correct: int = 0  # ended in a correct night or a correct result, equal to an undisturbed one
    errors: int = 0  # ended in an error that names the thing in one line, with the exit code of the contract
    losses: tuple[str, ...] = ()  # what was lost, half-written, silently wrong, hung, or told as a traceback

    def __post_init__(self) -> None:
        # Whoever forgets a case must not report it as well handled.
        if self.correct + self.errors + len(self.losses) != self.cases:
            raise ValueError(
                f"{self}: {self.cases} cases, but {self.correct} + {self.errors} + {len(self.losses)} counted"
            )


def counted(name: str, endings: Sequence[str], kills: int = 0) -> Count:
    """Count endings: "correct", "error", or else what was lost."""
    lost = tuple(each for each in endings if each not in ("correct", "error"))
    return Count(name, len(endings), kills, list(endings).count("correct"), list(endings).count("error"), lost)


def table(rows: Sequence[Count]) -> str:
    """Lay the counts out in columns, with their sums below."""
    total = Count(
        "all",
        sum(row.cases for row in rows),
        sum(row.kills for row in rows),
        sum(row.correct for row in rows),
        sum(row.errors for row in rows),
        tuple(loss for row in rows for loss in row.losses),
    )
    heads = ("campaign", "cases", "kills", "correct", "clear errors", "losses")
    cells = [(row.name, row.cases, row.kills, row.correct, row.errors, len(row.losses)) for row in (*rows, total)]
    width = max(len(str(row[0])) for row in (heads, *cells))
    lines = [f"{row[0]!s:<{width}}" + "".join(f"{value!s:>14}" for value in row[1:]) for row in (heads, *cells)]
    return "\n".join([*lines, *(f"LOSS: {loss}" for loss in total.losses)])
