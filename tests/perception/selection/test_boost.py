import json

import numpy as np
import pandas as pd
import pytest

from perception.errors import InputError
from perception.selection.boost import FailureQuery, boost_factors, read_queries

FRAMES = pd.DataFrame(
    {"time_of_day": ["night", "night", "day", None], "weather": ["rain", "clear", "rain", "rain"], "score": 1.0}
)


def test_a_frame_takes_the_greatest_weight_of_what_it_meets():
    queries = [
        FailureQuery(where={"time_of_day": "night"}, weight=0.5),
        FailureQuery(where={"time_of_day": "night", "weather": "rain"}, weight=2.0),
        FailureQuery(where={"scene": "urban"}, weight=9.0),
    ]
    np.testing.assert_array_equal(boost_factors(FRAMES, queries), [3.0, 1.5, 1.0, 1.0])
    np.testing.assert_array_equal(boost_factors(FRAMES, ()), [1.0] * 4)


def test_queries_come_back_from_their_file(tmp_path):
    path = tmp_path / "query.json"
    path.write_text(json.dumps({"queries": [{"where": {"weather": "fog"}, "weight": 1, "about": "a car unseen"}]}))
    assert read_queries(path) == (FailureQuery(where={"weather": "fog"}, weight=1.0, about="a car unseen"),)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"queries": [{"where": {}, "weight": 1}]}', '{"queries": [{"where": {"a": "b"}, "weight": -1}]}',
     '{"queries": [{"where": {"a": "b"}, "weight": 1e9}]}', '{"queries": [{"where": ["a"], "weight": 1}]}'],
)  # fmt: skip
def test_what_is_no_query_is_refused_by_name(tmp_path, text):
    path = tmp_path / "query.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"query\.json: .*; run the stage that writes it again"):
        read_queries(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_queries(tmp_path / "query.json")
