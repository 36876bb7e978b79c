"""What CVAT and Label Studio export, as their own formats describe it, byte for byte where that is short."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perception.data.annotation import read_label, returned_labels
from perception.data.annotation.label_studio import decode_brush
from perception.data.decoding import BadFrame
from perception.data.store import FolderStore
from tests.perception.data.annotation.batches import CAR, HEIGHT, ROAD, WIDTH, Label, hand_out, labels_in, returned

BRUSH = [
    0,
    0,
    12,
    0,
    57,
    27,
    255,
    1,
    11,
    0,
    194,
    255,
    249,
    156,
    3,
    11,
    255,
    230,
    112,
    12,
    47,
    255,
    192,
    93,
    192,
    35,
    255,
]
BRUSH += [225, 11, 224, 0]  # as Label Studio's own encoder writes `painted`
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><owner><username>lead</username></owner>
<assignee><username>ada</username></assignee></task><dumped>2026-02-01 10:00:00.5+00:00</dumped></meta>
<image id="0" name="images/frame0.png" width="32" height="24">
{shapes}
<tag label="image_tags" source="manual"><attribute name="weather">rain</attribute>
<attribute name="time_of_day">night</attribute><attribute name="scene">unknown</attribute></tag>
</image><image id="1" name="frame1.png" width="32" height="24"></image></annotations>"""
ROAD_POLYGON = '<polygon label="road" source="manual" occluded="0" points="0.00,0.00;32.00,0.00;32.00,24.00;0.00,24.00" z_order="{}"/>'
CAR_MASK = '<mask label="car" source="manual" occluded="0" rle="1, 2, 2, 1" left="4" top="3" width="3" height="2" z_order="1"/>'


def painted() -> Label:
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[2:5, 3:9] = label[7, 7] = 255
    return label


@pytest.fixture
def known(tmp_path: Path, store: FolderStore) -> pd.DataFrame:
    (tmp_path / "drops").mkdir()
    return hand_out(store, tmp_path / "batch", {})


def test_cvat_says_shapes_image_tags_who_and_when(tmp_path: Path, store: FolderStore, known: pd.DataFrame) -> None:
    drops = tmp_path / "drops"
    (drops / "a.xml").write_text(CVAT.format(shapes=CAR_MASK + ROAD_POLYGON.format(0)))
    (label,) = returned(drops, known)
    assert label.drop == label.tag_drop == f"{known.batch[0]}/ada/2026-02-01"
    read = read_label(label, "cityscapes19", store)
    assert read and read[1] == {"weather": "rain", "time_of_day": "night"}
    expected = np.full((HEIGHT, WIDTH), ROAD, np.uint8)
    expected[3, 5:7] = expected[4, 6] = CAR
    np.testing.assert_array_equal(labels_in(drops, store, known)["frame0"], expected)


def test_an_image_tag_makes_what_was_suggested_an_answer(tmp_path: Path, store: FolderStore) -> None:
    known = hand_out(store, tmp_path / "batch")
    drops, xml = tmp_path / "drops", (tmp_path / "batch" / "prelabels" / "cvat.xml").read_text()
    drops.mkdir()
    tag = '<tag label="image_tags"><attribute name="weather">{}</attribute></tag></image>'
    (drops / "a.xml").write_text(xml.replace("</image>", tag.format("fog"), 1).replace("</image>", "</image>"))
    assert list(labels_in(drops, store, known)) == ["frame0"]
    (drops / "a.xml").write_text(xml.replace("</image>", tag.format("unknown"), 1))
    assert labels_in(drops, store, known) == {}


@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        (CAR_MASK.replace("car", "bagger"), "'bagger' is no class"),
        (CAR_MASK.replace("1, 2, 2, 1", "1, 2, 2"), "do not add up"),
        (CAR_MASK.replace("1, 2, 2, 1", "1, 2, x"), "no whole number"),
        (CAR_MASK.replace('left="4"', 'left="30"'), "outside its image"),
        ('<box label="car" xtl="1" ytl="1" xbr="9" ybr="9"/>', "a box is no outline"),
        (ROAD_POLYGON.format("high"), "no whole number"),
        ('<polygon label="road" points="1,2;3,4"/>', "at least three"),
    ],
)
def test_a_shape_of_cvat_that_is_none_costs_its_own_frame(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame, shapes: str, rule: str
) -> None:
    sound = (
        '<image id="2" name="frame2.png" width="32" height="24">' + ROAD_POLYGON.format(0) + "</image></annotations>"
    )
    text = CVAT.format(shapes=shapes).replace("</annotations>", sound)
    (tmp_path / "drops" / "a.xml").write_text(text)
    broken, whole = returned(tmp_path / "drops", known)
    with pytest.raises(BadFrame) as refused:
        read_label(broken, "cityscapes19", store)
    assert rule in refused.value.rule and "frame0" in str(refused.value)
    assert whole.frame_id == "frame2" and read_label(whole, "cityscapes19", store)


def test_a_word_that_the_condition_does_not_know_is_told(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame
) -> None:
    text = CVAT.format(shapes=CAR_MASK).replace(">rain<", ">sunny<")
    (tmp_path / "drops" / "a.xml").write_text(text)
    with pytest.raises(BadFrame, match="weather is tagged 'sunny'; use one of clear"):
        labels_in(tmp_path / "drops", store, known)


def test_a_later_label_without_image_tags_keeps_the_earlier_ones(tmp_path: Path, known: pd.DataFrame) -> None:
    first = CVAT.format(shapes=CAR_MASK)
    later = first.replace("image_tags", "other").replace("2026-02-01", "2026-02-03").replace(">ada<", ">bob<")
    (tmp_path / "drops" / "a.xml").write_text(first)
    (tmp_path / "drops" / "b.xml").write_text(later)
    (label,) = returned(tmp_path / "drops", known)
    assert label.drop.endswith("/bob/2026-02-03") and label.tag_drop and label.tag_drop.endswith("/ada/2026-02-01")
    assert label.answer and label.answer.tags["weather"] == "rain"


# ---------------------------------------------------------------- Label Studio


def task(results: list[dict[str, Any]], **said: Any) -> dict[str, Any]:
    annotation = {"result": results, "was_cancelled": False, "completed_by": 3, "updated_at": "2026-02-01T10:00:00Z"}
    return {"id": 1, "data": {"image": "/data/upload/1/3f2a1b7c-frame0.png"}, "annotations": [annotation | said]}


def region(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "x", "from_name": "y", "to_name": "image", "type": kind, "value": value, **size}


ALL_ROAD = region("polygonlabels", {"points": [[0, 0], [100, 0], [100, 100], [0, 100]], "polygonlabels": ["road"]})
CAR_BRUSH = region("brushlabels", {"format": "rle", "rle": BRUSH, "brushlabels": ["car"]})
RAIN = {"from_name": "weather", "to_name": "image", "type": "choices", "value": {"choices": ["rain"]}}


def send(tmp_path: Path, *tasks: dict[str, Any]) -> Path:
    return send_file(tmp_path, tasks)


def send_file(tmp_path: Path, content: Any) -> Path:
    (tmp_path / "drops" / "project.json").write_text(json.dumps(content))
    return tmp_path / "drops"


def test_label_studio_says_regions_choices_who_and_when(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame
) -> None:
    drops = send(tmp_path, task([ALL_ROAD, CAR_BRUSH, RAIN]))
    names: list[str] = []
    returned_labels(drops, lambda given: names.extend(given) or known)
    assert names == ["3f2a1b7c-frame0", "frame0"]
    (label,) = returned(drops, known)
    assert label.drop == f"{known.batch[0]}/user 3/2026-02-01"
    read = read_label(label, "cityscapes19", store)
    assert read and read[1] == {"weather": "rain"}
    expected = np.where(painted() > 0, CAR, ROAD)
    np.testing.assert_array_equal(labels_in(drops, store, known)["frame0"], expected)


def test_of_several_annotations_the_newest_counts_and_skipped_ones_never(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame
) -> None:
    several = task([CAR_BRUSH])
    several["annotations"] += task([ALL_ROAD], updated_at="2026-02-02T10:00:00Z")["annotations"]
    several["annotations"] += task([CAR_BRUSH], updated_at="2026-02-03T10:00:00Z", was_cancelled=True)["annotations"]
    label = labels_in(send(tmp_path, several), store, known)["frame0"]
    assert (label == ROAD).all()
    assert labels_in(send(tmp_path, task([CAR_BRUSH], was_cancelled=True)), store, known) == {}


@pytest.mark.parametrize(
    ("result", "rule"),
    [
        (region("rectanglelabels", {"x": 1, "y": 1, "rectanglelabels": ["car"]}), "rectanglelabels is no outline"),
        (region("brushlabels", {"format": "rle", "rle": BRUSH[:9], "brushlabels": ["car"]}), "cannot be decoded"),
        (region("brushlabels", {"format": "rle", "rle": [300], "brushlabels": ["car"]}), "cannot be decoded"),
        (region("polygonlabels", {"points": "round", "polygonlabels": ["car"]}), "region is broken"),
        (ALL_ROAD | {"original_width": 64}, "size 24x64 is not its image's 24x32"),
        (ALL_ROAD | {"image_rotation": 90}, "turned image"),
    ],
)
def test_a_region_that_is_none_costs_its_own_frame(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame, result: dict[str, Any], rule: str
) -> None:
    sound = task([ALL_ROAD]) | {"data": {"image": "s3://bucket/frame1.png"}}
    broken, whole = returned(send(tmp_path, task([result]), sound), known)
    with pytest.raises(BadFrame) as refused:
        read_label(broken, "cityscapes19", store)
    assert rule in refused.value.rule and "frame0" in str(refused.value)
    assert whole.frame_id == "frame1" and read_label(whole, "cityscapes19", store)


def test_a_brush_mask_is_decoded_within_its_size() -> None:
    picture = decode_brush(bytes(BRUSH), HEIGHT * WIDTH * 4).reshape(HEIGHT, WIDTH, 4)
    np.testing.assert_array_equal(picture[:, :, 3], painted())
    for data, values in ((BRUSH, 4), ([255] * 40, 8), (BRUSH[:12], HEIGHT * WIDTH * 4)):
        with pytest.raises(ValueError):
            decode_brush(bytes(data), values)


HOSTILE = (None, 10**15, 10**400, "", "9999-12-31T23:59:59-23:00", [], [[]], {})


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value of a document, but for runs of numbers only to their first."""
    yield ()
    inside = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, each in inside:
        yield from ((key, *rest) for rest in places(each))


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    if not place:
        return by
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], by)
    return copy


def test_whatever_stands_at_any_place_of_an_export_stops_nothing(
    tmp_path: Path, store: FolderStore, known: pd.DataFrame
) -> None:
    whole = [task([ALL_ROAD, CAR_BRUSH, RAIN])]
    for place, value in itertools.product(places(whole), HOSTILE):
        for each in returned(send_file(tmp_path, replaced(whole, place, value)), known):
            with contextlib.suppress(BadFrame):
                read_label(each, "cityscapes19", store)
