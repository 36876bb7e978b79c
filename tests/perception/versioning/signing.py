"""A signed registry with throw-away keys, and an intruder who may push to it and holds none of them."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from perception.versioning.decisions import Decision, promote
from perception.versioning.models import propose
from perception.versioning.processes import git_text, run_git, shallow_clone
from perception.versioning.records import Version
from perception.versioning.registry import create_registry, publish
from perception.versioning.repository import commit_files
from perception.versioning.trust import anchored, set_signers

ROLES = {"owner": "root", "night": "publish", "ada": "decide", "bob": "decide", "carl": "publish,decide"}


@dataclass(frozen=True)
class Keys:
    """Hold a key pair a name in a folder: those of ROLES, and eve, who is on no list."""

    folder: Path

    def make(self) -> "Keys":
        """Make the keys."""
        for name in (*ROLES, "eve"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
            subprocess.run(command, check=True)
        return self

    def listed(self, **changed: str) -> str:
        """Return the list of allowed signers, some with other roles; empty: left out."""
        lines = []
        for name, roles in (ROLES | changed).items():
            if roles:
                lines.append(f'{name}@example.org namespaces="git,{roles}" {(self.folder / f"{name}.pub").read_text()}')
        return "# who may sign what\n" + "".join(lines)

    def sign_as(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Let git sign with a person's key from now on, as that person's own configuration would; empty: with none."""
        file = self.folder / f"gitconfig-{name}"
        asked = f"[user]\n\tsigningKey = {self.folder / name}.pub\n[gpg]\n\tformat = ssh\n[commit]\n\tgpgSign = true\n"
        file.write_text(asked if name else "")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(file))


@dataclass(frozen=True)
class Signed:
    """Name a signed registry: `one` is current with its network the champion, `two` was published and proposed on top of it."""

    path: Path
    anchored: str  # its address with root and least commit
    keys: Keys
    one: Version
    two: Version

    def copied(self, folder: Path) -> "Signed":
        """Return a copy, for one test to spoil; what lies on the remote stays where it is."""
        place = folder / "signed.git"
        shutil.copytree(self.path, place)
        return replace(self, path=place, anchored=self.anchored.replace(str(self.path), str(place)))

    def intrude(self, files: Mapping[str, bytes | None]) -> str:
        """Commit changes on top of main past every check, with the key that git is told of if any, and push; return the commit."""
        with shallow_clone(self.path) as clone:
            commit = commit_files(clone, "HEAD", files, "fix")
            run_git(clone, "push", "--quiet", "origin", f"{commit}:refs/heads/main")
        return commit

    def read(self, path: str, revision: str = "main") -> bytes:
        """Return a committed file."""
        with shallow_clone(self.path, depth=None) as clone:
            return run_git(clone, "cat-file", "blob", f"{revision}:{path}").stdout

    def head(self) -> str:
        """Return the commit of main."""
        with shallow_clone(self.path) as clone:
            return git_text(clone, "rev-parse", "HEAD")


def digest(content: bytes) -> str:
    """Return the sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def build(root: Path, frames: Callable[[int], Path]) -> Signed:
    """Make a registry that its owner gave a list, whose first version ada released, and in which the night published a second one.

    frames: gives the folder of a version with so many frames.
    """
    (root / "keys").mkdir()
    keys, registry = Keys(root / "keys").make(), root / "registry.git"
    with pytest.MonkeyPatch.context() as patch:
        keys.sign_as(patch, "")
        create_registry(registry, str(root / "remote"))
        keys.sign_as(patch, "owner")
        set_signers(str(registry), keys.listed())
        keys.sign_as(patch, "night")
        one = published(registry, root, "one", frames(1))
        keys.sign_as(patch, "ada")
        release(registry, one, "ada", release=True)
        keys.sign_as(patch, "night")
        two = published(registry, root, "two", frames(2), parent=one.tag)
    return Signed(registry, anchored(str(registry)), keys, one, two)


def published(registry: Path, root: Path, run: str, frames: Path, **options: str) -> Version:
    """Publish a version and propose a network with it, whose one file holds the run's name."""
    version = publish(registry, run, frames, **options)  # type: ignore[arg-type]
    (root / f"{run}-model").mkdir()
    (root / f"{run}-model" / "model.onnx").write_bytes(run.encode())
    propose(registry, version.tag, {"night": run}, model=root / f"{run}-model")
    return version


def release(registry: str | Path, version: Version, name: str, **options: object) -> Decision | None:
    """Promote a version in somebody's name."""
    wanted = {"manifest_sha256": version.manifest_sha256, "names": [f"{name}@example.org"], "reason": "looked at it"}
    return promote(registry, version.tag, **wanted | options)  # type: ignore[arg-type]
