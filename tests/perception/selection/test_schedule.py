import pytest

from perception.errors import InputError
from perception.selection.schedule import exponential_sizes, linear_sizes, next_budget


def test_published_schedules_of_50_000_images():
    assert exponential_sizes(2000, 4) == [2000, 4000, 8000, 16000]
    assert linear_sizes(16000, 8) == list(range(2000, 16001, 2000))
    assert linear_sizes(16000, 4) == [4000, 8000, 12000, 16000]


def test_uneven_steps_still_end_at_the_last_size():
    assert linear_sizes(100, 3) == [33, 67, 100]


def test_tonight_is_the_step_to_the_next_size():
    sizes = exponential_sizes(20, 4)
    budgets, labelled = [], 0
    while budget := next_budget(sizes, labelled):
        budgets.append(budget)
        labelled += budget
    assert budgets == [20, 20, 40, 80]
    assert next_budget(sizes, 35) == 5


@pytest.mark.parametrize("arguments", [(0, 3), (10, 0)])
def test_empty_schedules_are_refused(arguments):
    for sizes in (exponential_sizes, linear_sizes):
        with pytest.raises(InputError, match="is empty"):
            sizes(*arguments)
