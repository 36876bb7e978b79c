"""A reviewer's way through a registry: look at the page in a real browser, release, take back, get the data back."""

import html
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from perception.data.files import file_sha256
from perception.data.manifest import read_manifest
from perception.data.store import Store, open_store
from perception.data.taxonomies import load_taxonomy
from perception.quality.profile import profile_frame
from perception.versioning.curated import build_version
from perception.versioning.models import champion, propose
from perception.versioning.records import Version
from perception.versioning.registry import create_registry, fetch, publish, resolve
from pipelines.commands.program import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HEIGHT, WIDTH = 64, 128


@dataclass(frozen=True)
class Registry:
    path: Path
    first: Version
    second: Version


def frame(store: Store, frame_id: str, split: str, seed: int, label_class: int, **columns: object) -> dict[str, object]:
    """One frame with a smooth random image and a label of two classes; equal seeds look alike."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).copy()
    image[0, 0] = sum(frame_id.encode()) % 256  # other bytes, the same look
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:, WIDTH // 2 :] = label_class
    blobs = []
    for pixels in (image, label):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        blobs.append(store.put(buffer.getvalue(), "png"))
    facts = profile_frame(image, label, load_taxonomy("cityscapes19"))
    return {
        "frame_id": frame_id, "drive_id": frame_id.split("_")[0], "timestamp_utc": None, "camera": "front",
        "domain": "real", "split": split, "time_of_day": "night" if seed % 2 else "day", "weather": "clear",
        "scene": "urban", "width_px": WIDTH, "height_px": HEIGHT, "image_uri": blobs[0].uri,
        "image_sha256": blobs[0].sha256, "label_uri": blobs[1].uri, "label_sha256": blobs[1].sha256,
        "label_source": "human", "label_taxonomy": "cityscapes19", "instances_uri": None, "source": "fleet",
        **{name: value for name, value in facts.items() if name.startswith("px_")}, "dhash": facts["dhash"], **columns,
    }  # fmt: skip


def folder(root: Path, name: str, rows: list[dict[str, object]], store: Store, base: Path | None) -> Path:
    table = pd.DataFrame(rows)
    build_version(table.drop(columns="dhash"), store, base, root / name, frames_per_shard=4)
    table[["frame_id", "dhash"]].sort_values("frame_id").to_parquet(root / name / "profile.parquet")
    return root / name


def evidence(night_miou: float, chosen: bool, champion: str | None) -> dict[str, object]:
    waived = {
        "id": "drive_in_one_split", "rule": "no drive lies in two splits", "bound": {}, "observed": "1 of 4 on two sides",
        "severity": "critical", "frames": [{"frame_id": "a_1", "drive_id": "a"}], "count": 1, "why": "it leaks",
        "remedy": "move the drive", "waived_by": "Grace Hopper until 2027-01-01: published split", "waiver_note": None,
    }  # fmt: skip
    before = {"time_of_day=day": 0.6, "time_of_day=night": 0.5}
    conditions = {"time_of_day=day": 0.6, "time_of_day=night": night_miou}
    return {
        "gates": [{"suite": "curate", "decision": "warn", "rows": 8, "checked": 31, "failed": [waived] if chosen else []}],
        "evaluation": {
            "miou": 0.5, "miou_by_condition": conditions, "frames": 40, "frames_by_condition": dict.fromkeys(conditions, 20),
            "iou_by_class": {"road": 0.9, "building": 0.3}, "promotion": {"decision": "promote", "reason": "as good"},
            "comparison": {"champion_sha256": champion, "champion_miou_by_condition": before} if champion else None,
        },
        "selection": {"strategy": "k_centre", "budget_frames": 3, "pool_frames": 90, "selected_frames": 3,
                      "measure": "ensemble_entropy", "miou_selected": [0.4], "miou_random": [0.3]},
        "labels": {"note": "ranked", "frames": 3, "rows": [{"frame_id": "c_0", "doubt": 0.8, "sure_otherwise": 0.7}],
                   "confusion": [{"labelled": "building", "seen": "road", "pixels": 4096}]},
        "cost": {"seconds": 5400.0, "stages": [{"name": "train_prune", "seconds": 3000.0}]},
        "lineage": {"code_commit": "1" * 40},
    }  # fmt: skip


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two versions; the second lost a frame, relabelled one, gained three, and one of these looks like a test frame."""
    root = tmp_path_factory.mktemp("review")
    store, place = open_store(str(root / "store")), root / "data.git"
    create_registry(place, str(root / "remote"))
    tests = [frame(store, f"t_{k}", "test", 50 + k, 2) for k in range(2)]
    first_rows = [frame(store, f"a_{k}", "train", k, 2) for k in range(5)] + tests
    first = publish(place, "night-1", folder(root, "one", first_rows, store, None))
    kept = [*first_rows[1:4], frame(store, "a_4", "train", 4, 10), *tests]
    added = [
        frame(store, f"c_{k}", "train", seed, 2, score=2.0 + k, reason=f"place {k} on the shortlist")
        for k, seed in enumerate((20, 21, 51))
    ]
    fetch(place, first, root / "base")
    second = publish(place, "night-2", folder(root, "two", [*kept, *added], store, root / "base"))
    (root / "model").mkdir()
    before = None
    for version, night_miou in ((first, 0.5), (second, 0.42)):
        (root / "model" / "model.onnx").write_bytes(version.tag.encode() * 50)
        propose(place, version.tag, evidence(night_miou, version is second, before), model=root / "model")
        before = file_sha256(root / "model" / "model.onnx")
    return Registry(place, first, second)


@pytest.fixture
def copy(registry: Registry, tmp_path: Path) -> Registry:
    """The registry before any decision, to decide in."""
    subprocess.run(["git", "clone", "-q", "--mirror", registry.path, tmp_path / "data.git"], check=True)
    return Registry(tmp_path / "data.git", registry.first, registry.second)


@pytest.fixture(scope="module")
def page(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page")
    code = main(
        [
            "review",
            "--registry",
            str(registry.path),
            "--base",
            registry.first.tag,
            "--head",
            "night-2",
            "--out",
            str(out),
        ]
    )
    assert code == 0
    return out


# --- the page


def test_the_page_answers_what_a_reviewer_asks(page: Path, registry: Registry) -> None:
    answers = json.loads((page / "review.json").read_text())["answers"]
    assert answers["changed"] == "7 frames before, 9 now: 3 added, 1 removed, 1 relabelled."
    assert answers["leaking"].startswith("Yes, look: 1 training images look like a held-out one")
    assert "time of day: night -8.0 points" in answers["worse"]
    assert "3 of 90 by k_centre on ensemble_entropy" in answers["chosen"]
    assert "random ones 30.0%" in answers["chosen"]
    assert answers["approved"] == "Nobody yet; one person decides."
    page_html = html.unescape((page / "review.html").read_text())
    assert "curate (1, <span" in page_html, "the first screen does not tell of a gate that warned"
    assert "day, clear, urban; came with its label, was not chosen" in page_html
    html_text, markdown = (page / "review.html").read_text(), (page / "review.md").read_text()
    for text in (html_text, markdown):
        for words in (*answers.values(), f"make reproduce VERSION={registry.second.tag}", "a_0", "Grace Hopper"):
            assert html.escape(words, quote=False) in html.unescape(text) or words in html.unescape(text), words
    assert "WAIVED" in html_text


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = (page / "review.html").read_text()
    assert text.count("data:image/jpeg") > 8
    for outside in ('src="http', 'href="http', "url(http", "<link", "<script"):
        assert outside not in text


def test_without_the_store_pictures_come_out_of_the_shards(page: Path) -> None:
    assert "picture not at hand" not in (page / "review.html").read_text()


def test_the_same_review_is_the_same_bytes(page: Path, registry: Registry, tmp_path: Path) -> None:
    main(
        [
            "review",
            "--registry",
            str(registry.path),
            "--base",
            registry.first.tag,
            "--head",
            "night-2",
            "--out",
            str(tmp_path),
        ]
    )
    for name in ("review.html", "review.md", "review.json"):
        assert (tmp_path / name).read_bytes() == (page / name).read_bytes(), name


PROBE = """<!doctype html><title>waiting</title><iframe id="page" width="WIDTH" height="800" srcdoc="CONTENT"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const inside = frame.contentDocument, paint = inside.querySelector(".photo .paint");
  const shown = () => frame.contentWindow.getComputedStyle(paint).opacity;
  const found = {overflow_px: inside.documentElement.scrollWidth - frame.clientWidth, before: shown(),
    headings: [...inside.querySelectorAll("h2")].map(each => each.textContent),
    broken: [...inside.images].filter(each => !each.complete || !each.naturalWidth).length, images: inside.images.length};
  inside.querySelector(".toggle").click();
  setTimeout(() => { found.after = shown(); document.title = JSON.stringify(found); }, 1500);
};
</script>"""


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium): no browser saw the page"
)
@pytest.mark.parametrize("width_px", [1200, 390])
def test_a_real_browser_shows_it_at_a_desk_and_on_a_phone(page: Path, tmp_path: Path, width_px: int) -> None:
    content = html.escape((page / "review.html").read_text(), quote=True)
    (tmp_path / "probe.html").write_text(PROBE.replace("WIDTH", str(width_px)).replace("CONTENT", content))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--dump-dom", f"file://{tmp_path / 'probe.html'}",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"HOME": str(tmp_path)}
    )
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    assert title.group(1).startswith("{"), title.group(1)
    found = json.loads(html.unescape(title.group(1)))
    assert found["overflow_px"] <= 0, "the page is wider than the screen"
    assert (found["before"], found["broken"]) == ("0", 0)
    assert float(found["after"]) > 0.5, "the button does not show the labels"
    assert found["images"] > 8
    assert [name for name in found["headings"] if "leakage" in name.lower()]


# --- decisions and data from the command line


def test_release_take_back_and_reject(copy: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    place, who = ["--registry", str(copy.path)], ["--by", "Ada Lovelace", "--reason", "read the page"]
    assert main(["promote", *place, "--version", copy.first.tag, *who]) == 0
    assert main(["promote", *place, "--version", copy.second.tag, *who]) == 0
    released = champion(copy.path)
    assert (resolve(copy.path), released.tag if released else None) == (copy.second, copy.second.tag)
    assert main(["rollback", *place, "--by", "Ada Lovelace", "--reason", "night is worse"]) == 0
    back = champion(copy.path)
    assert (resolve(copy.path), back.tag if back else None) == (copy.first, copy.first.tag)
    assert main(["reject", *place, "--version", copy.second.tag, *who]) == 0
    capsys.readouterr()
    assert main(["promote", *place, "--version", copy.second.tag, *who]) == 2
    assert "was rejected by Ada Lovelace" in capsys.readouterr().err
    assert main(["history", *place]) == 0
    assert "4 decisions; every one is as it was written" in capsys.readouterr().out
    assert main(["versions", *place]) == 0
    assert re.search(rf"{copy.first.tag} .*current champion", capsys.readouterr().out)


def test_the_network_stays_where_a_person_says_so(copy: Registry) -> None:
    who = ["--by", "Ada Lovelace", "--reason", "data only"]
    assert main(["promote", "--registry", str(copy.path), "--version", copy.first.tag, *who, "--model", "keep"]) == 0
    assert champion(copy.path) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["promote", "--version", "night-2", "--by", "Ada", "--reason", "good"], "does not say which manifest"),
        (["promote", "--version", "data/night-2-00000000", "--by", "Ada", "--reason", "good"], "no version"),
        (["promote", "--by", "Ada", "--reason", "good"], "Missing option '--version'"),
        (["rollback", "--by", "Ada", "--reason", "bad"], "no current version"),
        (["lineage"], "FRAME=id, DRIVE=id"),
        (["reproduce", "--version", "night-2"], "Missing option '--out'"),
        (["review", "--base", "night-2", "--head", "night-2"], "name two versions"),
    ],
)
def test_what_is_missing_is_named_with_code_2(
    copy: Registry, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([arguments[0], "--registry", str(copy.path), *arguments[1:]]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_exactly_the_data_come_back_and_their_lineage(
    copy: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--registry", str(copy.path)]
    assert main(["reproduce", *place, "--version", copy.second.tag, "--out", str(tmp_path / "back")]) == 0
    assert copy.second.manifest_sha256 in capsys.readouterr().out
    assert len(read_manifest(tmp_path / "back" / "manifest.parquet")) == 9
    assert main(["lineage", *place, "--frame", "a_0"]) == 0
    said = capsys.readouterr().out
    assert copy.first.tag in said
    assert copy.second.tag not in said
    assert main(["lineage", *place, "--drive", "a,t"]) == 0
    said = capsys.readouterr().out
    assert "7 frames of 2 drives" in said and copy.second.tag in said
    assert "the frozen test set: touched" in said
    assert main(["scrub", *place, "--sample", "-1"]) == 0
    assert "0 objects (0.0 MB) belong to no version" in capsys.readouterr().out
    assert main(["retire", *place]) == 0
    assert "frees 0.0 MB" in capsys.readouterr().out
