"""Signed history with a throw-away key: what is signed passes; what is not, is signed by a stranger, or was tampered with is refused."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.stage.command import main
from perception.errors import InputError
from perception.versioning.base import Base
from perception.versioning.decisions import promote
from perception.versioning.registry import create_registry, publish
from perception.versioning.signatures import allowed_lines, check_history, require_signed
from pipelines.commands.program import main as nightdrive


@dataclass(frozen=True)
class Keys:
    folder: Path
    allowed: Path  # names Ada's key and no other

    def sign_as(self, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
        """Let git sign with a person's key from now on, as that person's own configuration would; None: not at all."""
        file = self.folder / f"gitconfig-{name}"
        signing = f"[gpg]\n\tformat = ssh\n[user]\n\tsigningKey = {self.folder / str(name)}.pub\n"
        asked = "[commit]\n\tgpgSign = true\n[tag]\n\tgpgSign = true\n"
        file.write_text(signing + asked if name else "")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(file))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name in ("ada", "eve"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(command, check=True)
    allowed = folder / "allowed_signers"
    allowed.write_text("# who may release\nada@example.org " + (folder / "ada.pub").read_text())
    return Keys(folder, allowed)


@pytest.fixture
def signed(tmp_path, keys, tools, monkeypatch):
    """A registry whose one version Ada signed and released."""
    keys.sign_as(monkeypatch, "ada")
    registry = tmp_path / "registry.git"
    create_registry(registry, str(tmp_path / "remote"))
    frames = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0", "d0_1"]), {"a.tar": b"a"})
    version = publish(registry, "night-1", frames)
    promote(registry, version.tag, manifest_sha256=version.manifest_sha256, names=["Ada"], reason="looked at it")
    return registry, version


def test_what_is_signed_passes(signed, keys, capsys):
    registry, version = signed
    assert {each.signer for each in check_history(registry, str(keys.allowed))} == {"ada@example.org"}
    assert require_signed(registry, version.tag, keys.allowed.read_text()) == "ada@example.org"
    assert nightdrive(["verify-history", "--registry", str(registry), "--signers", str(keys.allowed)]) == 0
    assert "2 tags and decisions, every one signed by an allowed key" in capsys.readouterr().out


def refused(registry, tag, keys, words):
    with pytest.raises(InputError, match=words) as caught:
        require_signed(registry, tag, str(keys.allowed))
    assert "turn resolve.require_signed off" in str(caught.value)


@pytest.mark.parametrize(("who", "words"), [(None, "is not signed"), ("eve", "not in the list of allowed signers")])
def test_a_version_without_a_signature_or_with_a_strangers_is_refused(
    signed, keys, tools, tmp_path, monkeypatch, capsys, who, words
):
    registry, _ = signed
    keys.sign_as(monkeypatch, who)
    frames = tools.make_folder(tmp_path / "second", tools.make_frames(["d1_0"]), {"b.tar": b"b"})
    other = publish(registry, "night-2", frames)
    refused(registry, other.tag, keys, words)
    assert nightdrive(["verify-history", "--registry", str(registry), "--signers", str(keys.allowed)]) == 2
    said = capsys.readouterr()
    assert f"tag {other.tag}" in said.out and "PROBLEM" in said.out
    assert "1 of 3" in said.err


def test_a_release_that_nobody_allowed_signed_is_refused(signed, keys, tools, tmp_path, monkeypatch):
    registry, first = signed
    frames = tools.make_folder(tmp_path / "second", tools.make_frames(["d0_0", "d0_1", "d1_0"]), {"b.tar": b"b"})
    other = publish(registry, "night-2", frames, parent=first.tag)
    keys.sign_as(monkeypatch, "eve")
    promote(registry, other.tag, manifest_sha256=other.manifest_sha256, names=["Eve"], reason="believe me")
    refused(registry, other.tag, keys, r"commit [0-9a-f]{12} is signed by a key that is not in the list")


def rewritten(registry: Path, tag: str, change, name: str | None = None) -> None:
    """Write a changed tag object, as somebody with access to the repository's files could."""

    def run(*words: str, **options: bytes) -> bytes:
        return subprocess.run(["git", "-C", registry, *words], capture_output=True, check=True, **options).stdout

    content = change(run("cat-file", "tag", f"refs/tags/{tag}"))
    made = run("hash-object", "-t", "tag", "-w", "--stdin", input=content).decode().strip()
    (registry / "refs" / "tags" / (name or tag)).write_text(made + "\n")


def test_a_tag_that_was_tampered_with_is_refused(signed, keys):
    registry, version = signed
    rewritten(registry, version.tag, lambda content: content.replace(b"2 frames", b"3 frames"))
    refused(registry, version.tag, keys, "bad signature")


def test_a_signed_tag_under_another_name_is_refused(signed, keys):
    registry, version = signed
    rewritten(registry, version.tag, lambda content: content, name="data/night-9-00000000")
    refused(registry, "data/night-9-00000000", keys, "bears the signed content of another tag")


def test_a_night_that_requires_signatures_starts_from_a_signed_version_only(
    signed, keys, tmp_path, monkeypatch, capsys
):
    registry, version = signed

    def resolve(where: str, *more: str) -> int:
        values = {"registry": registry, "remote": tmp_path / "remote", "store": tmp_path / "store"}
        values |= {"run": "night", "height_px": 32, "width_px": 64, "seed": 0}
        sets = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        required = ["--set", "sources={}", "--set", "batch_count=1", "--set", "require_signed=true", *more]
        outputs = ["--base", str(tmp_path / where), "--arrivals", str(tmp_path / f"{where}-arrivals")]
        return main(["resolve", *sets, *required, *outputs])

    # The frames of this version have no blobs to restore; only what its signatures say is tried here.
    monkeypatch.setattr("perception.versioning.base.write_base", lambda *_: Base(version.tag, 2))
    monkeypatch.setattr("components.resolve._write_listing", lambda *_: None)
    assert resolve("none") == 2
    assert "must not be empty with require_signed" in capsys.readouterr().err
    assert resolve("signed", "--set", f"allowed_signers={keys.allowed}") == 0, capsys.readouterr().err
    assert "is signed by ada@example.org" in capsys.readouterr().out
    stranger = "eve@example.org " + (keys.folder / "eve.pub").read_text().strip()
    assert resolve("refused", "--set", f"allowed_signers={stranger}") == 2
    assert "signatures are required" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("text", ["", "/nowhere", "ada no-key AAAA", "x\ny"])
def test_a_list_of_signers_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="allowed_signers"):
        allowed_lines(text)
