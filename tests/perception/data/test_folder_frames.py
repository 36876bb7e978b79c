"""A data set's folder as labelled frames: every known layout, told apart and read in its own classes."""

from pathlib import Path

import numpy as np
import pytest

from perception.data.folder_frames import FolderFrames, recognise_format
from perception.data.loading import LoadSettings
from perception.data.readers import READERS
from perception.data.taxonomies import label_lookup
from perception.errors import InputError
from tests.perception.data.readers.layouts import FACTS, LAYOUTS, SIZE, camvid, label_of, read, webdataset

SETTINGS = LoadSettings(height_px=SIZE[0], width_px=SIZE[1], taxonomy="cityscapes19")


@pytest.mark.parametrize("format", LAYOUTS)
def test_every_layout_is_recognised_and_its_labels_are_mapped(format: str, tmp_path: Path) -> None:
    root = LAYOUTS[format](tmp_path)
    reader = recognise_format(root, None)
    assert reader.name == format
    raw = read(format, root)
    frames = FolderFrames(reader, raw, SETTINGS)
    assert list(frames.about().frame_id) == [frame.frame_id for frame in raw] and len(frames) == len(raw)
    for index, frame in enumerate(raw):
        lookup = label_lookup(frame.label_taxonomy or reader.taxonomy, "cityscapes19")
        image, label = frames.load(index)
        assert image.shape == (3, *SIZE) and np.abs(image.astype(int) - 90).max() <= 1
        assert np.array_equal(label, lookup[label_of(format, frame)])
        assert np.array_equal(frames.full_label(index), label)


def test_a_frame_of_a_tar_is_read_in_the_classes_that_it_names(tmp_path: Path) -> None:
    root = webdataset(tmp_path)
    frames = FolderFrames(READERS["webdataset"], read("webdataset", root), SETTINGS)
    own = frames.about().frame_id.tolist().index("b")
    assert FACTS["label_taxonomy"] == "camvid11"
    assert (frames.full_label(own) == 0).all(), "3 is the road in CamVid's classes"
    assert (frames.full_label(1 - own) == 3).all(), "3 is a wall in Cityscapes'"


def test_other_sizes_and_frames_without_labels(tmp_path: Path) -> None:
    raw = read("camvid", camvid(tmp_path))
    settings = LoadSettings(height_px=2, width_px=12, taxonomy="cityscapes19")
    frames = FolderFrames(READERS["camvid"], raw, settings)
    image, label = frames.load(0)
    assert image.shape == (3, 2, 12) and label.shape == (2, 12) and frames.full_label(0).shape == SIZE
    for path in tmp_path.glob("*annot/*"):
        path.unlink()
    unlabelled = list(READERS["camvid"].frames(tmp_path, None, False))
    with pytest.raises(InputError, match="format camvid: no frame has a label"):
        FolderFrames(READERS["camvid"], unlabelled, settings)


def test_what_fits_no_format_several_or_lacks_a_part_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fits no known format \(bdd100k: .*; camvid: .*webdataset: ") as caught:
        recognise_format(tmp_path, None)
    assert "\n" not in str(caught.value)
    camvid(tmp_path)
    with pytest.raises(InputError, match="PART=night: split 'night' is unknown; use one of train, val, test"):
        recognise_format(tmp_path, "night")
    webdataset(tmp_path)
    with pytest.raises(InputError, match=r"fits several formats \(camvid, webdataset\); say which with FORMAT="):
        recognise_format(tmp_path, None)
