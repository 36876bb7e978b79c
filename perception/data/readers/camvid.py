"""CamVid in the layouts of the SegNet distribution and of Kaggle."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perception.data.decoding import BadFrame
from perception.data.readers import layout
from perception.data.readers.label_files import decode_codes, encode_codes
from perception.data.taxonomies import drawn_colors

_SPLITS = ("train", "val", "test")
# Published with the data set: one drive was filmed at dusk, the others by day, all in the streets of Cambridge.
_TIMES = {"0001TP": "twilight", "0006R0": "day", "0016E5": "day", "Seq05V": "day"}


def camvid_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List SPLIT/STEM.jpg|png with SPLITannot/STEM.png, or SPLIT_labels/STEM_L.png in colours as Kaggle's.

    The stem's first six characters name the drive.
    """
    layout.check_folder(root)
    for name in layout.chosen_splits(root, split, _SPLITS):
        truth, ending = root / f"{name}annot", ""
        if not truth.exists() and (root / f"{name}_labels").exists():
            truth, ending = root / f"{name}_labels", "_L"
        files = layout.frame_files(root / name, truth, labels_required, layout.IMAGE_SUFFIXES, endings=("", ending, ""))
        for stem, paths in files.items():
            drive = stem[:6]
            yield layout.RawFrame(
                frame_id=layout.frame_id_of(f"camvid_{stem}"),
                drive_id=drive,
                **paths,
                time_of_day=_TIMES.get(drive),
                scene="urban" if drive in _TIMES else None,
            )


def camvid_label(frame: layout.RawFrame) -> bytes | None:
    """Return the label file as it is, or, where it is drawn in CamVid's colours, re-encoded as the 8-bit PNG of its classes.

    Raises BadFrame for a file that cannot be read or holds a colour that is none of CamVid's.
    """
    data, path = layout.read_label_file(frame), frame.label_path
    if data is None or path is None or not path.stem.endswith("_L"):
        return data
    codes = decode_codes(data, path)
    if codes.shape[2] < 3 or codes.dtype != np.uint8:
        raise BadFrame(path, "label must be an 8-bit PNG in CamVid's colours", "copy it again")
    colours, inverse = np.unique(codes[..., :3].reshape(-1, 3), axis=0, return_inverse=True)
    known = drawn_colors("camvid11")
    unknown = [colour for colour in map(tuple, colours.tolist()) if colour not in known]
    if unknown:
        raise BadFrame(path, f"label holds colour {unknown[0]}, which is none of CamVid's", "copy it again")
    values = np.array([known[colour] for colour in map(tuple, colours.tolist())], np.uint8)
    return encode_codes(values[inverse].reshape(codes.shape[:2]))
