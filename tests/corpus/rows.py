"""Cases by name, and those that the table of known faults holds: each row's cases go green with its mend, and its line must go."""

import re
from collections.abc import Iterable
from typing import Any

import pytest

KNOWN_FAULTS = {
    "gta5 by DAFormer: .*": "06_gta5_daformer",
    "synthia by DAFormer: .*": "07_synthia_daformer",
    "mapillary as first published: .*": "08_mapillary_flat_layout",
    "camvid by Kaggle: (?!recognised).*": "09_camvid_kaggle",
    "webdataset by tar of a folder: .*": "01_tar_dot_slash",
    "webdataset.*: hidden files": "02_tar_appledouble",
    "scenes folder: byte order marks": "10_frames_csv_bom",
    "COCO by Roboflow, one class: .*": "16_coco_root_category",
    "COCO.*: ids are text": "15_coco_string_ids",
    "COCO.*: sizes with a point": "read_coco of sizes 96.0",
    "COCO.*: no boxes": "20b_coco_no_bbox",
    "COCO.*: backslashes": "20_coco_backslash",
    "KITTI: byte order marks": "24b_kitti_bom",
    "KITTI by CVAT: (?!missing labels).*": "22_kitti_16_columns",
    "drop of label files: hidden files": "12h_drop_hidden_label",
    "drop of .*: hidden files": "12i_drop_hidden_polygons",
    "drop of .*: byte order marks": "11_drop_json_bom",
    "drop of .*: backslashes": "13_drop_coco_backslash",
    ".*: EXIF turned": "26_exif_90, 26b_exif_180",
    ".*: own names": "50_names",
}
"""A pattern of `layout: variant` → the row of the table."""


def cases(pairs: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrise a test over (name, variant), each case called by both; known faults are expected to fail, strictly."""
    return pytest.mark.parametrize(
        ("name", "variant"), [_case(name, variant, name, variant) for name, variant in pairs]
    )


def each(names: Iterable[str], variant: str) -> pytest.MarkDecorator:
    """Parametrise a test that is about one variant over names."""
    return pytest.mark.parametrize("name", [_case(name, variant, name) for name in names])


def _case(name: str, variant: str, *values: str) -> Any:
    case = f"{name}: {variant}"
    row = next((row for pattern, row in KNOWN_FAULTS.items() if re.fullmatch(pattern, case)), None)
    marks = (pytest.mark.xfail(strict=True, reason=row),) if row else ()
    return pytest.param(*values, id=case, marks=marks)
