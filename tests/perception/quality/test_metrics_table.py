"""The long table of figures."""

import numpy as np
import pytest

from perception.errors import InputError
from perception.quality.metrics_table import COLUMNS, metric_rows


def test_a_figure_becomes_a_row():
    table = metric_rows(
        [
            {"stage": "evaluate", "metric": "miou", "slice": "night", "value": 0.4, "lower": 0.3},
            {"stage": "evaluate", "metric": "miou", "value": None},
            {"stage": "compress", "metric": "parameters", "value": 12, "upper": np.int64(20)},
        ]
    )
    assert tuple(table) == COLUMNS
    assert table.gate_id.tolist() == ["evaluate/miou/night", "evaluate/miou/all", "compress/parameters/all"]
    assert table.bounded.tolist() == [True, False, True]
    assert table[["value", "lower", "upper"]].dtypes.eq("float64").all()
    assert np.isnan(table.value[1])


@pytest.mark.parametrize("bound", [np.nan, np.inf, None])
def test_a_bound_that_bounds_nothing_is_none(bound):
    assert not metric_rows([{"stage": "a", "metric": "b", "value": 1.0, "lower": bound}]).bounded[0]


def test_no_figures_are_an_empty_table_of_the_same_columns():
    assert tuple(metric_rows([])) == COLUMNS


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"stage": "a", "metric": "b"}, "no value"),
        ({"stage": "a", "metric": "b", "value": 1, "lowre": 2}, "unknown lowre"),
        ({"stage": "a", "metric": "b", "value": "1"}, "value is '1'"),
        ({"stage": "a", "metric": "b", "value": True}, "value is True"),
        ({"stage": "a/b", "metric": "b", "value": 1}, "stage is 'a/b'"),
        ({"stage": "a", "metric": "", "value": 1}, "metric is ''"),
    ],
)
def test_a_faulty_figure_is_refused(figure, message):
    with pytest.raises(InputError, match=message):
        metric_rows([figure])
