"""KITTI object detection: image_2/NUMBER.png with label_2/NUMBER.txt, and detections in the same columns plus a score."""

from pathlib import Path

import numpy as np

from perception.data.detection.boxes import DetectionFrame, DetectionSet, checked_boxes
from perception.data.files import read_text, replace_file
from perception.data.readers.layout import check_folder, check_pairs, files_in, optional_files_in
from perception.errors import InputError

KITTI_CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", "DontCare")
_COLUMNS = 15  # type, truncated, occluded, alpha, 4 of the box, 3 dimensions, 3 of the location, rotation_y
_BYTES_LIMIT = 2**24


def read_kitti(root: Path, part: str = "training") -> DetectionSet:
    """Read ROOT/PART/image_2/*.png with ROOT/PART/label_2/*.txt; DontCare regions are marked as ignored.

    Raises InputError for a folder or a line that breaks the layout.
    """
    check_folder(root)
    pictures, truth = root / part / "image_2", root / part / "label_2"
    images = files_in(pictures, (".png",))
    labels = optional_files_in(truth, (".txt",))
    check_pairs(images, labels, pictures, truth, True)
    return DetectionSet(KITTI_CLASSES, tuple(_frame(stem, images[stem], labels[stem], False) for stem in images))


def read_kitti_detections(folder: Path) -> DetectionSet:
    """Read detections FOLDER/NUMBER.txt: the columns of label_2 and a score; raises InputError."""
    files = files_in(folder, (".txt",))
    return DetectionSet(KITTI_CLASSES, tuple(_frame(stem, path, path, True) for stem, path in files.items()))


def write_kitti_detections(detections: DetectionSet, folder: Path) -> None:
    """Write every frame's boxes as FOLDER/FRAME_ID.txt in the columns that KITTI's evaluation reads.

    What a box in the image does not tell (alpha, dimensions, location, rotation) gets the devkit's "unknown" values.
    Raises InputError for classes that KITTI does not have or frames without scores.
    """
    unknown = sorted(set(detections.classes) - set(KITTI_CLASSES))
    if unknown:
        raise InputError(f"class {unknown[0]!r} is none of KITTI's: {', '.join(KITTI_CLASSES)}; rename or leave it out")
    for frame in detections.frames:
        if frame.scores is None or len(frame.scores) != len(frame.boxes):
            raise InputError(f"frame {frame.frame_id}: has no score a box; give detections")
        lines = [
            f"{detections.classes[label]} -1 -1 -10 {' '.join(f'{side:.2f}' for side in box)} "
            f"-1 -1 -1 -1000 -1000 -1000 -10 {score:.6f}\n"
            for box, label, score in zip(frame.boxes, frame.labels, frame.scores, strict=True)
        ]
        replace_file(folder / f"{frame.frame_id}.txt", "".join(lines).encode())


def _frame(stem: str, image: Path, labels: Path, scored: bool) -> DetectionFrame:
    rows = [_row(line, scored, f"{labels}: line {number}") for number, line in _lines(labels)]
    names = np.array([KITTI_CLASSES.index(row[0]) for row in rows], np.int64)
    numbers = np.array([row[1] for row in rows], np.float64).reshape(len(rows), _COLUMNS - 1 + scored)
    return DetectionFrame(
        frame_id=stem,
        image_path=image,
        boxes=checked_boxes(numbers[:, 3:7], str(labels)),
        labels=names,
        ignored=names == KITTI_CLASSES.index("DontCare"),
        truncated=numbers[:, 0],
        occluded=numbers[:, 1].astype(np.int64),
        scores=numbers[:, -1] if scored else None,
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file() or path.stat().st_size > _BYTES_LIMIT:
        raise InputError(f"{path}: not a label file of a sane size; copy it again")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InputError(f"{path}: cannot be read ({reason}); copy it again") from None
    return [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _row(line: str, scored: bool, where: str) -> tuple[str, list[float]]:
    name, *fields = line.split()
    count = _COLUMNS + scored
    if len(fields) + 1 not in (count, _COLUMNS + 1):  # some tools write a score behind what people labelled
        raise InputError(f"{where} has {len(fields) + 1} columns, must have {count}; correct it")
    if name not in KITTI_CLASSES:
        raise InputError(f"{where} has class {name!r}, must be one of {', '.join(KITTI_CLASSES)}; correct it")
    try:
        numbers = [float(field) for field in fields[: count - 1]]
    except ValueError:
        raise InputError(f"{where} holds something that is no number; correct it") from None
    if (
        not np.isfinite(numbers).all()
        or numbers[1] not in (-1, 0, 1, 2, 3)
        or not (numbers[0] == -1 or 0 <= numbers[0] <= 1)
    ):
        raise InputError(f"{where}: truncated must lie in 0..1 and occluded be 0, 1, 2 or 3 (-1: unknown); correct it")
    return name, numbers
