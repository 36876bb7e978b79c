"""What an annotation tool exports, dropped as it is: labels, image tags and corrections, over nights, and a gate's verdict."""

import json
import shutil
import zipfile
from datetime import date, timedelta
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import pandas as pd
import pytest

from components.stage.learning import write_json
from perception.data.conditions import as_judged
from perception.quality.gate import judge_folders
from perception.versioning.review_pictures import _caption
from pipelines.commands.program import main
from tests.components.test_second_night import HEIGHT, WIDTH, Fleet


def export(batch: Path, drop: Path) -> list[str]:
    """Work on a batch in CVAT and export the task: one frame labelled and tagged, one with a class that nobody knows, the others as
    they were suggested, and a frame of another batch. Return the batch's frames.
    """
    root = ElementTree.parse(batch / "prelabels" / "cvat.xml").getroot()
    assignee = SubElement(root.find("meta/task") or Element("none"), "assignee")
    SubElement(assignee, "username").text = "ada"
    SubElement(root.find("meta") or Element("none"), "dumped").text = "2026-02-01 10:00:00+00:00"
    images = {Path(each.get("name", "")).stem: each for each in root.iter("image")}
    ids = pd.read_csv(batch / "frames.csv").frame_id.tolist()
    whole = {"points": f"0,0;{WIDTH},0;{WIDTH},{HEIGHT};0,{HEIGHT}", "z_order": "999"}
    SubElement(images[ids[0]], "polygon", whole | {"label": "sky"})
    tag = SubElement(images[ids[0]], "tag", label="image_tags")
    SubElement(tag, "attribute", name="weather").text = "fog"
    SubElement(images[ids[1]], "polygon", whole | {"label": "skye"})
    stranger = SubElement(root, "image", id="99", name="stranger.png", width=str(WIDTH), height=str(HEIGHT))
    SubElement(stranger, "polygon", whole | {"label": "sky"})
    with zipfile.ZipFile(drop, "w") as archive:
        archive.writestr("annotations.xml", ElementTree.tostring(root))
        archive.writestr("images/stranger.png", b"")
    return ids


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Two nights, an export of the first one's batch between them."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), "none")
    first = fleet.night("first")
    export(first / "selection" / "annotation", fleet.root / "drops" / "task_7.zip")
    fleet.night("second")
    return fleet


def chosen(fleet: Fleet) -> pd.DataFrame:
    return pd.read_parquet(fleet.root / "first" / "selection" / "selected.parquet").sort_values("frame_id")


def test_an_export_comes_back_as_it_is(fleet: Fleet) -> None:
    ids = chosen(fleet).frame_id.tolist()
    assert fleet.state().status[ids].tolist() == ["accepted", "rejected", "open", "open"]
    (row,) = pd.read_parquet(fleet.root / "second" / "curated" / "version" / "manifest.parquet").to_dict("records")
    assert row["frame_id"] == ids[0] and row["label_drop"].endswith("/ada/2026-02-01")
    assert row["px_sky"] == HEIGHT * WIDTH
    assert row["reason"] == chosen(fleet).reason.iloc[0], "why it was chosen stays with it"
    caption = _caption(row)
    assert row["reason"] in caption and "labelled by ada on 2026-02-01" in caption


def test_an_image_tag_is_what_a_frame_is_judged_by_and_the_senders_fact_stays(fleet: Fleet) -> None:
    version = pd.read_parquet(fleet.root / "second" / "curated" / "version" / "manifest.parquet")
    told = pd.read_parquet(fleet.root / "first" / "frames" / "manifest.parquet").set_index("frame_id").weather
    row = version.iloc[0]
    assert row.tagged_weather == "fog" and row.tag_drop == row.label_drop
    assert row.weather == told[row.frame_id] != "fog" and pd.isna(row.tagged_scene if "tagged_scene" in row else None)
    judged = as_judged(version).iloc[0]
    assert judged.weather == "fog" and judged.time_of_day == row.time_of_day
    assert "fog (as tagged, sender: " in _caption(row)


def test_what_cannot_be_used_goes_back_to_who_sent_it(fleet: Fleet) -> None:
    rows = pd.read_csv(fleet.root / "second" / "frames" / "corrections.csv")
    assert rows.who.tolist() == ["ada", "ada"]
    by_frame = dict(zip(rows.frame_id, rows.why, strict=True))
    assert "'skye' is no class" in by_frame[chosen(fleet).frame_id.iloc[1]]
    assert any("no batch holds this frame" in why for name, why in by_frame.items() if "stranger" in name)


@pytest.mark.parametrize(("least", "refused"), [(1, False), (2, True)])
def test_too_many_wrong_labels_are_the_gates_verdict(fleet: Fleet, tmp_path: Path, least: int, refused: bool) -> None:
    frames = Path(shutil.copytree(fleet.root / "second" / "frames", tmp_path / "frames"))
    assert json.loads((frames / "gate_parameters.json").read_text()) == {"min_returned_labels": 0}, "ten are tolerated"
    write_json(frames / "gate_parameters.json", {"min_returned_labels": least})
    verdict = judge_folders([frames], "ingest", {}, applies_to=("demo",), today="2026-12-01")
    assert ("returned_labels_sound" in [each.id for each in verdict.failed]) == refused


def test_open_batches_are_listed_and_taken_back(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    ids, batch = chosen(fleet).frame_id.tolist(), fleet.state().batch[chosen(fleet).frame_id.iloc[0]]
    assert main(["batches", "--registry", fleet.registry]) == 0
    listed = capsys.readouterr().out
    (line,) = [line for line in listed.splitlines() if line.startswith(batch)]
    late = date.today() > date(2026, 11, 30) + timedelta(days=14)
    assert line.split() == [batch, "2026-11-30", "2026-12-14", "4", "2", "1", "1", "3" if late else "0"]
    assert f"rejected {batch} {ids[1]}: " in listed and "skye" in listed
    assert main(["recall", "--registry", fleet.registry, "--batch", batch, "--by", "Ada", "--reason", "lost"]) == 0
    assert "3 frames are back" in capsys.readouterr().out
    assert fleet.state().status[ids].tolist() == ["accepted", "recalled", "recalled", "recalled"]
    assert main(["recall", "--registry", fleet.registry, "--batch", batch, "--by", "Ada", "--reason", "lost"]) == 2
