"""Arrivals: a format's frames reach the intake with their labels and instances; a broken file is listed, not fatal."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from components.ingest.arrivals import LISTING_COLUMNS, arrivals, list_arrivals
from components.ingest.sources import Source
from perception.data.shards import write_shard
from perception.data.store import FolderStore
from perception.quality.intake import Intake, IntakeSettings, admit_frames


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def picture() -> bytes:
    return png(np.full((8, 12, 3), 90, np.uint8))


def ingested(root: Path, store: FolderStore, format: str, labels: str, split: str) -> Intake:
    source = Source(format=format, path=str(root), part="train", domain="real", split=split, labels=labels)
    settings = IntakeSettings(source="fleet", split=split, domain="real", labels=labels, taxonomy="cityscapes19")
    listing = list_arrivals("fleet", source, 0, (8, 12))
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


def test_the_listing_opens_no_image_and_tells_a_changed_file(tmp_path: Path) -> None:
    for number in range(2):
        path = tmp_path / "train" / "img" / "001" / f"001_{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image at all")
    source = Source(format="viper", path=str(tmp_path), part="train", domain="real", split="pool", labels="none")
    first = list_arrivals("fleet", source, 0, (8, 12))
    assert tuple(first.columns) == LISTING_COLUMNS
    assert first.object.tolist() == ["viper_001_00000", "viper_001_00001"]
    assert list_arrivals("fleet", source, 0, (8, 12)).equals(first), "the same files give the same listing, to the byte"
    path.write_bytes(b"another image")
    changed = list_arrivals("fleet", source, 0, (8, 12))
    assert (changed.signature != first.signature).tolist() == [False, True]


def test_only_the_listed_frames_arrive() -> None:
    source = Source(
        format="scenes", split="pool", domain="real", labels="none", drives=3, frames_per_drive=2, rendering="street"
    )
    listing = list_arrivals("fleet", source, 0, (8, 12))
    assert len(listing) == 6 and listing.signature.nunique() == 1
    other = list_arrivals("fleet", source, 1, (8, 12))
    assert set(other.signature) != set(listing.signature), "another world is other footage"
    second = listing[listing.drive_id == listing.drive_id.unique()[1]]
    arrived = list(arrivals(source, second, 1, (32, 64)))
    assert [each.facts.frame_id for each in arrived] == second.object.tolist()
    whole = {each.facts.frame_id: each.image for each in arrivals(source, listing, 1, (32, 64))}
    assert all(whole[each.facts.frame_id] == each.image for each in arrived), "a batch does not change what is rendered"
