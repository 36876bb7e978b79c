"""Nights in a row on a drop folder and on a bucket that grow, without training: each reads only what has arrived since."""

import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components import resolve
from components.ingest.arrivals import list_arrivals
from components.ingest.sources import Source
from components.stage.night import enter_night
from components.stage.records import NIGHT_VARIABLE, RECORDS_VARIABLE
from perception.errors import InputError
from perception.versioning.growing import open_book
from perception.versioning.growing import read_table as read_book
from perception.versioning.pool import ARRIVALS, FRAMES
from tests.components.intake import untrained_ensemble
from tests.components.test_second_night import Fleet, frames_of, listed
from tests.conftest import S3Server
from tests.perception.data.footage import recordings
from tests.perception.data.footage.test_locations import upload


def record(drop: Path, day: int) -> None:
    """Let videos of two cameras, an MCAP file, a ROS 1 bag and a folder of two JPEGs arrive; every picture shows another number."""
    first = day * 20
    for folder in ("cameras", f"pictures_{day}"):
        (drop / folder).mkdir(parents=True, exist_ok=True)
    for camera in ("front", "left"):
        recordings.write_video(drop / "cameras" / f"{camera}_{day}.mp4", 3, first=first + 4 * (camera == "left"))
    recordings.write_mcap(
        drop / f"m{day}.mcap", recordings.drive(recordings.types(2), 2, first=first + 8, kinds=("jpeg", "raw"))
    )
    bag = recordings.drive(recordings.types(1), 2, first=first + 10, kinds=("raw",))
    recordings.write_ros1(drop / f"b{day}.bag", bag)
    for number in range(2):
        (drop / f"pictures_{day}" / f"{number}.jpg").write_bytes(recordings.jpeg(first + 12 + number))


def names(day: int) -> list[str]:
    """Return the objects of a day."""
    pictures = [f"pictures_{day}/{number}.jpg" for number in range(2)]
    return sorted([f"b{day}.bag", f"cameras/front_{day}.mp4", f"cameras/left_{day}.mp4", f"m{day}.mcap", *pictures])


FRAMES_A_DAY = 3 + 3 + 4 + 2 + 2


class Drops(Fleet):
    """A fleet whose recordings lie in a folder or a bucket, and annotators who send drops."""

    def __init__(self, root: Path, path: str, **footage: object) -> None:
        self.root, self.registry, self.prefix = root, str(root / "registry.git"), ""
        self.told = {}
        (root / "drops").mkdir()
        untrained_ensemble(root / "ensemble")
        fleet = {"format": "footage", "path": path, "split": "pool", "labels": "none", "domain": "real"}
        drops = {"format": "label_drop", "path": str(root / "drops"), "split": "train", "labels": "drop"}
        self.sources = {"fleet": fleet | {"footage": footage}, "drops": drops | {"domain": "real"}}

    def of_object(self, name: str) -> dict[str, int]:
        """Return how many rows the registry has of an object, by outcome."""
        rows = read_book(open_book(self.registry), ARRIVALS)
        return dict(Counter(rows.outcome[rows.object == name]))


def read_listing(place: Path) -> pd.DataFrame:
    return pd.read_parquet(place / "arrivals" / "0" / "listing.parquet")


def test_tomorrow_only_what_has_arrived_since_is_read(tmp_path: Path) -> None:
    record(tmp_path / "footage", 0)
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    first = fleet.night("first")
    assert sorted(listed(first)) == names(0)
    frames = frames_of(first)
    assert read_listing(first).signature.str.fullmatch("[0-9]+:[0-9]+").all()
    assert frames.drive_id.value_counts().to_dict() == {"cameras": 6, "m0": 4, "b0": 2, "pictures_0": 2}
    assert frames.latitude.notna().sum() == 6 and frames.source_sha256.is_unique
    record(tmp_path / "footage", 1)
    second = fleet.night("second")
    assert sorted(listed(second)) == names(1)
    assert fleet.outcomes() == {"new": 2 * FRAMES_A_DAY}
    chosen = set(pd.read_parquet(first / "selection" / "selected.parquet").frame_id)
    assert set(frames_of(second).frame_id) == set(read_book(open_book(fleet.registry), FRAMES).frame_id) - chosen


@pytest.mark.s3
def test_a_bucket_whose_folders_are_nights_gives_each_night_its_own(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    record(tmp_path / "today", 0)
    prefix = upload(s3_server, tmp_path / "today", "fleet/2026-11-30/cars").removesuffix("2026-11-30/cars/")
    upload(s3_server, tmp_path / "today", "fleet/2026-12-01/cars")
    fleet = Drops(tmp_path, prefix + "{night}/cars")
    first = fleet.night("first")
    assert sorted(listed(first)) == [f"2026-11-30/cars/{name}" for name in names(0)]
    assert read_listing(first).signature.str.fullmatch("[0-9]+:[0-9a-f-]+").all(), "size and ETag"
    assert set(frames_of(first).drive_id) == {
        f"2026-11-30/cars/{name}" for name in ("b0", "m0", "cameras", "pictures_0")
    }
    record(tmp_path / "more", 1)
    upload(s3_server, tmp_path / "more", "fleet/2026-11-30/cars")
    second = fleet.night("second")
    assert sorted(listed(second)) == [f"2026-11-30/cars/{name}" for name in names(1)]
    fleet.sources["fleet"]["path"] = prefix
    assert len(listed(fleet.night("all"))) == len(names(0)), "the other night's"
    told = {"skipped": 1}  # the MCAP file and the bag are one drive then, whose camera's clock jumps
    assert fleet.outcomes() == {"new": 2 * FRAMES_A_DAY, "repeated": FRAMES_A_DAY, **told}


def test_a_night_whose_folder_is_not_there_yet_lists_nothing(tmp_path: Path) -> None:
    source = Source(format="footage", path=f"{tmp_path}/{{night}}/cars", split="pool", labels="none", domain="real")
    assert len(list_arrivals("fleet", source, 0, (8, 12), "2026-11-30")) == 0
    (tmp_path / "2026-12-01" / "cars").mkdir(parents=True)
    for name in ("a.mp4", "0.jpg"):
        (tmp_path / "2026-12-01" / "cars" / name).write_bytes(b"")
    rows = list_arrivals("fleet", source, 0, (8, 12), "2026-12-01")
    assert rows[["object", "drive_id"]].to_numpy().tolist() == [
        ["2026-12-01/cars/0.jpg", "2026-12-01/cars"],
        ["2026-12-01/cars/a.mp4", "2026-12-01/cars/a"],
    ]
    rule = "may name {night} for format footage alone, below a folder or a bucket"
    for wrong in ({"path": "s3://{night}/cars"}, {"path": "/{night}"}, {"format": "viper"}):
        with pytest.raises(InputError, match=rule):
            replace(source, **wrong)


def test_a_night_on_a_cluster_keeps_the_day_on_which_its_first_step_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NIGHT_VARIABLE, "run-1")
    begun = datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp()
    monkeypatch.setattr(time, "time", lambda: begun)
    monkeypatch.setenv(RECORDS_VARIABLE, "")
    enter_night({"store": str(tmp_path), "profile": "nightly", "hours": 8.0, "watch_retries": 1})
    assert resolve._day_of_beginning() == "2026-11-30"


def test_another_privacy_function_makes_no_old_footage_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "night_blur.py").write_text("__version__ = '2'\ndef blur(image):\n    return 255 - image\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    drop = tmp_path / "footage" / "d"
    drop.mkdir(parents=True)
    recordings.write_video(drop / "a.mp4", 3)
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    fleet.night("first", budget_frames=1)
    fleet.sources["fleet"]["footage"] = {"privacy": "night_blur:blur"}
    (drop / "copy.mp4").write_bytes((drop / "a.mp4").read_bytes())
    (drop / "new.jpg").write_bytes(recordings.jpeg(7))
    second = fleet.night("second", budget_frames=1)
    assert sorted(listed(second)) == ["d/copy.mp4", "d/new.jpg"]
    assert fleet.outcomes() == {"new": 4, "repeated": 3}
    assert frames_of(second).privacy.dropna().tolist() == ["night_blur:blur 2"]


def test_a_camera_that_stands_still_gives_one_frame(tmp_path: Path) -> None:
    drop = tmp_path / "footage" / "d"
    drop.mkdir(parents=True)
    still = [*recordings.drive(recordings.types(1), 1, kinds=("raw",))]
    recordings.write_ros1(drop / "b.bag", [(topic, message, time_ns + 1) for topic, message, time_ns in still * 3])
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    assert len(frames_of(fleet.night("first", budget_frames=1))) == 1
    recordings.write_mcap(drop / "m.mcap", recordings.drive(recordings.types(2), 2, kinds=("raw",)))
    fleet.night("second", budget_frames=1)
    assert fleet.of_object("d/b.bag") == {"new": 1, "repeated": 2, "skipped": 1}
    assert fleet.of_object("d/m.mcap") == {"new": 1, "repeated": 1}


def test_the_same_recording_is_the_same_frames_and_one_name_with_other_bytes_is_told(tmp_path: Path) -> None:
    drop = tmp_path / "footage" / "d"
    drop.mkdir(parents=True)
    recordings.write_video(drop / "a.mp4", 3)
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    fleet.night("first", budget_frames=1)
    (drop / "copy.mp4").write_bytes((drop / "a.mp4").read_bytes())
    recordings.write_video(drop / "a.mp4", 5, first=9)
    second = fleet.night("second", budget_frames=1)
    assert fleet.of_object("d/copy.mp4") == {"repeated": 3}
    assert fleet.of_object("d/a.mp4") == {"new": 5, "clash": 3}, "what lies beyond the first recording's end is new"
    rejected = pd.read_parquet(second / "frames" / "rejected.parquet")
    assert rejected.rule.str.contains("has other bytes").all() and len(rejected) == 3
    assert listed(fleet.night("third", budget_frames=1)) == []


def test_what_was_damaged_or_skipped_is_not_read_again(tmp_path: Path) -> None:
    drop = tmp_path / "footage" / "d"
    drop.mkdir(parents=True)
    recordings.write_video(drop / "a.mp4", 8)
    recordings.write_video(drop / "b.mp4", 8, first=40)
    (drop / "b.mp4").write_bytes((drop / "b.mp4").read_bytes()[:-300])
    (drop / "broken.mp4").write_bytes(b"no video")
    (drop / "0.jpg").write_bytes(recordings.jpeg(0))
    fleet = Drops(tmp_path, str(tmp_path / "footage"), sampling={"every_s": 0.2})
    fleet.sources["fleet"]["max_rejected_fraction"] = 0.5
    fleet.night("first", budget_frames=1)
    assert fleet.of_object("d/a.mp4") == {"new": 4, "skipped": 1}
    assert fleet.of_object("d/b.mp4") == {"new": 3, "rejected": 2, "skipped": 1}
    assert fleet.of_object("d/broken.mp4") == {"rejected": 1} and fleet.of_object("d/0.jpg") == {"skipped": 1}
    assert listed(fleet.night("second", budget_frames=1)) == []
    recordings.write_video(drop / "broken.mp4", 4, first=20)
    assert listed(fleet.night("third", budget_frames=1)) == ["d/broken.mp4"]
    assert fleet.of_object("d/broken.mp4") == {"rejected": 1, "new": 2, "skipped": 1}


def test_a_line_of_a_folders_table_makes_its_own_picture_new_and_no_other(tmp_path: Path) -> None:
    drop = tmp_path / "footage" / "d"
    drop.mkdir(parents=True)
    for number in range(4):
        (drop / f"{number}.jpg").write_bytes(recordings.jpeg(number))
    (drop / "frames.csv").write_text("file,weather\n0.jpg,rain\n1.jpg,hail\n")
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    fleet.sources["fleet"]["max_rejected_fraction"] = 0.5
    first = fleet.night("first", budget_frames=2)
    assert len(frames_of(first)) == 3 and fleet.of_object("d/1.jpg") == {"rejected": 1}
    (drop / "9.jpg").write_bytes(recordings.jpeg(9))
    (drop / "frames.csv").write_text("file,weather\n0.jpg,rain\n1.jpg,snow\n9.jpg,fog\n")
    second = fleet.night("second", budget_frames=2)
    assert listed(second) == ["d/1.jpg", "d/9.jpg"]
    frames = frames_of(second)
    weathers = frames.weather[frames.frame_id.str.contains("d_1-|d_9-")]
    assert sorted(weathers) == ["fog", "snow"]


def test_the_label_of_a_frame_out_of_a_video_comes_back_to_it(tmp_path: Path) -> None:
    record(tmp_path / "footage", 0)
    fleet = Drops(tmp_path, str(tmp_path / "footage"))
    first = fleet.night("first", budget_frames=FRAMES_A_DAY)
    batch = first / "selection" / "annotation"
    frames = pd.read_parquet(batch / "manifest.parquet").set_index("frame_id")
    drop = batch.rename(tmp_path / "drops" / "one")
    (drop / "labels").mkdir()
    label = np.full((recordings.HEIGHT, recordings.WIDTH), 13, np.uint8)
    for frame_id in frames.index:
        Image.fromarray(label).save(drop / "labels" / f"{frame_id}.png")
    (drop / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    (tmp_path / "footage" / "pictures_0" / "another.jpg").write_bytes(recordings.jpeg(99))
    fleet.night("second")
    assert fleet.outcomes() == {"new": FRAMES_A_DAY + 1, "relabelled": FRAMES_A_DAY}
    assert (fleet.state().status[frames.index] == "accepted").all()
    rows = read_book(open_book(fleet.registry), FRAMES).drop_duplicates("frame_id", keep="last").set_index("frame_id")
    rows = rows.loc[frames.index]
    assert (rows.label_source == "human").all() and rows.latitude.equals(frames.latitude), "what is known of it stays"
