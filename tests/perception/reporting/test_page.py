import dataclasses
import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from perception.errors import InputError
from perception.reporting import page
from perception.reporting import summary as figures
from perception.reporting.records import LayerNeurons

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Reader(html.parser.HTMLParser):
    """Collects tags, ids, links and text, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack, self.tags, self.addresses, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_page_needs_nothing_else_and_is_small(night):
    text = page.render_report(night)
    reader = Reader(text)
    assert "script" not in reader.tags and "link" not in reader.tags and "iframe" not in reader.tags
    assert all(each.startswith(("data:image/", "#")) for each in reader.addresses)
    assert all(each.startswith("data:image/") for each in re.findall(r"url\((.*?)\)", text))
    elsewhere = re.sub(r"data:image/[^\"')]*|http-equiv", "", text)
    assert "@import" not in text and "http" not in elsewhere
    assert len(text.encode()) < page.MAX_PAGE_BYTES


def test_a_long_list_of_layers_is_folded_under_its_sum(night):
    many = tuple(LayerNeurons(layer=f"layer{i}", before=10, after=7) for i in range(70))
    text = page.render_report(dataclasses.replace(night, model=dataclasses.replace(night.model, layers=many)))
    assert "<details><summary>210 of 700 neurons removed" in text
    assert "layer59<" in text and "layer60<" not in text and "The first 60 of 70 layers" in text


def test_links_on_the_page_lead_somewhere(night, refused_night):
    for each in (night, refused_night):
        reader = Reader(page.render_report(each))
        assert {link[1:] for link in reader.addresses if link.startswith("#")} <= set(reader.ids)
        assert len(set(reader.ids)) == len(reader.ids)


def test_equal_nights_give_equal_pages(night):
    assert page.render_report(night) == page.render_report(night)


def test_headline_and_panels_show_the_figures(night):
    text = Reader(page.render_report(night)).text
    for shown in ("55.2 %", "4.5 ×", "2.5 ×", "41.2 %", "24 of 600", "8 min 41 s", "532 211", "1.21 G", "47.1"):
        assert shown in text, shown
    assert "3 of 120 test frames failed" in text and "at most 6.3 %" in text
    assert "Waived: split_by_drive" in text and "to 2026-12-31" in text
    assert "3 of 305 offending frames" in text
    assert "29 frames, 2 overdue" in text
    assert "copy the file again from the source" in text
    assert "dvc get file:///registry" in text


def test_classes_come_worst_first_and_unmeasured_last(night):
    text = page.render_report(night)
    table = text[text.index("IoU by class") : text.index("mIoU by condition")]
    names = re.findall(r'<th scope="row">([a-z ]+)', table)
    iou = night.summary.evaluation.iou_by_class
    measured = sorted((name for name in iou if name != "train"), key=iou.get)
    assert names == [name.replace("_", " ") for name in [*measured, "train"]]


def test_a_bare_night_shows_nothing_as_zero(night):
    bare = page.NightReport(
        summary=figures.NightSummary(run="n2", status="failed", profile="smoke"),
        taxonomy=night.taxonomy,
        failed_stage="ensemble",
        error_lines=("line one", "RuntimeError: no memory"),
    )
    text = Reader(page.render_report(bare)).text
    assert "Failed in stage ensemble" in text and "RuntimeError: no memory" in text
    assert text.count("not measured") >= 5
    assert "0.0" not in text and "0 %" not in text
    assert "The night did not get as far as selection." in text


def test_unmeasured_figures_inside_panels_say_so(night):
    model = dataclasses.replace(night.model, variants=(page.ModelVariant(name="dense"),), layers=(), loss_curves=())
    none = dataclasses.replace(night.summary, model=figures.ModelFigures(), selection=figures.SelectionFigures())
    text = page.render_report(dataclasses.replace(night, model=model, summary=none))
    row = Reader(text[text.index('<tr><th scope="row">dense') : text.index("</tbody>", text.index("dense</th>"))]).text
    assert row.count("not measured") == 5
    assert "Training loss: not measured" in text and "Neurons by layer: not measured" in text


def test_refused_night_names_its_gate(refused_night):
    text = Reader(page.render_report(refused_night)).text
    assert "Refused by gate ingest" in text


@pytest.mark.parametrize("field", ["refused_gate", "failed_stage"])
def test_a_stopped_night_must_say_where(night, field):
    status = {"refused_gate": "refused", "failed_stage": "failed"}[field]
    stopped = dataclasses.replace(night.summary, status=status)
    with pytest.raises(InputError, match=field):
        dataclasses.replace(night, summary=stopped)


def test_text_from_outside_cannot_become_markup(night):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    chosen = dataclasses.replace(night.selection.frames[0], frame_id=evil, reason=evil, conditions=evil)
    tested = dataclasses.replace(night.evaluation.frames[0], frame_id=evil, note=evil)
    frame = page.RejectedFrame(path=evil, rule=evil, remedy=evil)
    poisoned = dataclasses.replace(
        night,
        selection=dataclasses.replace(night.selection, frames=(chosen,)),
        evaluation=dataclasses.replace(
            night.evaluation, frames=(tested,), figures=night.evaluation.figures | {"failure_rule": evil}
        ),
        rejected=(frame,),
        error_lines=(evil,),
        lineage={evil: evil},
        parameters={evil: evil},
        reproduce_command=evil,
    )
    reader = Reader(page.render_report(poisoned))
    assert "script" not in reader.tags
    assert all(each.startswith(("data:image/", "#")) for each in reader.addresses)


def test_page_stays_small_whatever_it_is_given(night):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (270, 360, 3), dtype=np.uint8)
    ids = rng.integers(0, 19, (270, 360), dtype=np.uint8)
    chosen = tuple(
        page.ChosenFrame(frame_id=f"f{i}", rank=i, score=1.0, reason="r", image=noise, uncertainty=noise[..., 0] / 255)
        for i in range(40)
    )
    tested = tuple(
        page.TestedFrame(frame_id=f"t{i}", note="worst", image=noise, label=ids, prediction=ids.T.reshape(270, 360))
        for i in range(9)
    )
    large = dataclasses.replace(
        night,
        selection=dataclasses.replace(night.selection, frames=chosen),
        evaluation=dataclasses.replace(night.evaluation, frames=tested),
        rejected=tuple(page.RejectedFrame(path="x" * 5_000, rule="r", remedy="r") for _ in range(500)),
    )
    text = page.render_report(large)
    assert len(text.encode()) < page.MAX_PAGE_BYTES
    assert "the first 24 of 40" in text and "100 of 500 listed" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 00 s"), (125.4, "2 min 05 s"), (7_320, "2 h 02 min")],
)
def test_duration(seconds, text):
    assert page.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (2_064_191, "2.06 M"), (1.21e9, "1.21 G"), (1_000, "1 k")]
)
def test_short_count(value, text):
    assert page.short_count(value) == text


def test_ratio_needs_both_figures():
    assert page.ratio(10.0, 4.0) == 2.5
    assert page.ratio(None, 4.0) is None and page.ratio(10.0, None) is None and page.ratio(10.0, 0) is None


def test_the_adaptation_panel_shows_every_way_to_see_a_frame_and_every_class(night):
    text = page.render_report(night)
    panel = text[text.index('<section id="adaptation">') : text.index('<section id="model">')]
    shown = re.findall(r"<span>([a-z -]+)</span>", panel)
    assert shown == ["image", "label", "source only", "fused", "pseudo-label", "taught with them"]
    words = Reader(panel).text
    assert "Fusion is better than the simulator's segmentation in the foreground" in words
    assert "Collapsed classes: train, traffic light." in words
    assert "taught 1 079 instances of 2 classes" in words
    assert "on 96 val frames: boxes 8.1 %, masks 6.4 %" in words
    rows = dict(
        re.findall(r'<tr><th scope="row">(?:<b>)?([a-z ]+?)(?:</b>)?(?: <span.*?)?</th>(.*?)</tr>', panel, re.S)
    )
    assert re.findall(r">([0-9.]+)<", rows["foreground"]) == ["19.2", "31.2", "37.3"]
    by_class = night.adaptation.record.iou_by_class
    expected = [f"{100 * by_class[way]['car']:.1f}" for way in ("source_only", "fused", "pseudo")]
    assert re.findall(r'<td class="n">([0-9.]+)</td>', rows["car"])[:3] == expected
    assert "detector" in rows["car"] and "segmenter" in rows["train"] and "nothing speaks for it" in rows["train"]


def test_without_a_detector_the_fused_figures_are_not_measured(night):
    record = dataclasses.replace(
        night.adaptation.record, miou_fused=None, foreground_miou_fused=None, background_miou_fused=None,
        iou_by_class={**night.adaptation.record.iou_by_class, "fused": None},
        fusion_verdict="No detector was trained, so nothing was fused.", detector=None, trust=(),
    )  # fmt: skip
    without = dataclasses.replace(night, adaptation=dataclasses.replace(night.adaptation, record=record))
    panel = page.render_report(without).partition('<section id="adaptation">')[2].partition('<section id="model">')[0]
    assert "nothing was fused" in panel and "not measured" in panel


def test_every_page_forbids_scripts_and_anything_from_elsewhere() -> None:
    templates = sorted((Path(page.__file__).parent / "templates").glob("*.html"))
    pages = [path for path in templates if path.read_text().startswith('{% extends "layout.html" %}\n')]
    assert len(pages) >= 6
    (layout,) = [path for path in templates if "<!doctype html>" in path.read_text()]
    assert layout.name == "layout.html", "a page beside it would have a head of its own"
    assert '<meta charset="utf-8">\n{% include "policy.html" %}\n' in layout.read_text()
    policy = (Path(page.__file__).parent / "templates" / "policy.html").read_text()
    assert "default-src 'none'" in policy and "script-src" not in policy
