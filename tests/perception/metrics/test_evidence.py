import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perception.errors import InputError
from perception.metrics.evidence import gather_evidence, intraclass_correlation
from perception.reporting.evidence import what_it_does_not_support, what_it_supports

COLUMNS = ("time_of_day", "weather", "scene")


def frames(drives, frames_per_drive, seed=0):
    random = np.random.default_rng(seed)
    count = drives * frames_per_drive
    return pd.DataFrame(
        {
            "drive_id": np.repeat([f"d{k}" for k in range(drives)], frames_per_drive),
            "time_of_day": np.repeat(random.choice(["day", "night"], drives), frames_per_drive),
            "weather": "clear",
            "scene": "urban",
            "frame_id": [f"f{k}" for k in range(count)],
        }
    )


def test_correlation_is_one_when_drives_fail_whole_and_near_zero_when_frames_fail_alone():
    drive_of = np.repeat(np.arange(200), 5)
    assert intraclass_correlation(np.repeat(np.arange(200) % 4 == 0, 5), drive_of) == 1.0
    alone = np.random.default_rng(0).random(1000) < 0.2
    assert intraclass_correlation(alone, drive_of) < 0.06
    assert intraclass_correlation(np.zeros(1000, bool), drive_of) == 1.0  # nothing to estimate from: the careful value


def test_correlation_finds_what_was_simulated():
    random = np.random.default_rng(1)
    rate = random.beta(0.2 * 2, 0.8 * 2, 4000)  # intraclass correlation of a beta-binomial: 1 / (a + b + 1) = 1 / 3
    failed = (random.random((4000, 5)) < rate[:, None]).ravel()
    assert intraclass_correlation(failed, np.repeat(np.arange(4000), 5)) == pytest.approx(1 / 3, abs=0.03)


def test_the_bound_with_design_effect_covers_where_the_naive_one_does_not():
    random, drives, size, truth = np.random.default_rng(2), 60, 5, 0.1
    covered, naive = 0, 0
    for _ in range(60):
        rate = random.beta(0.1 * 0.6, 0.9 * 0.6, drives)  # correlation 0.63
        failed = (random.random((drives, size)) < rate[:, None]).ravel()
        found = gather_evidence(frames(drives, size), failed, COLUMNS)
        covered += found.upper >= truth
        naive += found.upper_frames >= truth
    assert covered >= 0.93 * 60
    assert naive <= 0.9 * 60


def test_a_failure_that_is_seen_raises_the_bound():
    table = frames(48, 10)
    seen = [gather_evidence(table, np.arange(480) < failures, COLUMNS).upper for failures in (0, 1, 2, 10)]
    assert seen == sorted(seen) and seen[0] == pytest.approx(1 - 0.05 ** (1 / 48))


def test_figures_are_those_of_the_closed_forms():
    table = frames(40, 1)
    failed = np.zeros(40, bool)
    found = gather_evidence(table, failed, COLUMNS, claim_rate=0.01, miles=1e6)
    assert found.upper == found.upper_frames == pytest.approx(1 - 0.05 ** (1 / 40))
    assert found.frames_needed == 299
    assert found.miles_upper == pytest.approx(2.9957e-6, rel=1e-4)
    assert found.miles_needed["crash"] == pytest.approx(1.577e6, rel=1e-3)
    night = next(cell for cell in found.cells if "night" in cell.name)
    assert night.upper == pytest.approx(stats.beta.ppf(1 - 0.05 / 2, 1, night.frames), rel=1e-9)
    assert found.mix_upper == pytest.approx(sum(cell.share * cell.upper for cell in found.cells))
    assert (found.cells_of_domain, found.cells_seen) == (75, 2)


def test_a_cell_of_the_mix_without_frames_has_bound_one():
    absent = "time_of_day=twilight,weather=fog,scene=freeway"
    seen = "time_of_day=day,weather=clear,scene=urban"
    found = gather_evidence(frames(40, 1), np.zeros(40, bool), COLUMNS, mix={seen: 0.9, absent: 0.1})
    worst = found.cells[0]
    assert (worst.name, worst.upper, worst.known, worst.frames) == (absent, 1.0, False, 0)
    assert found.mix_upper > 0.1
    with pytest.raises(InputError, match=r"sums to 0\.5"):
        gather_evidence(frames(40, 1), np.zeros(40, bool), COLUMNS, mix={seen: 0.5})


def test_the_words_say_what_holds_and_what_does_not():
    table = frames(30, 3)
    failed = (table.drive_id == "d3").to_numpy()
    found = gather_evidence(table, failed, COLUMNS)
    supports, not_supports = " ".join(what_it_supports(found)), " ".join(what_it_does_not_support(found))
    assert "3 of 90 failed, on 30 drives" in supports
    assert f"{100 * found.upper:.0f} %" in supports
    assert found.effective_frames == int(90 / found.design_effect)
    assert f"worth about {found.effective_frames}" in not_supports
    for words in ("73 of the 75 cells", "unknown, not passed", "no driven mile was counted", "1.6 million miles"):
        assert words in not_supports, words


def test_nothing_judged_bounds_nothing():
    with pytest.raises(InputError, match="no judged frame"):
        gather_evidence(frames(0, 1), np.zeros(0, bool), COLUMNS)


def test_one_drive_is_said_in_the_singular():
    found = gather_evidence(frames(1, 3), np.zeros(3, bool), COLUMNS)
    assert "0 of 3 failed, on 1 drive." in what_it_supports(found)[0]
