"""Random edits of a signed registry by somebody without a key, who may write any file, ref, tag, merge and order of commits in it.

Each is told and refused by all that take from it, or changes nothing that they take.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from perception.errors import InputError
from perception.versioning.audit import audit
from perception.versioning.growing import open_book
from perception.versioning.models import champion, read_proposal
from perception.versioning.nights import read_nights
from perception.versioning.registry import resolve
from perception.versioning.upkeep import RetentionPolicy, plan_retention, versions
from tests.faults.commands import frames_folder
from tests.faults.counting import Count
from tests.faults.inputs import generated, limited
from tests.perception.versioning.signing import Signed, build, release

NEW_PATHS = (
    "allowed_signers", "current.json", "champion.json", "decisions/20300101T000000-promote-00000000.json", "entries/2026-11/x.json",
    "nights/2026-11/x.json", "models/0000000000000000.json", "datasets/runs/x-00000000/run.json", "deny/x.json", ".gitattributes", "a b",
)  # fmt: skip
CONTENTS = (
    b"",
    b"{}",
    b"[" * 100_000,
    b"null",
    b'{"format": 1}',
    b'{"format": 99}',
    b"\xff\xfe\0",
    b"outs: [{md5: 00}]\n",
)
EXAMPLES = 500  # of the whole campaign
PLACE = st.integers(0, 10**6)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["flip", "delete", "swap", "copy"]), PLACE, PLACE),
        st.tuples(st.just("write"), st.sampled_from(NEW_PATHS), st.sampled_from(CONTENTS)),
        st.tuples(st.just("overwrite"), PLACE, st.sampled_from(CONTENTS)),
        st.tuples(st.sampled_from(["back", "merge", "graft", "borrow", "restore", "empty"]), PLACE, PLACE),
        st.tuples(st.sampled_from(["tag", "untag", "branch"]), PLACE, PLACE),
        st.tuples(st.just("eve"), PLACE, PLACE),
    ),
    min_size=1,
    max_size=4,
)


@dataclass
class Intruder:
    """Edit the files of a bare repository, past every hook."""

    signed: Signed
    signing: bool = False  # with a key that is on no list

    def git(self, *words: str, given: bytes = b"", **more: str) -> str:
        """Run git there; return what it said."""
        key = ["-c", f"user.signingKey={self.signed.keys.folder / 'eve.pub'}", "-c", "gpg.format=ssh"]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **more}
        command = ["git", "-C", str(self.signed.path), "-c", "user.name=e", "-c", "user.email=e@x", *key, *words]
        return (
            subprocess.run(command, input=given, env=environment, capture_output=True, check=True)
            .stdout.decode()
            .strip()
        )

    def do(self, kind: str, one: Any, two: Any) -> None:
        """Make one edit."""
        chain = self.git("rev-list", "--first-parent", "main").split()
        paths = self.git("ls-tree", "-r", "--name-only", "main").splitlines()
        if kind == "eve":
            self.signing = True
        elif kind in ("tag", "untag", "branch"):
            self._ref(kind, chain, one, two)
        elif kind in ("back", "merge", "graft", "borrow", "restore", "empty"):
            self._history(kind, chain, chain[one % len(chain)])
        else:
            self._files(kind, paths, one, two)

    def _ref(self, kind: str, chain: list[str], one: int, two: int) -> None:
        tags = self.git("tag").split() or ["data/x-00000000"]
        tag, commit = tags[one % len(tags)], chain[two % len(chain)]
        name = f"refs/heads/{tag}" if kind == "branch" else f"refs/tags/{tag}"
        self.git("update-ref", *(["-d", name] if kind == "untag" else [name, commit]))

    def _history(self, kind: str, chain: list[str], older: str) -> None:
        if kind == "back":
            return self._move(older)
        tree = "main^{tree}" if kind == "empty" else f"{older}^{{tree}}"
        if kind == "merge":
            return self._move(self._commit(tree, "main", older))
        if kind in ("restore", "empty"):
            return self._move(self._commit(tree, "main"))
        if kind == "graft":  # signed content of another place in the history, on top of this one
            content = self.git("cat-file", "commit", older).encode()
            lines = [line for line in content.splitlines() if not line.startswith(b"parent ")]
            return self._put([lines[0], f"parent {chain[0]}".encode(), *lines[1:]])
        made = self._commit("main^{tree}", "main")  # the signature of another commit
        lines = self.git("cat-file", "commit", made).encode().splitlines()
        signature = self.git("cat-file", "commit", older).partition("gpgsig ")[2].partition("\n\n")[0]
        blank = lines.index(b"")
        own = [line for line in lines[:blank] if line.startswith((b"tree", b"parent", b"author", b"committer"))]
        return self._put([*own, b"gpgsig " + signature.encode(), *lines[blank:]])

    def _put(self, lines: list[bytes]) -> None:
        self._move(
            self.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", given=b"\n".join(lines) + b"\n")
        )

    def _move(self, commit: str) -> None:
        self.git("update-ref", "refs/heads/main", commit)

    def _commit(self, tree: str, *parents: str) -> str:
        given = [word for parent in parents for word in ("-p", parent)]
        return self.git(
            "commit-tree", *(["-S"] if self.signing else []), *given, "-m", "fix", self.git("rev-parse", tree)
        )

    def _files(self, kind: str, paths: list[str], one: Any, two: Any) -> None:
        if kind == "write":
            return self._write({one: two})
        if not paths:
            return None
        path, other = paths[one % len(paths)], paths[two % len(paths)] if isinstance(two, int) else ""
        read = {name: subprocess.run(
            ["git", "-C", self.signed.path, "cat-file", "blob", f"main:{name}"], capture_output=True, check=True).stdout
            for name in (path, other) if name}  # fmt: skip
        data = bytearray(read[path] or b"x")
        data[(two if isinstance(two, int) else 0) % len(data)] ^= 1
        changes: dict[str, dict[str, bytes | None]] = {
            "flip": {path: bytes(data)},
            "delete": {path: None},
            "overwrite": {path: two},
        }
        if other:
            changes |= {"swap": {path: read[other], other: read[path]}, "copy": {path: read[other]}}
        return self._write(changes[kind])

    def _write(self, files: dict[str, bytes | None]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": f"{scratch}/index"}
            self.git("read-tree", "main", **index)
            lines = []
            for path, content in files.items():
                blob = self.git("hash-object", "-w", "--stdin", given=content) if content is not None else "0" * 40
                lines.append(f"{'0' if content is None else '100644'} {blob}\t{path}\n")
            self.git("update-index", "--index-info", given="".join(lines).encode(), **index)
            self._move(self._commit(self.git("write-tree", **index), "main"))


def taken(signed: Signed) -> dict[str, Any]:
    """Return what each taker takes from the registry, or that it refused."""
    address, policy = signed.anchored, RetentionPolicy(keep_days=1, grace_hours=1)
    takers = {
        "resolve": lambda: resolve(address),
        "resolve a version": lambda: resolve(address, signed.two.tag),
        "champion": lambda: champion(address),
        "proposal": lambda: read_proposal(address, signed.two.tag),
        "book": lambda: open_book(address).entries,
        "nights": lambda: read_nights(address),
        "versions": lambda: versions(address),
        "retire": lambda: plan_retention(address, policy).sha256,
        "verify-history": lambda: audit(address).commits,
        "promote": lambda: _promoted(signed),
    }
    found: dict[str, Any] = {}
    for name, take in takers.items():
        try:
            with limited(60):
                found[name] = take()
        except InputError as error:
            found[name] = "refused" if "\n" not in str(error) else f"says {str(error)!r}"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def _promoted(signed: Signed) -> tuple[Any, ...]:
    with pytest.MonkeyPatch.context() as patch:
        signed.keys.sign_as(patch, "ada")
        done = release(signed.anchored, signed.two, "ada", release=True)
    return (done.tag, done.manifest_sha256, done.model_sha256, done.proposal_sha256, done.previous) if done else ()


def edits_of_a_signed_registry(folder: Path, examples: int) -> Count:
    """Edit a copy of a signed registry, one to four times over, as often as asked; judge what each taker makes of it."""
    signed = build(folder, lambda count: frames_folder(folder / f"frames-{count}", range(count)))
    copies = iter(range(10**9))

    def copied() -> Signed:
        place = folder / f"copy-{next(copies)}"
        place.mkdir()
        return signed.copied(place)

    undisturbed = taken(copied())

    def judge(edits: Any) -> str:
        intruder = Intruder(copied())
        for edit in edits:
            intruder.do(*edit)
        found = taken(intruder.signed)
        subprocess.run(["rm", "-rf", intruder.signed.path.parent], check=True)
        if found == undisturbed:
            return "correct"
        wrong = {name: value for name, value in found.items() if value not in ("refused", undisturbed[name])}
        return f"{edits}: {wrong}" if wrong or set(found.values()) != {"refused"} else "error"

    return generated(examples, EDITS, judge, "edits of a signed registry")


def trust_rows(folder: Path, examples: int) -> Iterator[Count]:
    """Run the campaign of trust."""
    folder.mkdir(parents=True)
    yield edits_of_a_signed_registry(folder, examples)
