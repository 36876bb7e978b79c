import numpy as np
import pandas as pd
import pytest

from perception.metrics.failures import cluster_regions, failure_queries, wrong_regions
from perception.selection.boost import boost_factors, read_queries

CLASSES = ("road", "car", "person")


def frame(box, truth, guess, brightness):
    label = np.zeros((40, 60), np.uint8)
    x, y, w, h = box
    label[y : y + h, x : x + w] = truth
    shown = label.copy()
    shown[y : y + h, x : x + w] = guess
    image = np.full((40, 60, 3), brightness, np.uint8)
    return image, label, shown


def test_a_wrong_box_is_found_where_it_is():
    image, label, shown = frame((10, 5, 20, 8), 1, 0, 90)
    shown[30, 50] = 2  # a speck is no region
    (region,) = wrong_regions("f", image, label, shown, 3)
    assert (region.box, region.pixels, region.label, region.predicted) == ((10, 5, 20, 8), 160, 1, 0)
    assert region.share == pytest.approx(160 / 2400)


def test_unlabelled_pixels_are_not_wrong_and_a_right_frame_has_no_region():
    image, label, shown = frame((10, 5, 20, 8), 255, 0, 90)
    assert wrong_regions("f", image, label, shown, 3) == []


def test_regions_come_largest_first_and_no_more_than_asked():
    image, label, shown = frame((0, 0, 30, 30), 1, 0, 90)
    label[35:38, 40:50] = 2
    found = wrong_regions("f", image, label, shown, 3, most=2)
    assert [region.pixels for region in found] == [900, 30]
    assert len(wrong_regions("f", image, label, shown, 3, most=1)) == 1


def night_of_failures():
    """Cars go unseen at night; everything is right by day."""
    regions, rows = [], []
    for number in range(24):
        night = number % 4 == 0
        image, label, shown = frame((10, 5, 20, 8 + number % 3), 1, 0 if night else 1, 20 if night else 160)
        regions += wrong_regions(f"f{number:02d}", image, label, shown, 3)
        rows.append({"frame_id": f"f{number:02d}", "time_of_day": "night" if night else "day", "weather": "clear"})
    image, label, shown = frame((30, 20, 8, 16), 2, 1, 150)
    regions += wrong_regions("f01", image, label, shown, 3)
    return regions, pd.DataFrame(rows)


def test_like_failures_are_one_cluster_and_its_condition_is_asked_for(tmp_path):
    import json

    regions, table = night_of_failures()
    clusters = cluster_regions(regions, CLASSES, most=2)
    assert [cluster.name for cluster in clusters] == ["car taken for road", "person taken for car"]
    assert len(clusters[0].regions) == 6
    assert sum(cluster.share for cluster in clusters) == pytest.approx(1.0)
    queries = failure_queries(clusters, table, ("time_of_day", "weather"))
    assert queries[0]["where"] == {"time_of_day": "night"}
    assert all(query["where"] != {"weather": "clear"} for query in queries)  # every frame is clear: it tells nothing
    path = tmp_path / "query.json"
    path.write_text(json.dumps({"queries": queries}))
    factors = boost_factors(table, read_queries(path))
    assert (factors[table.time_of_day == "night"] > 1.5).all()
    assert factors.max() <= 4.0


def test_no_failures_ask_for_nothing():
    assert cluster_regions([], CLASSES) == []
    assert failure_queries([], pd.DataFrame({"frame_id": [], "time_of_day": []}), ("time_of_day",)) == []
