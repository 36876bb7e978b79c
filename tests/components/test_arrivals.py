"""Arrivals: a format's frames reach the intake with their labels and instances; a broken file is listed, not fatal."""

import hashlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from components.ingest.arrivals import LISTING_COLUMNS, arrivals, list_arrivals
from components.ingest.sources import Source
from perception.data.manifest import read_manifest
from perception.data.shards import write_shard
from perception.data.store import FolderStore
from perception.quality.intake import Intake, IntakeSettings, admit_frames
from tests.components.intake import take_in
from tests.perception.data.footage import recordings


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def picture() -> bytes:
    return png(np.full((8, 12, 3), 90, np.uint8))


def listed(source: Source, seed: int = 0) -> pd.DataFrame:
    return list_arrivals("fleet", source, seed, (8, 12), "2026-11-30")


def ingested(root: Path, store: FolderStore, format: str, labels: str, split: str) -> Intake:
    source = Source(format=format, path=str(root), part="train", domain="real", split=split, labels=labels)
    settings = IntakeSettings(source="fleet", split=split, domain="real", labels=labels, taxonomy="cityscapes19")
    listing = listed(source)
    return admit_frames(arrivals(source, listing, 0, (8, 12)), len(listing), store, settings)


def test_viper_with_instances(tmp_path: Path) -> None:
    codes = np.zeros((8, 12, 3), np.uint8)
    codes[2:] = (24, 0, 7)
    for number in range(3):
        for kind, data in (("img", picture()), ("cls", png(np.full((8, 12), 24, np.uint8))), ("inst", png(codes))):
            path = tmp_path / "train" / kind / "001" / f"001_{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    store = FolderStore(tmp_path / "store")
    intake = ingested(tmp_path, store, "viper", "given", "train")
    assert intake.manifest.label_taxonomy.tolist() == ["viper"] * 3 and len(intake.rejected) == 0
    instances = np.asarray(Image.open(io.BytesIO(store.get(intake.manifest.instances_uri[0]))))
    assert sorted(np.unique(instances).tolist()) == [0, 24000]
    (tmp_path / "train" / "inst" / "001" / "001_00001.png").write_bytes(png(codes)[:-30])
    intake = ingested(tmp_path, store, "viper", "oracle", "pool")
    assert intake.rejected.rule.tolist() == ["PNG file is truncated (it has no end)"]
    assert intake.rejected.frame_id.tolist() == ["viper_001_00001"] and len(intake.oracle) == 2


def test_frames_in_tar_files_name_their_taxonomy_and_keep_their_suffix(tmp_path: Path) -> None:
    label = png(np.full((8, 12), 8, np.uint8))
    facts = b'{"drive_id": "d1", "weather": "snow", "label_taxonomy": "camvid11"}'
    write_shard([("a", {"png": picture(), "label.png": label, "json": facts})], tmp_path / "train-0.tar")
    intake = ingested(tmp_path, FolderStore(tmp_path / "store"), "webdataset", "given", "train")
    (row,) = intake.manifest.to_dict("records")
    assert row["image_uri"].endswith(".png") and row["label_taxonomy"] == "camvid11" and row["weather"] == "snow"
    assert intake.profile.px_car.tolist() == [96]


def test_of_tar_files_only_those_that_changed_are_opened_and_a_broken_one_costs_itself(tmp_path: Path) -> None:
    facts = b'{"drive_id": "d1"}'
    for number in range(3):
        write_shard([(f"f{number}", {"png": picture(), "json": facts})], tmp_path / f"{number}.tar")
    source = Source(format="webdataset", path=str(tmp_path), domain="real", split="pool", labels="none")
    listing = listed(source)
    assert listing.object.tolist() == ["0.tar", "1.tar", "2.tar"]
    (tmp_path / "0.tar").write_bytes(b"broken since, and known")
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:900])
    new = listing[listing.object != "0.tar"]
    settings = IntakeSettings(source="fleet", split="pool", domain="real", labels="none", taxonomy="cityscapes19")
    intake = admit_frames(arrivals(source, new, 0, (8, 12)), len(new), FolderStore(tmp_path / "store"), settings)
    assert intake.manifest.frame_id.tolist() == ["f2"]
    assert intake.rejected.frame_id.tolist() == ["1.tar"] and "truncated" in intake.rejected.rule[0]
    assert intake.read.object.tolist() == ["1.tar", "2.tar"]
    assert intake.read.source_sha256[1] == hashlib.sha256(picture()).hexdigest()


def test_the_listing_opens_no_image_and_tells_a_changed_file(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / "train" / "img" / "001" / f"001_{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image at all")
    source = Source(format="viper", path=str(tmp_path), part="train", domain="real", split="pool", labels="none")
    first = listed(source)
    assert tuple(first.columns) == LISTING_COLUMNS
    assert first.object.tolist() == ["viper_001_00000", "viper_001_00001"]
    assert listed(source).equals(first), "the same files give the same listing, to the byte"
    path.write_bytes(b"another image")
    changed = listed(source)
    assert (changed.signature != first.signature).tolist() == [False, True]


def test_only_the_listed_frames_arrive() -> None:
    source = Source(
        format="scenes", split="pool", domain="real", labels="none", drives=3, frames_per_drive=2, rendering="street"
    )
    listing = listed(source)
    assert len(listing) == 6 and listing.signature.nunique() == 1
    other = listed(source, seed=1)
    assert set(other.signature) != set(listing.signature), "another world is other footage"
    second = listing[listing.drive_id == listing.drive_id.unique()[1]]
    arrived = list(arrivals(source, second, 1, (32, 64)))
    assert [each.facts.frame_id for each in arrived] == second.object.tolist()
    whole = {each.facts.frame_id: each.image for each in arrivals(source, listing, 1, (32, 64))}
    assert all(whole[each.facts.frame_id] == each.image for each in arrived), "a batch does not change what is rendered"


def test_a_drop_folder_of_every_kind_arrives_and_its_objects_are_told(tmp_path: Path) -> None:
    drop = tmp_path / "drop"
    (drop / "d1").mkdir(parents=True)
    recordings.write_video(drop / "d1" / "front.mp4", 8, started="2026-11-01T06:00:00Z")
    recordings.write_video(drop / "d1" / "left.mp4", 8, first=8)
    recordings.write_mcap(drop / "d2.mcap", recordings.drive(recordings.types(2), 4))
    recordings.write_ros1(drop / "d3.bag", recordings.drive(recordings.types(1), 4, first=20, kinds=("jpeg",)))
    (drop / "d4").mkdir()
    (drop / "d4" / "0.jpg").write_bytes(recordings.jpeg(30))
    (drop / "d4" / "1.jpg").write_bytes(recordings.jpeg(1)[:-200])
    (drop / "d4" / "turned.jpg").write_bytes(recordings.jpeg(2, exif=_turned()))
    (drop / "d5.mp4").write_bytes(b"no video")
    sources = {
        "fleet": {"format": "footage", "path": str(drop), "domain": "real", "split": "pool", "labels": "none"}
        | {"footage": {}, "max_rejected_fraction": 0.5}
    }
    store = tmp_path / "store"
    size = {"taxonomy": "cityscapes19", "height_px": 8, "width_px": 12}
    folder = take_in(tmp_path, "night", sources, store, **size)
    manifest, rejected = read_manifest(folder / "manifest.parquet"), pd.read_parquet(folder / "rejected.parquet")
    assert manifest.drive_id.value_counts().to_dict() == {"d1": 16, "d2": 12, "d3": 4, "d4": 1}
    assert manifest.source_sha256.is_unique and "privacy" not in manifest
    assert str(manifest.dtypes["latitude"]) == "float64" and manifest.latitude.notna().sum() == 16
    rules = {
        path.removeprefix(f"{drop}/").partition(":")[0]: rule
        for path, rule in zip(rejected.path, rejected.rule, strict=True)
    }
    assert rules.keys() == {"d5.mp4", "d4/1.jpg", "d4/turned.jpg"}
    assert "has no readable index" in rules["d5.mp4"] and "truncated" in rules["d4/1.jpg"]
    assert "EXIF orientation" in rules["d4/turned.jpg"]
    files = pd.read_parquet(folder / "taken" / "arrivals.parquet")
    assert files.groupby("object").outcome.agg(lambda outcomes: dict(Counter(outcomes))).to_dict() == {
        **{"d1/front.mp4": {"new": 8}, "d1/left.mp4": {"new": 8}, "d2.mcap": {"new": 12}, "d3.bag": {"new": 4}},
        **{"d4/0.jpg": {"new": 1}, "d4/1.jpg": {"rejected": 1}, "d4/turned.jpg": {"rejected": 1}},
        **{"d5.mp4": {"rejected": 1}},
    }
    sources["fleet"]["footage"] = {"sampling": {"every_s": 0.2}}
    folder = take_in(tmp_path, "sampled", sources, store, **size)
    sampled, files = read_manifest(folder / "manifest.parquet"), pd.read_parquet(folder / "taken" / "arrivals.parquet")
    assert sampled.drive_id.value_counts().to_dict() == {"d1": 8, "d2": 6, "d3": 2}, (
        "pictures without a time cannot be sampled"
    )
    skipped = files[files.outcome == "skipped"].set_index("object").reason
    assert skipped["d1/front.mp4"] == "4 too_near" and skipped["d4/0.jpg"] == "1 no_time"


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif
