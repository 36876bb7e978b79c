"""The data part of nights in a row, without training: what arrives, repeats, waits, is labelled, comes back wrong."""

import json
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components import curate, gather, ingest, publish, resolve, select
from components.stage.declaration import Paths
from components.stage.learning import fresh_evidence, shard_frames
from components.stage.parameters import build_parameters
from perception.errors import InputError
from perception.quality.gate import judge_folders
from perception.reporting.night_row import turned_away
from perception.versioning.asked import Asked
from perception.versioning.decisions import promote
from perception.versioning.erasing.carry_out import carry_out, decide
from perception.versioning.erasing.certificate import certify
from perception.versioning.erasing.plan import Installation, plan_erasure
from perception.versioning.growing import open_book
from perception.versioning.growing import read_table as read_book
from perception.versioning.ledger import read_events, recall, state
from perception.versioning.nights import Night, Used
from perception.versioning.pool import ARRIVALS, PoolLimits, alive
from perception.versioning.replay import registry_as_of
from tests.components.intake import untrained_ensemble
from tests.footage import write_footage
from tests.perception.versioning.heads import head_of

HEIGHT, WIDTH = 32, 64


class Fleet:
    """A fleet whose footage lies in a folder, and annotators who send drops; each night is run up to its publication."""

    def __init__(self, root: Path, labels: str) -> None:
        self.root, self.registry, self.prefix = root, str(root / "registry.git"), ""
        self.told: dict[str, dict[str, Any]] = {}  # by night: what its stages told
        write_footage(root / "footage", 3, 4, 3, HEIGHT, WIDTH)
        (root / "drops").mkdir()
        untrained_ensemble(root / "ensemble")
        fleet = {"format": "scenes_folder", "path": str(root / "footage"), "split": "pool", "labels": labels}
        drops = {"format": "label_drop", "path": str(root / "drops"), "split": "train", "labels": "drop"}
        self.sources = {"fleet": fleet | {"domain": "real"}, "drops": drops | {"domain": "real"}}

    def night(self, name: str, *, budget_frames: int = 4, fresh_share: float = 0.25, publishes: bool = True) -> Path:
        """Run a night's stages as far as publish; return its folder."""
        given: dict[str, Any] = {"registry": self.registry, "remote": str(self.root / "remote"), "run": name, "seed": 1}
        given |= {"store": str(self.root / "store"), "sources": self.sources, "taxonomy": "cityscapes19", "batch": 0}
        given |= {"height_px": HEIGHT, "width_px": WIDTH, "batch_count": 1, "night_date": "2026-11-30"}
        given |= {"budget_frames": budget_frames, "fresh_share": fresh_share}
        place = self.root / f"{self.prefix}{name}"
        self._run(resolve, given, place, {}, ("base", "arrivals"))
        self._run(ingest, given, place, {"arrivals": "arrivals/0"}, ("arrived",))
        self._run(gather, given, place, {"arrived": "arrived", "base": "base"}, ("frames",))
        self._score(place)
        taken = {"frames": "frames", "base": "base", "scores": "scores", "ensemble": "../ensemble"}
        self._run(select, given, place, taken, ("selection",))
        taken = {"frames": "frames", "base": "base", "selection": "selection"}
        self._run(curate, given, place, taken, ("curated",))
        if publishes:
            self._run(publish, given, place, {"frames": "frames", "base": "base", "curated": "curated"}, ("version",))
        return place

    def repeat(self, name: str, registry: Path) -> Path:
        """Run a night again in a folder beside it, on another registry, up to what it curates."""
        again = Fleet.__new__(Fleet)
        again.__dict__ = {**self.__dict__, "registry": str(registry), "told": {}, "prefix": "again-"}
        return again.night(name, publishes=False)

    def _run(
        self, stage: Any, given: dict[str, Any], place: Path, takes: dict[str, str], gives: tuple[str, ...]
    ) -> None:
        for port in gives:
            (place / port).mkdir(parents=True)
        mine = {name: value for name, value in given.items() if name in stage.STAGE.parameters.__dataclass_fields__}
        inputs = Paths({port: (place / folder,) for port, folder in takes.items()})
        outputs = Paths({port: (place / port,) for port in gives})
        told = stage.run(inputs, outputs, build_parameters(stage.STAGE.parameters, mine, stage.STAGE.name))
        self.told[given["run"]] = {**self.told.get(given["run"], {}), **(told or {})}

    def _score(self, place: Path) -> None:
        pool = shard_frames(Paths({"frames": (place / "frames",), "base": (place / "base",)}), 0, 1)
        generator = np.random.default_rng(0)
        scores = pd.DataFrame({"frame_id": pool.frame_id, "score": generator.random(len(pool))})
        scores["embedding"] = list(generator.normal(size=(len(pool), 4)).astype(np.float32))
        scores["class_share"] = list(generator.dirichlet(np.ones(19), len(pool)).astype(np.float32))
        scores = scores.assign(model_sha256="0" * 64, measure="ensemble_entropy", reduction="mean")
        (place / "scores").mkdir()
        scores.to_parquet(place / "scores" / "scores.parquet", index=False)

    def state(self) -> pd.DataFrame:
        return state(read_events(open_book(self.registry))).set_index("frame_id")

    def outcomes(self) -> dict[str, int]:
        found: dict[str, int] = read_book(open_book(self.registry), ARRIVALS).outcome.value_counts().to_dict()
        return found

    def add(self, name: str, like: str, drive: str, whiter: bool = False) -> None:
        """Let another frame arrive: the bytes of a known one or, whiter, an image of its own; nothing else is known of it."""
        from PIL import Image

        place, table = self.root / "footage", self.root / "footage" / "frames.csv"
        for part, suffix in (("images", "jpg"), ("labels", "png"), ("instances", "png")):
            (place / part / f"{name}.{suffix}").write_bytes((place / part / f"{like}.{suffix}").read_bytes())
        if whiter:
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 200, np.uint8)).save(place / "images" / f"{name}.jpg")
        rows = pd.read_csv(table)
        new = dict.fromkeys(rows) | {"frame_id": name, "drive_id": drive}
        pd.concat([rows, pd.DataFrame([new])], ignore_index=True).to_csv(table, index=False)


def frames_of(place: Path) -> pd.DataFrame:
    return pd.read_parquet(place / "frames" / "manifest.parquet")


def listed(place: Path) -> list[str]:
    names: list[str] = pd.read_parquet(place / "arrivals" / "0" / "listing.parquet").object.tolist()
    return names


def test_the_next_night_reads_what_is_new_and_the_same_bytes_are_one_frame(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "oracle")
    first = fleet.night("first")
    assert len(listed(first)) == 12
    frame_id = frames_of(first).frame_id[0]
    fleet.add("copy", frame_id, "other_drive")
    fleet.add("bare", frame_id, "other_drive", whiter=True)
    second = fleet.night("second")
    assert sorted(listed(second)) == ["bare", "copy"]
    assert fleet.outcomes() == {"new": 13, "repeated": 1}
    bare = frames_of(second).set_index("frame_id").loc["bare"]
    assert pd.isna(bare[["timestamp_utc", "camera", "weather", "time_of_day"]]).all()
    chosen = pd.read_parquet(first / "selection" / "selected.parquet")
    waits = set(frames_of(first).frame_id) - set(chosen.frame_id)
    assert set(frames_of(second).query("split == 'pool'").frame_id) == waits | {"bare"}


def test_a_frame_drawn_uniformly_judges_the_night_of_its_label_and_teaches_the_one_after(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "oracle")
    first = fleet.night("first")
    chosen = pd.read_parquet(first / "selection" / "selected.parquet")
    (fresh,) = chosen.frame_id[chosen.fresh]
    batch = first / "selection" / "annotation"
    assert pd.read_csv(batch / "frames.csv").columns.tolist() == ["frame_id", "file"]
    assert not {"fresh", "rank", "reason", "score"} & set(pd.read_parquet(batch / "manifest.parquet"))
    tasks = [task["data"] for task in json.loads((batch / "prelabels" / "label_studio.json").read_text())]
    assert [task["frame_id"] for task in tasks] == sorted(chosen.frame_id), "no place tells which one was drawn"
    assert all(task.keys() == {"image", "frame_id"} for task in tasks)
    version = pd.read_parquet(first / "curated" / "version" / "manifest.parquet")
    assert set(version.frame_id) == set(chosen.frame_id) - {fresh}
    assert fleet.state().status.to_dict() == {name: "open" if name == fresh else "accepted" for name in chosen.frame_id}
    second = fleet.night("second")
    judges = fresh_evidence(Paths({"frames": (second / "frames",)}))
    assert judges.frame_id.tolist() == [fresh] and judges.label_source.tolist() == ["human"]
    version = pd.read_parquet(second / "curated" / "version" / "manifest.parquet")
    assert fresh not in set(version.frame_id) and set(chosen.frame_id) - {fresh} <= set(version.frame_id)
    assert fleet.state().status[fresh] == "accepted" and fleet.state().fresh[fresh]
    third = fleet.night("third")
    assert fresh not in set(fresh_evidence(Paths({"frames": (third / "frames",)})).frame_id)
    version = pd.read_parquet(third / "curated" / "version" / "manifest.parquet")
    assert set(chosen.frame_id) <= set(version.frame_id), "no label is lost"


def test_frames_at_annotators_are_not_chosen_again_and_one_wrong_label_stops_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "none")
    batch = fleet.night("first") / "selection" / "annotation"
    ids = pd.read_csv(batch / "frames.csv").frame_id.tolist()
    drop = batch.rename(tmp_path / "drops" / "one")
    (drop / "labels").mkdir()
    (drop / "labels" / f"{ids[0]}.png").write_bytes((tmp_path / "footage" / "labels" / f"{ids[0]}.png").read_bytes())
    (drop / "labels" / f"{ids[1]}.png").write_bytes(b"no image")
    (drop / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    second = fleet.night("second")
    again = pd.read_parquet(second / "selection" / "selected.parquet").frame_id
    assert not set(again) & set(ids)
    assert fleet.state().status[ids].tolist() == ["accepted", "rejected", "open", "open"]
    corrections = pd.read_csv(second / "frames" / "corrections.csv")
    assert corrections[["who", "frame_id"]].to_numpy().tolist() == [["Ada", ids[1]]]
    (version,) = pd.read_parquet(second / "curated" / "version" / "manifest.parquet").to_dict("records")
    assert version["frame_id"] == ids[0] and version["label_drop"].endswith("/Ada/2026-02-01")


def test_a_frame_whose_late_label_goes_back_after_its_recall_is_not_chosen_on_that_night(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "none")
    batch = fleet.night("first") / "selection" / "annotation"
    late = pd.read_csv(batch / "frames.csv").frame_id[0]
    recall(fleet.registry, who="Ada", why="lost", now=datetime(2026, 11, 30, 12, tzinfo=UTC), frames=[late])
    drop = batch.rename(tmp_path / "drops" / "one")
    (drop / "labels").mkdir()
    (drop / "labels" / f"{late}.png").write_bytes(b"no image")
    (drop / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    second = fleet.night("second", budget_frames=12)
    assert late not in set(pd.read_parquet(second / "selection" / "selected.parquet").frame_id)
    assert fleet.state().status[late] == "rejected"


def returned(fleet: Fleet, batch: Path, ids: list[str], date: str) -> None:
    """Let an annotator send the labels of some frames of a batch."""
    drop = fleet.root / "drops" / date
    shutil.copytree(batch, drop)
    (drop / "labels").mkdir()
    for frame_id in ids:
        (drop / "labels" / f"{frame_id}.png").write_bytes(
            (fleet.root / "footage" / "labels" / f"{frame_id}.png").read_bytes()
        )
    (drop / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": date}))


def test_labels_of_a_batch_whose_night_was_refused_are_told_and_left_out(tmp_path: Path) -> None:
    """Nobody handed these frames out, as far as the registry knows: else any drop could label any frame."""
    fleet = Fleet(tmp_path, "none")
    batch = fleet.night("refused", publishes=False) / "selection" / "annotation"
    ids = pd.read_csv(batch / "frames.csv").frame_id.tolist()
    returned(fleet, batch, ids[:2], "2026-02-01")
    told = pd.read_csv(fleet.night("second") / "frames" / "corrections.csv")
    assert len(told) == 2 and told.why.str.contains("no batch holds this frame").all()
    assert "accepted" not in set(fleet.state().status)


def test_a_night_whose_pool_is_empty_but_for_returned_labels_is_a_good_night(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "none")
    batch = fleet.night("first", budget_frames=12) / "selection" / "annotation"
    ids = pd.read_csv(batch / "frames.csv").frame_id.tolist()
    returned(fleet, batch, ids[:5], "2026-02-01")
    second = fleet.night("second")
    version = pd.read_parquet(second / "curated" / "version" / "manifest.parquet")
    assert set(version.frame_id) == set(ids[:5])
    assert not len(pd.read_parquet(second / "selection" / "selected.parquet"))
    verdict = judge_folders([second / "selection"], "select", {}, applies_to=("smoke",))
    assert verdict.decision != "refuse", verdict.failed
    assert fleet.state().status[ids].tolist() == ["accepted"] * 5 + ["open"] * 7


def test_what_a_night_that_never_published_read_is_new_for_the_next(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "oracle")
    refused = fleet.night("refused", publishes=False)
    after = fleet.night("after")
    assert listed(after) == listed(refused) and len(listed(after)) == 12
    assert fleet.outcomes() == {"new": 12}


def test_a_night_is_repeated_on_its_own_frames_whatever_has_happened_since(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "oracle")
    first = fleet.night("first")
    frame_id = frames_of(first).frame_id[0]
    fleet.add("bare", frame_id, "other_drive", whiter=True)
    second = fleet.night("second")
    tag = json.loads((second / "version" / "version.json").read_text())["tag"]
    promote(fleet.registry, tag, manifest_sha256=tag[-8:], names=["Ada"], reason="looked at it")
    fleet.add("later", "bare", "a_third_drive")
    fleet.night("third")
    used = Used(arrivals=0, labels=0, erasures=0, parameters="p", code="c")
    row = {"date": date(2026, 11, 30), "profile": "smoke", "base": None, "used": used, "status": "done"}
    before = head_of(Path(fleet.registry))
    for name, place in (("first", first), ("second", second)):
        night = Night(**row, night=name, registry_commit=fleet.told[name]["registry_commit"])
        registry_as_of(fleet.registry, night, tmp_path / f"{name}.git")
        again = fleet.repeat(name, tmp_path / f"{name}.git")
        for table in (
            "base/manifest",
            "frames/manifest",
            "selection/selected",
            "curated/version/manifest",
            "curated/events",
        ):
            assert (again / f"{table}.parquet").read_bytes() == (place / f"{table}.parquet").read_bytes(), table
    assert head_of(Path(fleet.registry)) == before
    gone = tmp_path / "footage" / "frames.csv"
    rows = pd.read_csv(gone)
    rows[rows.frame_id != "bare"].to_csv(gone, index=False)
    for path in (tmp_path / "footage").glob("*/bare.*"):
        path.unlink()
    shutil.rmtree(tmp_path / "again-second")
    with pytest.raises(
        InputError, match="source 'fleet': 'bare' was read by this night, and 1 of its 1 files are gone"
    ):
        fleet.repeat("second", tmp_path / "second.git")


def test_frames_may_wait_for_a_century_and_no_longer() -> None:
    given = {"sources": {}, "registry": "r", "store": "s", "taxonomy": "cityscapes19", "seed": 1}
    at_most = build_parameters(gather.STAGE.parameters, given | {"max_age_days": 36_500}, "gather").max_age_days
    empty = pd.DataFrame(
        {
            "frame_id": ["old"],
            "source_sha256": ["0"],
            "label_source": ["none"],
            "arrived": pd.to_datetime(["1999-01-01"]),
        }
    )
    waits = alive(empty, pd.DataFrame({"frame_id": [], "status": []}), PoolLimits(at_most, 9), date(2000, 1, 1))
    assert waits.frames.frame_id.tolist() == ["old"]
    with pytest.raises(InputError, match="max_age_days = 36501: must be at most 36500"):
        build_parameters(gather.STAGE.parameters, given | {"max_age_days": 36_501}, "gather")


def test_a_test_set_whose_frames_changed_is_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "given")
    fleet.sources["fleet"]["split"] = "test"
    pool = fleet.sources["fleet"] | {"split": "pool", "labels": "oracle", "path": str(tmp_path / "pool")}
    write_footage(tmp_path / "pool", 9, 3, 3, HEIGHT, WIDTH)
    for name in ("images", "labels", "instances"):
        for path in (tmp_path / "pool" / name).iterdir():
            path.rename(path.with_name(f"p_{path.name}"))
    rows = pd.read_csv(tmp_path / "pool" / "frames.csv")
    rows.assign(frame_id="p_" + rows.frame_id, drive_id="p_" + rows.drive_id).to_csv(
        tmp_path / "pool" / "frames.csv", index=False
    )
    fleet.sources["pool"] = pool
    fleet.night("first")
    write_footage(tmp_path / "footage", 4, 4, 3, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="12 of its files have other bytes than the frames of their names"):
        fleet.night("second")


def test_the_next_nights_turn_an_erased_drive_away_by_name_and_by_bytes(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "oracle")
    rows = frames_of(fleet.night("first"))
    drive = rows.drive_id.min()
    fleet.add("renamed", rows.frame_id[rows.drive_id == drive].iloc[0], "other_drive")
    place = Installation(
        registry=fleet.registry, store=str(tmp_path / "store"), kept=Path(f"{tmp_path / 'store'}.kept")
    )
    signed = {"names": ["Ada", "Bob"], "reason": "request 7", "now": datetime(2026, 12, 1, tzinfo=UTC)}
    erasure = decide(place, plan_erasure(place, Asked(drives=(drive,)), **signed))
    between = fleet.night("between", publishes=False)
    assert drive not in set(frames_of(between).drive_id), "what is decided is obeyed before it is carried out"
    carry_out(place, erasure)
    count, after = int((rows.drive_id == drive).sum()), fleet.night("after")
    assert {drive, "other_drive"}.isdisjoint(frames_of(after).drive_id)
    assert turned_away(fleet.told["after"]) == count + 1
    fleet.night("later")
    assert turned_away(fleet.told["later"]) == count, "bytes are read once, names never"
    assert certify(place, erasure).frames == count
