"""Whatever is taken from a signed registry was checked: each kind of edit by somebody without the right key is told and refused."""

import json
import subprocess
import time
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from perception.errors import InputError
from perception.versioning.anchor import split_address, with_anchor
from perception.versioning.audit import audit
from perception.versioning.decisions import promote, reject, rollback, set_reference
from perception.versioning.models import champion, fetch_network, read_proposal, reference
from perception.versioning.nights import Night, Used, record_night
from perception.versioning.policy import release_by_policy
from perception.versioning.recorded import model_digest
from perception.versioning.records import json_bytes
from perception.versioning.registry import create_registry, fetch, publish, resolve
from perception.versioning.remote import FolderRemote, Proof, get_files
from perception.versioning.replay import recorded_night, registry_as_of
from perception.versioning.settings import ReleasePolicy
from perception.versioning.signers import parse_signers
from perception.versioning.trust import anchored, set_signers
from perception.versioning.upkeep import RetentionPolicy, plan_retention
from pipelines.commands.program import main as nightdrive
from tests.perception.versioning.signing import Keys, Signed, build, digest, published, release


@pytest.fixture(scope="module")
def built(tools, tmp_path_factory) -> Signed:
    root = tmp_path_factory.mktemp("signed")
    return build(
        root,
        lambda count: tools.make_folder(
            root / f"frames-{count}", tools.make_frames([f"d{k}_0" for k in range(count)]), {}
        ),
    )


@pytest.fixture
def signed(built, tmp_path, monkeypatch) -> Signed:
    built.keys.sign_as(monkeypatch, "")
    return built.copied(tmp_path)


def refused(signed: Signed, words: str, tmp_path: Path) -> None:
    """Every taker refuses the registry, with these words."""
    takers = (
        lambda: resolve(signed.anchored),
        lambda: resolve(signed.anchored, signed.one.tag),
        lambda: fetch_network(signed.anchored, tmp_path / "fetched-champion"),
        lambda: fetch(signed.anchored, signed.two.tag, tmp_path / "fetched"),
        lambda: read_proposal(signed.anchored, signed.two.tag),
        lambda: release(signed.anchored, signed.two, "ada"),
        lambda: plan_retention(signed.anchored, RetentionPolicy()),
        lambda: audit(signed.anchored),
    )
    for take in takers:
        with pytest.raises(InputError, match=words):
            take()
    assert nightdrive(["verify-history", "--registry", signed.anchored]) == 2


def test_what_is_signed_by_those_who_may_is_taken_and_told(signed, monkeypatch, capsys):
    assert resolve(signed.anchored) == signed.one
    assert champion(signed.anchored).names == ("ada@example.org",)
    signed.keys.sign_as(monkeypatch, "bob")
    seen = read_proposal(signed.anchored, signed.two.tag).sha256
    done = release(signed.anchored, signed.two, "bob", release=True, proposal_sha256=seen[:16])
    assert (done.names, done.proposal_sha256) == (("bob@example.org",), seen)
    assert resolve(signed.anchored) == signed.two
    assert rollback(signed.anchored, name="bob@example.org", reason="worse at night").tag == signed.one.tag
    assert nightdrive(["verify-history", "--registry", signed.anchored]) == 0
    assert nightdrive(["history", "--registry", signed.anchored]) == 0
    said = capsys.readouterr().out
    assert "signed by night@example.org" in said and "[signed by bob@example.org]" in said and "unsigned" not in said


def test_a_registry_without_a_list_works_and_says_that_it_is_unsigned(registry, capsys):
    assert nightdrive(["history", "--registry", str(registry)]) == 0
    assert "unsigned: this registry has no list" in capsys.readouterr().out
    assert nightdrive(["verify-history", "--registry", str(registry)]) == 2
    assert anchored(str(registry)) == str(registry)


# --- what an intruder writes


def _champion(signed: Signed) -> dict[str, bytes | None]:
    files = {"model.onnx": digest(b"two")}
    other = json.loads(signed.read("champion.json")) | {"files": files, "model_sha256": model_digest(files)}
    return {"champion.json": json_bytes(other)}


def _pointer(signed: Signed) -> dict[str, bytes | None]:
    moved = {"tag": signed.two.tag, "commit": signed.two.commit, "manifest_sha256": signed.two.manifest_sha256}
    return {"current.json": json_bytes(json.loads(signed.read("current.json")) | moved)}


def _proposal(signed: Signed) -> dict[str, bytes | None]:
    path = f"{signed.two.folder}/proposal.json"
    return {path: json_bytes(json.loads(signed.read(path)) | {"model_sha256": champion(signed.path).model_sha256})}


def _pointers_of_data(signed: Signed) -> dict[str, bytes | None]:
    one, two = (f"{version.folder}/frames.dvc" for version in (signed.one, signed.two))
    return {one: signed.read(two), two: signed.read(one)}


EDITS = {
    "champion": _champion,
    "pointer": _pointer,
    "reference": lambda signed: {"reference.json": signed.read("champion.json")},
    "pointer removed": lambda _: {"current.json": None},
    "proposal": _proposal,
    "pointers of data": _pointers_of_data,
    "list removed": lambda _: {"allowed_signers": None},
    "list with eve": lambda signed: {"allowed_signers": signed.keys.listed().encode() + b"\n"},
    "a pool table": lambda _: {"entries/2026-11/x.json": b"{}"},
    "a night": lambda _: {"nights/2026-11/x.json": b"{}"},
    "where data lie": lambda _: {".dvc/config": b"[core]\n"},
    "nothing": lambda _: {},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_unsigned_edit_is_told_and_refused_by_all_who_take(signed, tmp_path, edit):
    commit = signed.intrude(EDITS[edit](signed))
    refused(signed, f"commit {commit[:12]} is not signed by an allowed key", tmp_path)


def test_a_stranger_who_signs_is_a_stranger(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "eve")
    commit = signed.intrude(_pointer(signed))
    refused(signed, f"commit {commit[:12]} is not signed by an allowed key", tmp_path)


def test_a_merge_that_restores_an_older_state_is_refused(signed, tmp_path, tools):
    older = tools.git(signed.path, "rev-parse", "main~3")
    tree = tools.git(signed.path, "rev-parse", f"{older}^{{tree}}")
    made = ["-c", "user.name=e", "-c", "user.email=e@x", "commit-tree", "-m", "merge", "-p", "main", "-p", older, tree]
    tools.git(signed.path, "update-ref", "refs/heads/main", tools.git(signed.path, *made))
    refused(signed, "joins two histories", tmp_path)


def test_another_registry_with_the_same_signers_is_refused_where_the_address_names_a_commit(signed, tools, tmp_path):
    older = tools.git(signed.path, "rev-parse", "main~1")
    tools.git(signed.path, "update-ref", "refs/heads/main", older)
    refused(signed, "lacks commit", tmp_path)


def test_a_registry_without_its_list_or_with_another_one_is_refused_where_the_address_names_the_root(
    signed, registry, tmp_path, monkeypatch
):
    root = split_address(signed.anchored)[1].root
    with pytest.raises(InputError, match="no list of signers, but its address"):
        resolve(f"{registry}#root={root}")
    with pytest.raises(InputError, match="there is no such folder"):
        create_registry(f"{tmp_path / 'new.git'}#root={root}", str(tmp_path / "data"))
    signed.keys.sign_as(monkeypatch, "eve")
    set_signers(str(registry), _eves_list(signed.keys))
    assert resolve(registry) is None, "without a root in its address any list counts"
    with pytest.raises(InputError, match="begins with signers of sha256"):
        resolve(f"{registry}#root={root}")


def _eves_list(keys: Keys) -> str:
    return f'eve@example.org namespaces="git,root" {(keys.folder / "eve.pub").read_text()}'


def test_a_registry_that_nobody_wrote_to_for_too_long_is_refused(signed, monkeypatch):
    address = f"{signed.anchored}&days=1"
    assert resolve(address) == signed.one
    later = time.time() + 3 * 24 * 3600
    monkeypatch.setattr("perception.versioning.verified.time.time", lambda: later)
    with pytest.raises(InputError, match="3 days old"):
        resolve(address)


def test_an_address_whose_anchor_is_none_is_refused():
    with pytest.raises(InputError, match="must be root=SHA256"):
        split_address("/data/fleet.git#root=abc")
    whole = f"https://git/fleet.git#root={'a' * 64}&least={'b' * 40}&days=9"
    assert with_anchor(*split_address(whole)) == whole


# --- who may


def test_a_nights_key_decides_nothing(signed, monkeypatch):
    signed.keys.sign_as(monkeypatch, "night")
    for name in ("ada", "night"):
        with pytest.raises(InputError, match=r"which night@example.org may not \(publish\)"):
            release(signed.anchored, signed.two, name)
    assert resolve(signed.anchored) == signed.one


def test_a_person_decides_in_no_other_name(signed, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    for name in ("bob", "Ada"):
        with pytest.raises(InputError, match=r"but ada@example\.org signed it"):
            promote(
                signed.anchored,
                signed.two.tag,
                manifest_sha256=signed.two.manifest_sha256,
                names=[f"{name}@example.org"],
                reason="believe me",
            )
    with pytest.raises(InputError, match="each decides with a key of his own"):
        release(signed.anchored, signed.two, "ada", names=["ada@example.org", "bob@example.org"])


def test_without_a_key_nothing_is_written(signed):
    with pytest.raises(InputError, match="takes signed commits only; name your key"):
        release(signed.anchored, signed.two, "ada")


def test_whoever_published_does_not_decide(signed, tools, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "carl")
    frames = tools.make_folder(tmp_path / "own", tools.make_frames(["d0_0", "d2_0"]), {})
    own = publish(signed.anchored, "own", frames, parent=signed.one.tag)
    with pytest.raises(InputError, match=r"carl@example\.org published and cannot decide about too"):
        release(signed.anchored, own, "carl")
    assert release(signed.anchored, signed.two, "carl").tag == signed.two.tag


def test_another_test_set_needs_two_signatures(signed, tools, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "night")
    frames = [
        *tools.make_frames(["d0_0"]).to_dict("records"),
        *tools.make_frames(["d9_0"], split="test").to_dict("records"),
    ]
    other = publish(
        signed.anchored, "tests", tools.make_folder(tmp_path / "t", pd.DataFrame(frames), {}), parent=signed.one.tag
    )
    signed.keys.sign_as(monkeypatch, "ada")
    for _ in range(2):
        assert release(signed.anchored, other, "ada").action == "approve", "one person is one person, however often"
    assert resolve(signed.anchored) == signed.one
    signed.keys.sign_as(monkeypatch, "bob")
    done = release(signed.anchored, other, "bob")
    assert (done.action, done.names) == ("promote", ("ada@example.org", "bob@example.org"))
    assert resolve(signed.anchored) == other


def test_a_decision_that_names_somebody_who_did_not_approve_is_refused(signed, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    monkeypatch.setattr("perception.versioning.decisions._agreed", lambda *_: ("bob@example.org", "ada@example.org"))
    with pytest.raises(InputError, match=r"names bob@example\.org, who did not approve"):
        release(signed.anchored, signed.two, "ada")


def test_a_person_who_moves_a_pointer_by_hand_is_refused(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    signed.intrude(_pointer(signed))
    refused(signed, "it was moved by hand", tmp_path)


def test_a_person_who_releases_another_network_than_the_proposed_one_is_refused(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    done = release(signed.anchored, signed.two, "ada")
    forged = replace(done, action="release", model_sha256=model_digest({"model.onnx": digest(b"two")}))
    signed.intrude(_champion(signed) | {forged.path: json_bytes(asdict(forged))})
    refused(signed, "another network than was proposed", tmp_path)


def test_a_decision_that_was_written_is_never_edited(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "owner")
    path = next(
        each for commit in audit(signed.anchored).commits for each in commit.changes if each.startswith("decisions/")
    )
    signed.intrude({path: signed.read(path).replace(b"looked at it", b"overlooked it")})
    refused(signed, "after it was written", tmp_path)


def test_retirement_is_signed_by_who_retires(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    record = {"retired_by": "bob@example.org", "reason": "old", "plan_sha256": "", "format": 1}
    signed.intrude({f"{signed.two.folder}/frames.dvc": None, f"{signed.two.folder}/retired.json": json_bytes(record)})
    refused(signed, "in the name of bob@example.org, who did not sign it", tmp_path)


def test_the_policy_decides_only_where_the_list_says_so(signed, monkeypatch):
    gates = {"gates": [{"suite": "curate", "decision": "accept"}], "evaluation": None}
    facts = {
        "changes": {"counts": {"removed": 0}},
        "approval": {"test_set_changed": False, "state": "proposed"},
        "evidence": gates,
        "head": {"tag": signed.two.tag, "manifest_sha256": signed.two.manifest_sha256},
    }
    policy = ReleasePolicy(data="when_gates_pass")
    signed.keys.sign_as(monkeypatch, "night")
    with pytest.raises(InputError, match=r"may not \(publish\)"):
        release_by_policy(signed.anchored, facts, policy)
    signed.keys.sign_as(monkeypatch, "owner")
    set_signers(signed.anchored, signed.keys.listed(night="publish,policy"))
    signed.keys.sign_as(monkeypatch, "night")
    assert release_by_policy(signed.anchored, facts, policy).names == ("release policy",)
    assert resolve(signed.anchored) == signed.two
    with pytest.raises(InputError, match=r"but night@example\.org signed it"):
        reject(
            signed.anchored,
            signed.one.tag,
            manifest_sha256=signed.one.manifest_sha256,
            name="ada@example.org",
            reason="old",
        )


def test_the_reference_is_set_by_people_and_to_what_was_released(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    done = set_reference(signed.anchored, names=["ada@example.org"], reason="as driven in spring")
    assert reference(signed.anchored).model_sha256 == done.reference_sha256 == champion(signed.anchored).model_sha256
    other = replace(
        done,
        reference_sha256=model_digest({"model.onnx": digest(b"two")}),
        decided_utc="2999-01-01T00:00:00.000000+00:00",
    )
    forged = json.loads(_champion(signed)["champion.json"]) | {"names": other.names, "reason": other.reason}
    signed.intrude({other.path: json_bytes(asdict(other)), "reference.json": json_bytes(forged)})
    refused(signed, "the reference that nobody released before", tmp_path)


# --- the list


def test_a_root_changes_the_list_and_a_key_that_was_taken_off_it_counts_no_longer(signed, monkeypatch):
    signed.keys.sign_as(monkeypatch, "ada")
    with pytest.raises(InputError, match=r"changes allowed_signers"):
        set_signers(signed.anchored, signed.keys.listed(bob=""))
    signed.keys.sign_as(monkeypatch, "owner")
    address = set_signers(signed.anchored, signed.keys.listed(ada=""))
    assert split_address(address)[1] == replace(split_address(signed.anchored)[1], least=signed.head())
    assert resolve(address) == signed.one, "what was signed while the key counted still counts"
    signed.keys.sign_as(monkeypatch, "ada")
    with pytest.raises(InputError, match="is not signed by an allowed key"):
        release(address, signed.two, "ada")


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJlDTa3KBJSJ4nzMzwjwdmSqDwvVsWbLHpPyWTsuTUZW"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nobody has the role root"),
        (f'ada namespaces="git,decide" {KEY}', "nobody has the role root"),
        (f"ada {KEY}", 'must be NAME namespaces="git,ROLE" KEY'),
        (f'* namespaces="git,root" {KEY}', "must be NAME"),
        (f'ada namespaces="git,king" {KEY}', "must be NAME"),
        ('ada namespaces="git,root" ssh-ed25519 AAAA', "the key of ada is none"),
        (f'ada namespaces="git,root" {KEY}\nAda namespaces="git,decide" {KEY}', "stands twice"),
    ],
)
def test_a_list_that_is_none_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        parse_signers(text, "the list")


def test_a_signature_of_another_kind_or_over_other_bytes_is_nobodys(signed):
    signers = parse_signers(signed.keys.listed(), "the list")
    commit = subprocess.run(
        ["git", "-C", signed.path, "cat-file", "commit", "main"], capture_output=True, check=True
    ).stdout
    assert signers.of(commit).name == "night@example.org"
    armour = b'-----BEGIN PGP SIGNATURE-----\n \n Good "git" signature for ada@example.org with ED25519\n -----END PGP SIGNATURE-----\n'
    start, end = commit.index(b"gpgsig "), commit.index(b"-----END SSH SIGNATURE-----\n") + 28
    assert signers.of(commit[:start] + b"gpgsig " + armour + commit[end:]) is None
    assert signers.of(commit.replace(b"Propose", b"propose")) is None
    assert signers.of(commit[:start] + commit[end:]) is None
    none = b"-----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n"
    assert signers.of(commit[:start] + b"gpgsig " + none + commit[end:]) is None


# --- nights


def test_a_night_is_repeated_in_a_copy_that_needs_no_key(signed, tmp_path, monkeypatch):
    signed.keys.sign_as(monkeypatch, "night")
    began, used = signed.head(), Used(arrivals=0, labels=0, erasures=0, parameters="", code="")
    night = Night(
        night="2026-11-30",
        date=date(2026, 11, 30),
        profile="demo",
        base=None,
        status="done",
        used=used,
        registry_commit=began,
    )
    assert record_night(signed.anchored, night) == night
    signed.keys.sign_as(monkeypatch, "")
    registry_as_of(signed.anchored, recorded_night(signed.anchored, night.night), tmp_path / "copy.git")
    assert resolve(tmp_path / "copy.git") == signed.one
    with pytest.raises(InputError, match="takes signed commits only"):
        record_night(signed.anchored, replace(night, night="2026-12-01"))


# --- without a list, too


def test_a_network_is_what_its_files_hash_to(proposed, tmp_path):
    signed = proposed
    other = json.loads(signed.read("champion.json")) | {"files": {"model.onnx": digest(b"two")}}
    signed.intrude({"champion.json": json_bytes(other)})
    with pytest.raises(InputError, match="its files are those of network"):
        fetch_network(signed.path, tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "a//b", ""])
def test_a_file_of_a_version_or_network_lies_in_its_folder(proposed, tmp_path, name):
    files = {name: digest(b"one")}
    other = json.loads(proposed.read("champion.json")) | {"files": files, "model_sha256": model_digest(files)}
    proposed.intrude({"champion.json": json_bytes(other)})
    with pytest.raises(InputError, match="would lie outside its folder"):
        fetch_network(proposed.path, tmp_path / "deep" / "out")
    with pytest.raises(InputError, match="would lie outside its folder"):
        get_files(FolderRemote("/nowhere"), {}, {name: Proof("sha256", "")}, tmp_path)


def test_a_proposal_that_was_swapped_after_the_review_is_not_released(proposed):
    seen = read_proposal(proposed.path, proposed.two.tag).sha256
    proposed.intrude(_proposal(proposed))
    with pytest.raises(InputError, match="was reviewed: look at it again"):
        release(proposed.path, proposed.two, "ada", release=True, proposal_sha256=seen)


def test_pointers_of_two_versions_that_were_swapped_retire_what_they_would_have(proposed, tools, tmp_path):
    publish(proposed.path, "three", tools.make_folder(tmp_path / "three", tools.make_frames(["d3_0"]), {}))
    later = datetime.now(UTC) + timedelta(days=9)
    plan = plan_retention(proposed.path, RetentionPolicy(keep_days=1, grace_hours=1), now=later)
    assert plan.retired == (proposed.two.tag,) and plan.objects
    proposed.intrude(_pointers_of_data(proposed))
    assert plan_retention(proposed.path, RetentionPolicy(keep_days=1, grace_hours=1), now=later) == plan


@pytest.fixture
def proposed(built, tools, tmp_path, monkeypatch) -> Signed:
    """The same versions and networks in a registry without a list."""
    built.keys.sign_as(monkeypatch, "")
    create_registry(tmp_path / "plain.git", str(tmp_path / "plain"))
    frames = [
        tools.make_folder(tmp_path / f"frames-{k}", tools.make_frames([f"d{each}_0" for each in range(k)]), {})
        for k in (1, 2)
    ]
    one = published(tmp_path / "plain.git", tmp_path, "one", frames[0])
    release(tmp_path / "plain.git", one, "ada", release=True)
    two = published(tmp_path / "plain.git", tmp_path, "two", frames[1], parent=one.tag)
    return Signed(tmp_path / "plain.git", str(tmp_path / "plain.git"), built.keys, one, two)
