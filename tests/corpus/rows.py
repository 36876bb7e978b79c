"""Cases by name, and those that the table of known faults holds: each row's cases go green with its mend, and its line must go."""

import re
from collections.abc import Iterable

import pytest

KNOWN_FAULTS = {
    "gta5 by DAFormer: .*": "06_gta5_daformer",
    "synthia by DAFormer: .*": "07_synthia_daformer",
    "mapillary as first published: .*": "08_mapillary_flat_layout",
    "camvid by Kaggle: (?!recognised).*": "09_camvid_kaggle",
    "webdataset by tar of a folder: .*": "01_tar_dot_slash",
    "webdataset.*: hidden files": "02_tar_appledouble",
    "scenes folder: byte order marks": "10_frames_csv_bom",
    ".*: EXIF turned": "26_exif_90, 26b_exif_180",
    ".*: own names": "50_names",
}
"""A pattern of `layout: variant` → the row of the table."""


def cases(pairs: Iterable[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrise a test over (name, variant), each case called by both; known faults are expected to fail, strictly."""
    listed = []
    for name, variant in pairs:
        case = f"{name}: {variant}"
        row = next((row for pattern, row in KNOWN_FAULTS.items() if re.fullmatch(pattern, case)), None)
        marks = (pytest.mark.xfail(strict=True, reason=row),) if row else ()
        listed.append(pytest.param(name, variant, id=case, marks=marks))
    return pytest.mark.parametrize(("name", "variant"), listed)
