"""The release contract: what must be judged before a network is released, by how much it may fall behind, what a gap costs.

A figure is `overall` (mIoU of all frames), `column=value` (mIoU in a condition) or `class=name` (IoU of a class).
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Annotated

from pydantic import Field

from perception.errors import InputError, did_you_mean
from perception.metrics.slices import DOMAIN
from perception.parameters import BrokenRule, Fraction, Share, ShareFromZero, checked

OVERALL, CLASS, FOREGROUND, EVERY = "overall", "class=", "foreground", "*"
_SEEDS = (
    "two trainings of one recipe with different seeds differ by 0.7 points of mIoU in a condition (docs/evaluation.md)"
)


@checked
class Clause:
    """Say by how much some figures may fall behind another network's, and from how many drives on they are judged.

    The margin is a share of the other network's figure, kept within two bounds: a class that is hardly found has little to lose.
    """

    # overall, column=value, column=* for every value there may be, class=name, class=*, or foreground: every class of objects
    figures: Annotated[tuple[str, ...], Field(min_length=1)]
    share: Fraction  # of the other network's figure, that may be lost
    least: ShareFromZero  # mIoU or IoU that may be lost however low the figure is
    most: ShareFromZero  # mIoU or IoU that may be lost at most
    minimum_drives: Annotated[int, Field(ge=2)] = 10  # with fewer that show it a figure is not judged
    required: bool = True  # a release needs it judged; else it is judged where it can be, and only a loss counts
    origin: str  # where the margin comes from, for whoever wants to change it

    def __post_init__(self) -> None:
        """Check that the bounds of the margin are in order."""
        if self.least > self.most:
            raise BrokenRule("least", self.least, f"must not be above most, {self.most:g}")


@checked
class ObjectRule:
    """Say which objects count when a network misses them: those of every class that a required clause names, from a size on."""

    least_share: Share = 0.001  # of the frame's pixels that an object fills; at 1024x512 about 16 by 33 px
    found_share: Share = 0.5  # of its pixels that must be seen as its class; an object of which less is seen was missed


@checked
class Exemption:
    """Let a release go out although one figure was not judged, for so many nights; signed by a name."""

    figure: str  # such as weather=fog
    by: Annotated[str, Field(min_length=1)]  # who signs for it
    reason: Annotated[str, Field(min_length=1)]  # why, which the verdict repeats
    first_night: date  # the first on which it is in force, UTC
    nights: Annotated[int, Field(ge=1, le=366)]  # for how many it is

    @property
    def last_night(self) -> date:
        """Return the last night on which it is in force."""
        return self.first_night + timedelta(days=self.nights - 1)


_DEFAULT = (
    Clause(
        figures=(OVERALL, "time_of_day=*", "weather=*"),
        share=0.1,
        least=0.01,
        most=0.02,
        minimum_drives=20,
        origin=_SEEDS,
    ),
    Clause(
        figures=(FOREGROUND,), share=0.25, least=0.01, most=0.05, origin="the same trainings, by class: 1 to 2.5 points"
    ),
    Clause(figures=("scene=*",), share=0.1, least=0.01, most=0.02, required=False, origin=_SEEDS),
    Clause(figures=("class=*",), share=0.25, least=0.01, most=0.05, required=False, origin="as for objects"),
)


@checked
class Contract:
    """Hold what is judged: clauses, of which the first that names a figure counts, and signed exemptions."""

    clauses: Annotated[tuple[Clause, ...], Field(min_length=1)] = _DEFAULT  # what is judged, and by which margins
    exemptions: tuple[Exemption, ...] = ()  # what may be left unjudged, and who signed for it
    objects: ObjectRule = ObjectRule()  # what counts as a missed object, which the page tells beside the wrong pixels

    def named(self, values: Mapping[str, Sequence[str]], classes: Mapping[str, bool]) -> dict[str, Clause]:
        """Return the clause of every figure that the contract names, in its order.

        values: of columns that are not of the operating domain, those that frames have; classes: name → whether it is an
        object. Raises InputError for a class that there is not.
        """
        found: dict[str, Clause] = {}
        for clause in self.clauses:
            for figure in clause.figures:
                for name in _expanded(figure, values, classes):
                    found.setdefault(name, clause)
        return found

    def exempt(self, night: date) -> dict[str, Exemption]:
        """Return the exemptions in force on a night, by figure."""
        return {each.figure: each for each in self.exemptions if each.first_night <= night <= each.last_night}


def _expanded(figure: str, values: Mapping[str, Sequence[str]], classes: Mapping[str, bool]) -> list[str]:
    column, _, value = figure.partition("=")
    if figure == FOREGROUND:
        return [CLASS + name for name, is_object in classes.items() if is_object]
    if column + "=" == CLASS and value != EVERY and value not in classes:
        raise InputError(
            f"contract: {figure}: no such class{did_you_mean(value, list(classes))}; name one of the taxonomy"
        )
    if value != EVERY:
        return [figure]
    every = list(classes) if column + "=" == CLASS else DOMAIN.get(column, values.get(column, ()))
    return [f"{column}={each}" for each in every]
