"""Files of a data set are read whole or refused: no pipe, no device, nothing of a size that no frame has."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from perception.data import limits
from perception.data.decoding import BadFrame
from perception.data.readers import READERS
from perception.data.readers.layout import read_file


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 200 * 2**30)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (sparse, f"has {200 * 2**30} bytes, more than"),
        (os.mkfifo, "is not a readable file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a readable file"),
        (lambda path: path.mkdir(), "is not a readable file"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
    ids=["200 GB", "pipe", "endless device", "folder", "loop of links"],
)
def test_what_is_no_file_of_a_frame_is_refused_at_once(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path / "x.jpg")
    with pytest.raises(BadFrame, match=said):
        read_file(tmp_path / "x.jpg")


def test_a_member_of_a_shard_that_no_frame_can_be_is_refused_unread(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.size = limits.FILE_BYTES + 1
    padded = -(-member.size // 512) * 512
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(member.tobuf())
        file.truncate(512 + padded + 1024)
    reader = READERS["webdataset"]
    (frame,) = reader.frames(tmp_path, None, False)
    with pytest.raises(BadFrame, match=f"has {member.size} bytes, more than"):
        reader.image(frame)
