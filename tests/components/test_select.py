"""What the selection is told of the frames that were scored."""

import pandas as pd

from components.select import _candidates


def test_candidates_are_the_scored_frames_of_the_pool_with_their_facts_and_raised_scores() -> None:
    facts = pd.DataFrame(
        {"frame_id": ["a", "b", "c", "d"], "weather": ["rain", "fog", "clear", "snow"], "boost": [1.0, 2.0, 1.0, 3.0]}
    ).set_index("frame_id")
    scored = pd.DataFrame({"frame_id": ["d", "labelled", "a"], "score": [0.5, 0.9, 0.1]}, index=[4, 5, 6])
    found = _candidates(facts, scored)
    assert found.to_dict("index") == {
        4: {"frame_id": "d", "score": 1.5, "weather": "snow", "boost": 3.0},
        6: {"frame_id": "a", "score": 0.1, "weather": "rain", "boost": 1.0},
    }
    slow = scored[scored.frame_id.isin(facts.index)]
    assert found.frame_id.tolist() == slow.frame_id.tolist()
