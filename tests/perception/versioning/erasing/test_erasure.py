"""One drive leaves an installation: from every place of docs/erasure.md, and nothing else with it."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.scale.erasure import SIGNED, drive_name, street
from perception.data.deny_list import DenyList, digest
from perception.data.manifest import read_manifest
from perception.data.picture_hash import COPY_BITS, mark_distances, picture_mark
from perception.data.shards import read_shard
from perception.data.store import open_store
from perception.errors import InputError
from perception.versioning.asked import Asked
from perception.versioning.audit import audit
from perception.versioning.decisions import decide_network
from perception.versioning.erasing.carry_out import carry_out, decide, denied_by
from perception.versioning.erasing.certificate import certify, search_installation
from perception.versioning.erasing.plan import plan_erasure
from perception.versioning.erasing.rewriting import without
from perception.versioning.growing import open_book, read_table
from perception.versioning.ledger import read_events, state
from perception.versioning.lineage import lineage, reproduce
from perception.versioning.models import champion
from perception.versioning.pool import FRAMES
from perception.versioning.records import MANIFEST
from perception.versioning.registry import publish, resolve
from perception.versioning.signers import Signer
from perception.versioning.trust import set_signers
from perception.versioning.upkeep import scrub, versions
from pipelines.commands.program import main
from tests.faults.erasure import GONE, Home, build_home, smaller
from tests.perception.versioning.signing import Keys

ROOT = Path(__file__).parents[4]
# Of each row of the list a file in which the search must find the drive before the erasure; {}: the place's label.
PLANTED = {
    "blobs": ("store", "sha256/"),
    "given": ("store", "given/0a1b/"),
    "records": ("store", "nights/first/select"),
    "shards": ("remote", "files/md5/"),
    "tables": ("remote", "files/md5/"),
    "parts": ("remote", "files/md5/"),
    "proposals": ("registry", "datasets/runs/"),
    "kept": ("kept", ""),
    "runs": ("runs", "first/"),
    "pages": ("runs", "reviews/x/review.html"),
    "also": ("curated", "images/anything.bin"),
}
NOT_SEARCHED = ("networks", "batches", "sources")  # weights, and what is not ours


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_home(tmp_path_factory.mktemp("home") / "home")


@pytest.fixture
def home(built):
    return built.restore()


def pool(home: Home):
    return read_table(open_book(home.place.registry), FRAMES)


def members(home: Home, folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of every frame in every shard that versions hold."""
    found: dict[str, dict[str, bytes]] = {}
    for version in versions(home.place.registry):
        reproduce(home.place.registry, version.tag, folder / version.run)
        for path in (folder / version.run / "shards").glob("*.tar"):
            found |= dict(read_shard(path))
    return found


def test_the_list_of_places_is_the_one_that_is_planted():
    rows = re.findall(r"(?m)^\| (\w+) \|", (ROOT / "docs" / "erasure.md").read_text())[1:]
    assert set(rows) == {*PLANTED, *NOT_SEARCHED} and len(rows) == len(set(rows))


def test_a_drive_leaves_every_place_of_the_list_and_nothing_else_goes(home, tmp_path):
    planned = home.plan()
    found = {
        (Path(each.place).name, each.name.split("!")[0])
        for each in search_installation(home.place, planned.denied).findings
    }
    for row, (place, start) in PLANTED.items():
        assert any(label == place and name.startswith(start) for label, name in found), row
    assert ("store", "given/9f9f/frames/frames/whole.tar") not in found and ("runs", "second/report.html") not in found
    before = dict(zip(pool(home).frame_id, pool(home).image_uri, strict=True))
    shards = members(home, tmp_path / "before")
    erasure = decide(home.place, planned)
    carry_out(home.place, erasure)
    left = [each for each in search_installation(home.place, planned.denied).findings if each.place != "registry"]
    assert left == []
    rows = pool(home)
    assert set(before) - set(rows.frame_id) == {f"{GONE}_{number}" for number in range(3)}
    assert all(open_store(home.place.store).exists(before[frame_id]) for frame_id in rows.frame_id)
    stay = {key: files for key, files in shards.items() if not key.startswith(GONE)}
    assert stay and members(home, tmp_path / "after") == stay, "other frames of rewritten shards keep their bytes"
    for name in (
        "curated/other.json",
        "runs/first/summary.json",
        "runs/second/report.html",
        "store/given/9f9f/frames/frames/whole.tar",
    ):
        assert (home.root / name).exists(), name
    for name in (
        "backup/backup.json",
        "backup/registry.bundle",
        "runs/first/report.html",
        "runs/first/selection",
        "store/given/0a1b",
    ):
        assert not (home.root / name).exists(), name
    assert json.loads((home.root / "store/nights/first/select").read_text())["failed"] == [{"frames": ["other"]}]
    assert scrub(home.place.registry, sample=None, seed=0).is_clean and not audit(home.place.registry).problems
    known = state(read_events(open_book(home.place.registry))).set_index("frame_id")
    assert known.status.to_dict() == {f"{drive_name(1)}_1": "recalled"}, "the rest of its batch is back"


def test_versions_tell_what_is_gone_and_the_current_one_is_another(home, tmp_path):
    planned = home.plan()
    untouched = publish_other(home, tmp_path)
    reproduce(home.place.registry, untouched.tag, tmp_path / "untouched")
    carry_out(home.place, decide(home.place, home.plan()))
    now = resolve(home.place.registry)
    assert now.tag.startswith("data/erasure-") and now.parent == home.tags[-1]
    for version in versions(home.place.registry):
        done = reproduce(home.place.registry, version.tag, tmp_path / version.run)
        assert list(done.erased.values()) == ([3] if version.tag in home.tags else []), version.tag
        assert GONE not in set(read_manifest(tmp_path / version.run / MANIFEST).drive_id)
    for path in (tmp_path / "untouched").rglob("*"):
        other = tmp_path / untouched.run / path.relative_to(tmp_path / "untouched")
        assert path.is_dir() or path.read_bytes() == other.read_bytes(), (
            "a version that never held it is the same to the byte"
        )
    assert lineage(home.place.registry, Asked(drives=(GONE,))).frame_ids == [] and planned.erasure.frames == 3


def publish_other(home: Home, folder: Path):
    from perception.versioning.curated import build_version

    rows = pool(home)
    other = rows[rows.drive_id == drive_name(3)].drop(columns=["source_sha256", "arrived"])
    build_version(other, open_store(home.place.store), None, folder / "source", frames_per_shard=2)
    return publish(home.place.registry, "other", folder / "source")


def test_networks_that_learnt_are_retrained_retired_or_kept(home):
    first, second = home.models
    plan = home.plan()
    assert [each.model.model_sha256 for each in plan.uses.learnt] == [first, second]
    assert "taught by them with labels of kind human" in plan.uses.learnt[0].why
    assert plan.erasure.networks == {first: "retire", second: "retrain"}
    assert set(home.plan("keep").erasure.networks.values()) == {"keep"}
    with pytest.raises(InputError, match="no kept network before it did not"):
        home.plan("retire")
    clean = home.plan("retire", drive_name(2)).erasure  # only the second version holds it
    assert clean.networks == {second: "retire"} and clean.champion == first
    carry_out(home.place, decide(home.place, home.plan("retire", drive_name(2))))
    assert champion(home.place.registry).model_sha256 == first and not audit(home.place.registry).problems
    with pytest.raises(InputError, match="retired by an erasure"):
        decide_network(home.place.registry, second, names=["Ada Lovelace"], reason="by mistake")


def test_a_champion_that_is_to_be_trained_anew_is_retired_once_another_is_released(home):
    erasure = decide(home.place, home.plan(drive=drive_name(2)))
    assert erasure.networks == {home.models[1]: "retrain"}
    carry_out(home.place, erasure)
    assert champion(home.place.registry).model_sha256 == home.models[1], "it stays in service"
    decide_network(home.place.registry, home.models[0], names=["Ada Lovelace"], reason="no better one yet")
    carry_out(home.place, erasure)
    with pytest.raises(InputError, match="retired by an erasure"):
        decide_network(home.place.registry, home.models[1], names=["Ada Lovelace"], reason="by mistake")
    assert scrub(home.place.registry, sample=None, seed=0).is_clean


def test_nothing_is_certified_before_it_is_carried_out_or_while_a_copy_is_left(home):
    planned = home.plan(drive=drive_name(1))
    erasure = decide(home.place, planned)
    with pytest.raises(InputError, match="not carried out yet"):
        certify(home.place, erasure)
    carry_out(home.place, erasure)
    (home.root / "runs" / "left.jpg").write_bytes(smaller(street(4), 0.5))
    with pytest.raises(InputError, match=r"left\.jpg shows it"):
        certify(home.place, erasure)
    carry_out(home.place, erasure)
    certificate = certify(home.place, erasure)
    assert certificate.frames == 3 and certificate.searched["runs"] > 0
    assert denied_by(home.place, erasure) == planned.denied


def test_a_plan_names_what_its_erasure_touches_and_decides_nothing(home):
    planned = home.plan()
    assert planned.erasure.frames == 3 == len(planned.sources) and planned.bytes > 0
    assert planned.erasure.versions == home.tags and planned.erasure.batches == ("batch-1",)
    assert home.plan().erasure.plan_sha256 == planned.erasure.plan_sha256
    assert home.plan(drive=drive_name(1)).erasure.plan_sha256 != planned.erasure.plan_sha256
    with pytest.raises(InputError, match="nothing to erase"):
        home.plan(drive="nobody")


def test_what_was_erased_cannot_be_published_again(home, tmp_path):
    shutil.copytree(home.root / "built" / "night-1", tmp_path / "again")
    decide(home.place, home.plan())
    with pytest.raises(InputError, match="3 of the frames were erased"):
        publish(home.place.registry, "again", tmp_path / "again", parent=home.tags[0])


def test_copies_are_found_by_what_they_show_and_other_pictures_are_none():
    mark = picture_mark(np.asarray(Image.open(io.BytesIO(street(1)))))
    for share in (1.0, 0.5, 2.0):
        copy = picture_mark(np.asarray(Image.open(io.BytesIO(smaller(street(1), share)))))
        assert mark_distances(mark, copy[None])[0] <= COPY_BITS, share
    others = np.array([picture_mark(np.asarray(Image.open(io.BytesIO(street(number))))) for number in range(2, 40)])
    assert mark_distances(mark, others).min() > COPY_BITS


def test_names_leave_json_with_what_is_about_them_and_nothing_else():
    denied = DenyList(frames=frozenset({digest("a_1")}))
    value = {
        "rows": [{"frame_id": "a_1", "n": 1}, {"frame_id": "b", "n": 2}],
        "a_1": 3,
        "said": "near a_1.",
        "gates": [{"frames": ["a_1", "c"]}],
    }
    assert without(value, denied) == {"rows": [{"frame_id": "b", "n": 2}], "said": None, "gates": [{"frames": ["c"]}]}
    assert denied.masked("near a_1, not a_10") == "near erased, not a_10"


def test_places_of_other_fleets_stay_out(home):
    (home.root / "runs" / "registry").mkdir()
    (home.root / "runs" / "registry" / "theirs.txt").write_text(f"{GONE}_0")
    place = replace(home.place, also=())
    found = search_installation(place, home.plan().denied).findings
    assert not any("theirs" in each.name for each in found)


def test_in_a_signed_registry_root_erases_and_another_certifies(home, tmp_path, monkeypatch):
    registry, keys = home.place.registry, Keys(tmp_path).make()
    keys.sign_as(monkeypatch, "owner")
    set_signers(registry, keys.listed(owner="root,decide"))
    asked = {**SIGNED, "networks": "retire", "names": ("owner@example.org",)}
    planned = plan_erasure(home.place, Asked(drives=(drive_name(2),)), **asked)
    for name in ("night", "ada"):
        keys.sign_as(monkeypatch, name)
        with pytest.raises(InputError, match="may not"):
            decide(home.place, planned)
    keys.sign_as(monkeypatch, "owner")
    erasure = decide(home.place, planned)
    carry_out(home.place, erasure)
    assert resolve(registry).tag.startswith("data/erasure-") and champion(registry).model_sha256 == home.models[0]
    assert not audit(registry).problems and main(["verify-history", "--registry", registry]) == 0
    keys.sign_as(monkeypatch, "ada")
    assert certify(home.place, erasure).frames == 3


def test_keys_of_nights_write_nothing_of_an_erasure():
    night = Signer("night", frozenset({"publish"}), "")
    for path in ("entries/2026-11/erasure-0a.json", "datasets/runs/erasure-0a/run.json", "datasets/runs/x/erased.json"):
        assert not night.may("A", path), path
    for path in ("erasures/0a.json", "erasures/0a-certificate-1.json", "erasures/0a-done.json"):
        assert not night.may("A", path), path
    assert night.may("A", "entries/2026-11/night-1.json") and night.may("A", "datasets/runs/x/run.json")
    decides = Signer("ada", frozenset({"decide"}), "")
    assert decides.may("A", "erasures/0a-certificate-1.json") and not decides.may("A", "erasures/0a.json")
