"""What once went wrong in the second week, sentence by sentence, with frames of which nothing is known but their drive."""

import dataclasses
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.scale.data_nights import arrive, data_night, label, night_settings, picture
from perception.data.manifest import COLUMNS
from perception.versioning.decisions import Stale, promote
from perception.versioning.growing import open_book, read_table
from perception.versioning.ledger import read_events, state
from perception.versioning.nights import read_nights
from perception.versioning.pool import FRAMES
from perception.versioning.records import Version
from perception.versioning.registry import resolve
from perception.versioning.upkeep import versions
from pipelines.local.annotator import NAME, send
from pipelines.local.nights import open_night

FIRST_FRAMES = {f"a{number}": picture(number) for number in range(5)} | {
    f"b{number}": picture(9 + number) for number in range(5)
}
UNKNOWN = ("timestamp_utc", "camera", "time_of_day", "weather", "scene")


@dataclasses.dataclass
class Story:
    """Nights on one registry, and what they told."""

    root: Path
    told: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def registry(self) -> Path:
        return self.root / "runs" / "registry" / "smoke.git"

    def night(self, name: str, day: str, *more: str) -> None:
        asked = ["select.budget_frames=4", "select.fresh_share=0.25", *more]
        self.told[name] = data_night(self.root / "runs" / name, night_settings(self.root, name, day, asked))

    def table(self, night: str, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.root / "runs" / night / name)

    def asked(self, night: str) -> list[str]:
        return self.table(night, "selection/selected.parquet").frame_id.tolist()

    def version(self, night: str) -> Version:
        tag = json.loads((self.root / "runs" / night / "version" / "version.json").read_text())["tag"]
        found = resolve(self.registry, tag)
        assert found is not None
        return found

    def promote(self, night: str) -> None:
        version = self.version(night)
        promote(
            self.registry,
            version.tag,
            manifest_sha256=version.manifest_sha256,
            names=["Ada"],
            reason="looked",
        )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Four nights: the first; one with new footage and labels; one with nothing new; one on a base that is no longer current."""
    story = Story(tmp_path_factory.mktemp("story"))
    (story.root / "drops").mkdir()
    arrive(story.root / "footage", "one", FIRST_FRAMES)
    story.night("first", "2026-11-30")
    story.promote("first")
    arrive(story.root / "footage", "two", {f"c{n}": picture(20 + n) for n in range(3)} | {"again": FIRST_FRAMES["a0"]})
    first, second, third, fourth = story.asked("first")
    labels = {first: label(), second: label(), third: label(), fourth: b"no image"}
    batch = story.root / "runs" / "first" / "selection" / "annotation"
    send(batch, labels, date(2026, 2, 1), story.root / "drops" / "one")
    story.night("second", "2026-12-01")
    story.promote("second")
    story.night("third", "2026-12-02")
    arrive(story.root / "footage", "four", {f"d{number}": picture(30 + number) for number in range(2)})
    story.night("fourth", "2026-12-03", f"resolve.revision={story.version('first').tag}")
    return story


def test_new_footage_in_the_same_folder_is_read(story: Story) -> None:
    listing = story.table("second", "arrivals/0/listing.parquet")
    assert listing.object[listing.source == "fleet"].tolist() == ["two.tar"]


def test_after_a_promotion_the_next_night_starts_from_it(story: Story, tmp_path: Path) -> None:
    assert [story.told[name]["base"] for name in ("first", "second", "third")] == [
        None, story.version("first").tag, story.version("second").tag,
    ]  # fmt: skip
    done, _ = open_night(tmp_path, "smoke", "", datetime(2026, 11, 30, tzinfo=UTC))
    (done / "summary.json").write_text('{"status": "done"}')
    assert open_night(tmp_path, "smoke", "", datetime(2026, 11, 30, tzinfo=UTC))[0] != done


def test_frames_without_a_label_wait_for_the_next_night(story: Story) -> None:
    pool = story.table("second", "frames/manifest.parquet").query("split == 'pool'")
    assert set(pool.frame_id) == (set(FIRST_FRAMES) - set(story.asked("first"))) | {"c0", "c1", "c2"}


def test_a_frame_that_came_twice_is_one_frame(story: Story) -> None:
    told = story.told["second"]
    assert (told["new"], told["repeated"], told["clash"]) == (3, 1, 0)
    frames = read_table(open_book(story.registry), FRAMES)
    assert frames[frames.label_source == "none"].source_sha256.is_unique and "again" not in set(frames.frame_id)


def test_frames_at_annotators_are_not_chosen_again(story: Story) -> None:
    asked = [frame_id for night in ("first", "second", "fourth") for frame_id in story.asked(night)]
    assert len(asked) == len(set(asked)) == 12
    batches = {night: json.loads((story.root / "runs" / night / "selection" / "selection.json").read_text())["annotation_batch"]
               for night in ("first", "second", "fourth")}  # fmt: skip
    opened = read_events(open_book(story.registry)).query("event == 'opened'")
    assert {night: sorted(opened.frame_id[opened.batch == batch]) for night, batch in batches.items()} == {
        night: sorted(story.asked(night)) for night in batches
    }


def test_one_wrong_label_of_four_stops_nothing_and_goes_back_to_its_annotator(story: Story) -> None:
    *sound, wrong = story.asked("first")
    known = state(read_events(open_book(story.registry))).set_index("frame_id")
    assert known.status[[*sound, wrong]].tolist() == ["accepted"] * 3 + ["rejected"]
    corrections = pd.read_csv(story.root / "runs" / "second" / "frames" / "corrections.csv")
    assert corrections[["who", "frame_id"]].to_numpy().tolist() == [[NAME, wrong]]


def test_labelled_frames_of_which_nothing_is_known_are_written_and_a_column_of_nulls_keeps_its_type(
    story: Story,
) -> None:
    path = story.root / "runs" / "second" / "curated" / "version" / "manifest.parquet"
    train = pd.read_parquet(path).query("split == 'train'")
    assert set(train.frame_id) == set(story.asked("first")[:3])
    assert train[list(UNKNOWN)].isna().all().all()
    written, declared = pq.read_schema(path), {field.name: field.type for field in COLUMNS}
    assert {name: written.field(name).type for name in UNKNOWN} == {name: declared[name] for name in UNKNOWN}
    recorded = read_table(open_book(story.registry), FRAMES).set_index("frame_id").loc[story.asked("first")]
    assert recorded[list(UNKNOWN)].isna().all().all() and recorded.timestamp_utc.dtype.kind == "M"


def test_a_night_with_nothing_new_publishes_nothing(story: Story) -> None:
    told = story.told["third"]
    assert told["news"] == "nothing"
    assert (told["human_labels"], told["at_annotators"], told["overdue"]) == (3, 5, 0), "as the second night left it"
    assert (story.told["second"]["human_labels"], story.told["second"]["at_annotators"]) == (3, 5)
    assert not (story.root / "runs" / "third" / "version").exists()
    assert [version.run for version in versions(str(story.registry))] == ["first", "second", "fourth"]


def test_a_stale_night_is_not_promoted_over_a_newer_release(story: Story) -> None:
    stale = story.version("fourth")
    assert stale.parent == story.version("first").tag
    with pytest.raises(Stale, match=story.version("second").tag):
        story.promote("fourth")
    current = resolve(story.registry)
    assert current == story.version("second"), "its three labels are still released"


def test_the_nights_are_shown_as_a_series(story: Story) -> None:
    rows = [(night.night, night.status, night.base, night.figures.new_frames) for night in read_nights(story.registry)]
    first, second = story.version("first").tag, story.version("second").tag
    # The first night reads a frame of the simulator, of val and of the test set as well.
    assert rows == [
        ("first", "done", None, 13), ("second", "done", first, 3), ("third", "nothing_new", second, 0), ("fourth", "done", first, 2),
    ]  # fmt: skip
