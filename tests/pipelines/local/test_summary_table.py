"""What the table at a night's end says of the comparison: means, and over seeds what lies between the arms."""

from typing import Any

import pytest

from pipelines.local.summary_table import _compared


def figures(chosen: list[float] | None, random: list[float] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"miou_selected_by_seed": chosen, "miou_random_by_seed": random}
    for arm, values in (("selected", chosen), ("random", random)):
        found[f"miou_{arm}"] = sum(values) / len(values) if values else None
    return found


@pytest.mark.parametrize(
    ("chosen", "random", "said"),
    [
        ([0.25, 0.27, 0.26, 0.28, 0.24], [0.24, 0.25, 0.25, 0.25, 0.23],
         "0.260 / 0.244; difference +1.6 (+0.5 to +2.7) points over 5 seeds"),
        ([0.25], [0.24], "0.250 / 0.240; 1 seed: too few to say anything of the difference"),
        ([0.25], None, "0.250 / not measured"),
        (None, None, "not measured / not measured"),
    ],
)  # fmt: skip
def test_the_arms_are_told_with_what_lies_between_them(
    chosen: list[float] | None, random: list[float] | None, said: str
) -> None:
    assert _compared(figures(chosen, random)) == said
