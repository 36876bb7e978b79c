"""A remote in a folder: what is absent is told from what may not be read."""

import hashlib
from pathlib import Path

import pytest

from perception.errors import InputError, Unreachable
from perception.versioning.remote import FolderRemote

NAME = "d41d8cd98f00b204e9800998ecf8427e"


def test_what_is_absent_is_none(tmp_path: Path) -> None:
    remote = FolderRemote(str(tmp_path))
    assert (remote.stat(NAME), remote.read(NAME), remote.hash(NAME)) == (None, None, None)
    assert not remote.download(NAME, tmp_path / "copy", hashlib.sha256())


@pytest.mark.parametrize("what", ["stat", "read", "hash", "download"])
def test_what_may_not_be_read_is_no_lost_data(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = FolderRemote(str(tmp_path))
    remote.write(NAME, b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for method in ("stat", "open", "read_bytes"):
        monkeypatch.setattr(Path, method, refuse)
    more = (tmp_path / "copy", hashlib.sha256()) if what == "download" else ()
    with pytest.raises(InputError, match=f"files/md5/d4/{NAME[2:]}: cannot be read .Permission denied.") as raised:
        getattr(remote, what)(NAME, *more)
    assert not isinstance(raised.value, Unreachable)
