"""Shards: deterministic, readable by others, and closed to members that lead elsewhere."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from perception.data.shards import read_shard, write_shard
from perception.errors import InputError

MEMBERS = {
    "b_2": {"jpg": b"image 2", "json": b"{}", "label.png": b"label 2"},
    "a_1": {"label.png": b"", "jpg": b"image 1" * 1000},
    "x" * 200: {"jpg": b"long name"},
}


def test_round_trip_sorted(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "shard.tar"
    digest = write_shard(MEMBERS.items(), path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found = list(read_shard(path))
    assert [key for key, _ in found] == sorted(MEMBERS)
    assert dict(found) == MEMBERS
    assert [list(files) for _, files in found] == [sorted(MEMBERS[key]) for key in sorted(MEMBERS)]


def test_order_of_members_does_not_matter(tmp_path: Path) -> None:
    turned = [(key, dict(reversed(files.items()))) for key, files in reversed(MEMBERS.items())]
    assert write_shard(MEMBERS.items(), tmp_path / "a.tar") == write_shard(turned, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_headers_are_plain_ustar_without_traces_of_the_machine(tmp_path: Path) -> None:
    write_shard([("a", {"jpg": b"image"})], tmp_path / "shard.tar")
    data = (tmp_path / "shard.tar").read_bytes()
    assert data[257:265] == b"ustar\x0000" and data[156:157] == b"0"
    assert data[100:108] == b"0000644\0" and data[108:124] == b"0000000\0" * 2 and data[136:148] == b"00000000000\0"
    assert not data[265:329].strip(b"\0"), "no owner and group names"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size, member.mode = 5, 0o644
        archive.addfile(member, io.BytesIO(b"image"))
    assert data == plain.getvalue()


def test_other_programs_read_it(tmp_path: Path) -> None:
    write_shard(MEMBERS.items(), tmp_path / "shard.tar")
    names = subprocess.run(["tar", "-tf", tmp_path / "shard.tar"], capture_output=True, text=True, check=True).stdout
    assert names.splitlines()[:2] == ["a_1.jpg", "a_1.label.png"] and len(names.splitlines()) == 6
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False))
    assert {sample["__key__"]: {k: v for k, v in sample.items() if k[0] != "_"} for sample in samples} == MEMBERS


def test_shards_of_other_programs(tmp_path: Path) -> None:
    for name in ("s/a.jpg", "s/a.cls", "s/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    subprocess.run(["tar", "-C", tmp_path, "--sort=name", "-cf", tmp_path / "shard.tar", "s"], check=True)
    assert list(read_shard(tmp_path / "shard.tar")) == [
        ("s/a", {"cls": b"s/a.cls", "jpg": b"s/a.jpg"}),
        ("s/b", {"jpg": b"s/b.jpg"}),
    ]


def test_empty_shard(tmp_path: Path) -> None:
    write_shard([], tmp_path / "shard.tar")
    assert list(read_shard(tmp_path / "shard.tar")) == []


@pytest.mark.parametrize("key", ["", "a.b", "../a", "/a", "a/b", "a\n", "a\0"])
def test_key_rule(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard key"):
        write_shard([(key, {"jpg": b""})], tmp_path / "shard.tar")
    assert list(tmp_path.iterdir()) == []


def test_other_bad_members(tmp_path: Path) -> None:
    for extension in ("", ".jpg", "../jpg", "j/pg"):
        with pytest.raises(InputError, match="extension"):
            write_shard([("a", {extension: b""})], tmp_path / "shard.tar")
    with pytest.raises(InputError, match="shard key a occurs twice"):
        write_shard([("a", {"jpg": b""}), ("b", {"jpg": b""}), ("a", {"png": b""})], tmp_path / "shard.tar")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_shard([], tmp_path / "file" / "shard.tar")


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (named("/etc/passwd.jpg"), "leads out of the shard"),
        (named("../a.jpg"), "leads out of the shard"),
        (named("a/../../b.jpg"), "leads out of the shard"),
        (named("..\\a.jpg"), "leads out of the shard"),
        (named("a.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link, device or sparse file"),
        (named("a.jpg", tarfile.LNKTYPE, "b.jpg"), "is a link, device or sparse file"),
        (named("a.jpg", tarfile.CHRTYPE), "is a link, device or sparse file"),
        (named("a.jpg", tarfile.FIFOTYPE), "is a link, device or sparse file"),
        (named("noextension"), "must be called KEY.EXTENSION"),
    ],
)
def test_members_that_are_refused(member: tarfile.TarInfo, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        list(read_shard(tar(tmp_path / "shard.tar", (member, b""))))


def test_repeated_and_scattered_members(tmp_path: Path) -> None:
    for names in (["a.jpg", "a.jpg"], ["a.jpg", "b.jpg", "a.png"]):
        path = tar(tmp_path / "shard.tar", *((named(name), b"x") for name in names))
        with pytest.raises(InputError, match="twice or apart from its key"):
            list(read_shard(path))


def test_no_beginning_of_a_shard_passes_for_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write_shard([("a", {"jpg": b"x" * 700}), ("b", {"jpg": b"y"})], path)
    data = path.read_bytes()
    end = 512 + 1024 + 512 + 512
    for length in [*range(0, end, 64), end - 1, end, end + 511]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="shard is truncated or damaged"):
            list(read_shard(path))


def test_damaged_header_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write_shard([("a", {"jpg": b"x"}), ("b", {"jpg": b"y"})], path)
    data = bytearray(path.read_bytes())
    data[1024:1030] = b"broken"
    path.write_bytes(data)
    with pytest.raises(InputError, match="shard is truncated or damaged"):
        list(read_shard(path))


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(InputError, match="is no file, must be a tar file; fetch"):
        list(read_shard(tmp_path / "pipe.tar"))


def test_what_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard is missing"):
        list(read_shard(tmp_path / "shard.tar"))
    (tmp_path / "shard.tar").write_bytes(b"no tar file" * 1000)
    with pytest.raises(InputError, match="shard is truncated or damaged"):
        list(read_shard(tmp_path / "shard.tar"))
