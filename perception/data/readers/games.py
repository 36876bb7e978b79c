"""Frames from a game: GTA5 ("Playing for Data") and VIPER ("Playing for Benchmarks")."""

from collections.abc import Iterator
from pathlib import Path

from perception.data.decoding import BadFrame
from perception.data.files import names_in
from perception.data.readers import layout
from perception.data.readers.label_files import decode_codes, instance_codes
from perception.errors import InputError

# GTA5 does not say where one ride ends; frames this close were taken within minutes of one another.
_GTA5_DRIVE_FRAMES = 100
_GTA5_SPLITS = {"train": "trainIds", "val": "valIds", "test": "testIds"}
_VIPER_SPLITS = ("train", "val", "test")


def gta5_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List images/NUMBER.png with labels/NUMBER.png; a split is one of those in split.mat.

    A drive is a block of 100 numbers, which keeps neighbouring frames together.
    """
    layout.check_folder(root)
    files = layout.frame_files(root / "images", root / "labels", labels_required)
    wanted = None if split is None else _gta5_split(root, split)
    for stem, paths in files.items():
        if not stem.isdecimal():
            raise InputError(f"{paths['image_path']}: name must be a number as 00001.png; rename or remove it")
        if wanted is None or int(stem) in wanted:
            yield layout.RawFrame(
                frame_id=layout.frame_id_of(f"gta5_{stem}"),
                drive_id=f"gta5_{int(stem) // _GTA5_DRIVE_FRAMES:03d}",
                **paths,
            )


def _gta5_split(root: Path, split: str) -> set[int]:
    from perception.data.matlab import read_mat

    if split not in _GTA5_SPLITS:
        raise InputError(f"split {split!r} is unknown; use one of {', '.join(_GTA5_SPLITS)}")
    paths = [root / "split.mat", root / "read_mapping" / "split.mat"]
    path = next((each for each in paths if each.exists()), paths[0])
    numbers = read_mat(path, _GTA5_SPLITS[split])[_GTA5_SPLITS[split]]
    if numbers.dtype.kind not in "uif":
        raise InputError(f"{path}: {_GTA5_SPLITS[split]} must hold numbers; copy it again")
    return {int(number) for number in numbers.ravel()}


def viper_frames(root: Path, split: str | None, labels_required: bool) -> Iterator[layout.RawFrame]:
    """List SPLIT/img/SEQUENCE/SEQUENCE_FRAME.jpg|png with cls/SEQUENCE/*.png and inst/SEQUENCE/*.png.

    A drive is a sequence.
    """
    layout.check_folder(root)
    for name in layout.chosen_splits(root, split, _VIPER_SPLITS):
        pictures = root / name / "img"
        layout.check_folder(pictures, "a VIPER split holds img/, cls/ and inst/")
        sequences = names_in(pictures, folders=True)
        if not sequences:
            raise InputError(f"{pictures}: folder is empty: it holds no sequences; add the frames")
        for kind in ("cls", "inst"):
            layout.check_no_other_folders(root / name / kind, sequences, "sequence")
        for sequence in sequences:
            yield from _viper_sequence(root / name, sequence, labels_required)


def _viper_sequence(folder: Path, sequence: str, labels_required: bool) -> Iterator[layout.RawFrame]:
    pictures, truth, objects = (folder / kind / sequence for kind in ("img", "cls", "inst"))
    files = layout.frame_files(pictures, truth, labels_required, layout.IMAGE_SUFFIXES, instances=objects)
    for stem, paths in files.items():
        yield layout.RawFrame(frame_id=layout.frame_id_of(f"viper_{stem}"), drive_id=f"viper_{sequence}", **paths)


def viper_instances(frame: layout.RawFrame) -> bytes | None:
    """Re-encode inst: red is the class id, 256 * green + blue the instance; raises BadFrame."""
    if frame.instances_path is None:
        return None
    codes = decode_codes(layout.read_file(frame.instances_path), frame.instances_path)
    if codes.shape[2] < 3 or codes.dtype != "uint8":
        raise BadFrame(frame.instances_path, "instances must be an 8-bit RGB PNG", "copy it again or remove it")
    red, green, blue = (codes[..., channel].astype("int64") for channel in range(3))
    return instance_codes(red, 256 * green + blue, frame.instances_path)
