"""Label drops come back checked, attributed and drawn as the annotator saw them; what is wrong with one costs its own frame only."""

import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.data import limits
from perception.data.annotation import read_label
from perception.data.decoding import BadFrame
from perception.data.store import FolderStore
from perception.errors import InputError
from tests.perception.data.annotation.batches import (
    CAR,
    HEIGHT,
    ROAD,
    WIDTH,
    annotate,
    box,
    hand_out,
    labels_in,
    outline,
    png,
    returned,
    say,
    seen,
)

WHOLE = [{"label": "road", "polygon": box(0, 0, 31, 23)}]


def drawn(folder: Path, store: FolderStore, frame_id: str) -> np.ndarray:
    return labels_in(folder, store)[frame_id]


def test_what_is_not_labelled_is_still_open(drop: Path, store: FolderStore) -> None:
    assert returned(drop.parent) == []
    outline(drop, "frame1", WHOLE)
    outline(drop, "frame2", [])
    (label,) = returned(drop.parent)
    assert label.frame_id == "frame1" and label.drop.startswith("batch-") and label.drop.endswith("/Ada/2026-02-01")
    (drop / "labels").mkdir()
    (drop / "labels" / "frame2.png").write_bytes(png(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    assert list(labels_in(drop, store)) == ["frame1"], "a label that ignores every pixel says nothing"


def test_polygons_are_drawn_in_their_order_and_the_rest_is_ignored(drop: Path, store: FolderStore) -> None:
    objects = [
        {"label": "road", "polygon": box(0, 8, 31, 23)},
        {"label": "cargroup", "polygon": box(4, 10, 11, 15)},
        {"label": "out of roi", "polygon": box(0, 20, 31, 23)},
        {"label": "person", "polygon": box(0, 0, 5, 5), "deleted": 1},
    ]
    outline(drop, "frame0", objects)
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[8:20] = ROAD
    expected[10:16, 4:12] = CAR
    np.testing.assert_array_equal(drawn(drop, store, "frame0"), expected)


def test_coco_polygons_and_runs_are_drawn_as_pycocotools_decodes_them(drop: Path, store: FolderStore) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (16, 12), 7, 1, -1)
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *changes, flat.size]).tolist()
    compressed = mask_tools.frPyObjects({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)
    np.testing.assert_array_equal(mask_tools.decode(compressed), mask)
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    square = [[0, 0, 31, 0, 31, 23, 0, 23]]
    annotate(
        drop,
        [
            {"id": 2, "image_id": 3, "category_id": CAR + 1, "segmentation": segmentation},
            {"id": 1, "image_id": 3, "category_id": ROAD + 1, "segmentation": square},
        ],
    )
    np.testing.assert_array_equal(drawn(drop, store, "frame0"), np.where(mask, CAR, ROAD))


def test_a_label_file_comes_back_as_it_is(drop: Path, store: FolderStore) -> None:
    label = np.random.default_rng(0).integers(0, 19, (HEIGHT, WIDTH), dtype=np.uint8)
    (drop / "labels").mkdir()
    (drop / "labels" / "frame2.png").write_bytes(png(label))
    np.testing.assert_array_equal(drawn(drop, store, "frame2"), label)


def test_the_newest_label_of_a_frame_counts(drop: Path) -> None:
    outline(drop, "frame0", WHOLE)
    outline(drop, "frame1", WHOLE)
    second = shutil.copytree(drop, drop.parent / "second")
    outline(second, "frame1", [])
    say(second, "Bob", "2026-02-03")
    found = {each.frame_id: each.drop.split("/")[1] for each in returned(drop.parent)}
    assert found == {"frame0": "Bob", "frame1": "Ada"}
    say(second, "Bob")
    (twice, once) = returned(drop.parent)
    assert twice.problem and "labelled twice at one moment" in twice.problem.rule and not once.problem


def test_a_label_dated_after_it_came_is_told_and_does_not_win(drop: Path) -> None:
    outline(drop, "frame0", WHOLE)
    outline(drop, "frame1", WHOLE)
    never = shutil.copytree(drop, drop.parent / "never")
    (never / "polygons" / "frame0_polygons.json").unlink()
    say(never, "Bob", "9999-12-31")
    sound, told = returned(drop.parent)
    assert not sound.problem and sound.drop.split("/")[1] == "Ada"
    assert told.problem and told.problem.rule.startswith("is dated 9999-12-31, and came on 20")
    later = shutil.copytree(drop, drop.parent / "later")
    for file in (each for each in never.rglob("*") if each.is_file()):
        os.utime(file, (1_770_076_800, 1_770_076_800))  # 3 February 2026
    say(later, "Cy", "2026-02-04")
    assert [(each.problem, each.drop.split("/")[1]) for each in returned(drop.parent)] == [(None, "Cy")] * 2


def test_two_kinds_of_label_for_a_frame_are_told(drop: Path) -> None:
    outline(drop, "frame0", [{"label": "road", "polygon": box(0, 0, 9, 9)}])
    annotate(drop, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    (label,) = returned(drop)
    assert label.problem and "as COCO and as polygons" in label.problem.rule


@pytest.mark.parametrize(
    ("objects", "rule"),
    [
        ([{"label": "roda", "polygon": box(0, 0, 9, 9)}], "'roda' is no class"),
        ([{"label": "road", "polygon": [[0, 0], [1, 1]]}], "at least three"),
        ([{"label": "road", "polygon": "round"}], "at least three"),
        ([{"label": "road", "polygon": [[0, 0], [1, 1], [float("inf"), 2]]}], "Infinity is no JSON number"),
        ([{"label": "road"}], "at least three"),
        (["road"], "no file of polygons"),
    ],
)
def test_polygons_that_cannot_be_drawn_are_refused(drop: Path, store: FolderStore, objects: list, rule: str) -> None:
    outline(drop, "frame0", objects)
    outline(drop, "frame1", WHOLE)
    broken, sound = returned(drop)
    with pytest.raises(BadFrame) as refused:
        read_label(broken, "cityscapes19", store)
    assert broken.frame_id == "frame0" and rule in refused.value.rule
    assert read_label(sound, "cityscapes19", store)


WHOLE_FRAME = [[0, 0, 31, 0, 31, 23, 0, 23]]


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"category_id": 99}, "'category 99' is no class"),
        ({"category_id": [1]}, "'category None' is no class"),
        ({"segmentation": [[0, 0, [1], 0, 9, 9]]}, "at least three"),
        ({"segmentation": [[0, 0, 9, 0, 9, 9, 0]]}, "at least three"),
        ({"id": None}, "no number as its id"),
        ({"image_id": 77}, "no batch holds"),
        ({"image_id": [3]}, "no batch holds"),
    ],
)
def test_a_wrong_annotation_of_coco_costs_its_own_frame(drop: Path, store: FolderStore, bad: dict, rule: str) -> None:
    sound = {"category_id": ROAD + 1, "segmentation": WHOLE_FRAME}
    annotate(drop, [sound | {"id": 1, "image_id": 3} | bad, sound | {"id": 2, "image_id": 2}])
    good, wrong = sorted(returned(drop), key=lambda each: each.frame_id != "frame1")
    assert good.frame_id == "frame1" and read_label(good, "cityscapes19", store)
    assert wrong.frame_id == ("frame0" if "image_id" not in bad else wrong.frame_id)
    with pytest.raises(BadFrame, match=rule):
        read_label(wrong, "cityscapes19", store)


@pytest.mark.parametrize(
    "segmentation", [None, [], {"size": [24, 32], "counts": "abc"}, {"size": [24, 32], "counts": [3]}]
)
def test_annotations_without_an_outline_are_refused(drop: Path, store: FolderStore, segmentation: object) -> None:
    annotate(drop, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": segmentation}])
    with pytest.raises(BadFrame):
        drawn(drop, store, "frame0")


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ('{"annotator": "Ada"}', "date"),
        ('{"date": "2026-02-01"}', "annotator"),
        ('{"annotator": "a/b", "date": "2026-02-01"}', "/"),
        ("[]", "must hold an object"),
    ],
)
def test_a_drop_that_does_not_say_who_and_when_is_told_whole(drop: Path, said: str, rule: str) -> None:
    outline(drop, "frame0", WHOLE)
    (drop / "drop.json").write_text(said)
    (told,) = returned(drop.parent)
    assert told.problem and rule in told.problem.rule and told.drop.startswith("-/first/")


def test_frames_that_no_batch_holds_are_told_and_stop_nothing(drop: Path, store: FolderStore) -> None:
    (drop / "labels").mkdir()
    (drop / "labels" / "stranger.png").write_bytes(png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    outline(drop, "frame0", WHOLE)
    sound, stranger = returned(drop)
    assert sound.frame_id == "frame0" and read_label(sound, "cityscapes19", store)
    assert stranger.problem and stranger.frame_id.startswith("unknown_stranger") and stranger.drop.startswith("-/Ada/")


def test_a_file_larger_than_any_export_is_told(drop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline(drop, "frame0", WHOLE)
    monkeypatch.setattr(limits, "FILE_BYTES", 10)
    (told,) = returned(drop)
    assert told.problem and "more than 10 bytes" in told.problem.rule


def test_what_the_batch_suggested_is_no_answer_until_it_is_changed(tmp_path: Path, store: FolderStore) -> None:
    known = hand_out(store, tmp_path / "batch")
    folder = tmp_path / "drops" / "masks"
    shutil.copytree(tmp_path / "batch" / "prelabels" / "masks", folder / "labels")
    assert labels_in(folder.parent, store, known) == {}
    changed = seen()
    changed[0:6, 0:6] = CAR
    (folder / "labels" / "frame1.png").write_bytes(png(changed))
    found = labels_in(folder.parent, store, known)
    assert list(found) == ["frame1"]
    np.testing.assert_array_equal(found["frame1"], changed)


def test_a_batch_is_no_drop_while_people_work_in_it(tmp_path: Path, store: FolderStore) -> None:
    hand_out(store, tmp_path / "drops" / "batch")
    outline(tmp_path / "drops" / "batch", "frame0", WHOLE)
    assert returned(tmp_path / "drops") == []


@pytest.mark.parametrize("year", [2026, 2107])
def test_who_and_when_are_the_drops_own_where_nothing_tells_them(tmp_path: Path, store: FolderStore, year: int) -> None:
    known = hand_out(store, tmp_path / "batch", {})
    drops = tmp_path / "drops"
    annotate(tmp_path, [{"id": 1, "image_id": 3, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}])
    drops.mkdir()
    with zipfile.ZipFile(drops / "from Ada.zip", "w") as archive:
        info = zipfile.ZipInfo("annotations/instances_default.json", (year, 2, 3, 4, 5, 6))
        archive.writestr(info, (tmp_path / "coco.json").read_bytes())
    os.utime(drops / "from Ada.zip", (1_772_323_200, 1_772_323_200))  # 1 March 2026
    (label,) = returned(drops, known)
    assert label.drop == f"{known.batch[0]}/from Ada/{year}-02-03"
    assert (label.problem is None) == (year == 2026), "an archive's own times are its sender's word"


@pytest.mark.parametrize("name", ["../evil.xml", "/etc/evil.xml", "C:\\evil.xml"])
def test_nothing_of_an_archive_is_written_anywhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "drops").mkdir()
    with zipfile.ZipFile(tmp_path / "drops" / "a.zip", "w") as archive:
        archive.writestr(name, "<annotations/>")
    before = sorted(tmp_path.rglob("*"))
    told = returned(tmp_path / "drops")
    assert all(each.problem for each in told) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("file", "data", "rule"),
    [
        ("a.zip", b"PK\3\4 no more", "not a whole zip"),
        ("a.xml", b"<annotations>", "not readable as XML"),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document type"),
        ("a.json", b'[{"data": 3}]', "no export of Label Studio"),
        ("a.json", b'{"images": [], "annotations": [{"id": 1}], "categories": []}', "no batch holds"),
        ("a.json", b'{"annotations": [{"id": 1}]}', "images must be a list of objects"),
        ("a.json", b"{", "not a JSON file"),
        ("a.json", b'{"version": 3}', "no label in a format"),
    ],
)
def test_a_drop_that_cannot_be_read_is_told_and_stops_nothing(
    drop: Path, store: FolderStore, file: str, data: bytes, rule: str
) -> None:
    (drop.parent / file).write_bytes(data)
    outline(drop, "frame0", WHOLE)
    told, sound = sorted(returned(drop.parent), key=lambda each: each.problem is None)
    assert told.problem and rule in told.problem.rule and str(drop.parent / file) in str(told.problem)
    assert sound.frame_id == "frame0" and read_label(sound, "cityscapes19", store)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        returned(tmp_path / "absent")


def test_a_label_counts_however_scattered_the_suggestion_was(tmp_path: Path, store: FolderStore) -> None:
    scattered = np.indices((HEIGHT, WIDTH)).sum(0).astype(np.uint8) % 2 * CAR  # no pixel lies within a class
    known = hand_out(store, tmp_path / "batch").assign(prelabel_uri=store.put(png(scattered), "png").uri)
    folder = tmp_path / "drops" / "masks" / "labels"
    folder.mkdir(parents=True)
    (folder / "frame0.png").write_bytes(png(scattered))
    (folder / "frame1.png").write_bytes(png(np.full((HEIGHT, WIDTH), CAR - 1, np.uint8)))
    assert list(labels_in(folder.parents[1], store, known)) == ["frame1"]
