import dataclasses
import json
import re

import numpy as np
import pytest

from perception.errors import InputError
from perception.reporting import summary as figures
from perception.reporting.summary import SUMMARY_KEYS, NightSummary, summary_dict, write_summary

# Written out once more on purpose: these keys are a promise to whoever reads summary.json.
PROMISED = {
    "run": "",
    "night": "",
    "status": "",
    "profile": "",
    "seconds": "",
    "cost": "",
    "currency": "",
    "stages": "name status seconds peak_rss_mib",
    "pool": "frames new repeated rejected denied labelled open_at_annotators",
    "selection": "strategy budget_frames selected_frames pool_frames miou_selected miou_random "
    "miou_selected_by_seed miou_random_by_seed",
    "data": "version manifest_sha256 parent frames added removed",
    "adaptation": "miou_source_only miou_fused miou_pseudo "
    "foreground_miou_source_only foreground_miou_fused foreground_miou_pseudo "
    "background_miou_source_only background_miou_fused background_miou_pseudo iou_by_class "
    "pseudo_coverage pseudo_precision",
    "model": "started_from miou_start parameters_dense parameters_pruned parameters_compressed macs_dense macs_compressed latency_ms_dense "
    "latency_ms_compressed miou_dense miou_pruned miou_compressed",
    "evaluation": "miou iou_by_class miou_by_condition frames failures failure_rate_upper_95",
    "gates": "name verdict failed_expectations",
    "promotion": "decision reason judged not_judged reference miou_since_reference miou_since_reference_lower_95",
}


def test_keys_are_the_promised_ones(summary):
    assert {key: " ".join(inner) for key, inner in SUMMARY_KEYS.items()} == PROMISED
    built = summary_dict(summary)
    assert list(built) == list(PROMISED)
    for key, inner in PROMISED.items():
        entries = built[key] if isinstance(built[key], list) else [built[key]]
        assert all(list(entry) == inner.split() for entry in entries if inner)


def test_unmeasured_is_null_and_nan_never_appears(summary, tmp_path):
    write_summary(summary, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert not re.search(r"\bNaN\b|Infinity", text)
    read = json.loads(text)
    assert read["evaluation"]["iou_by_class"]["train"] is None
    assert read["evaluation"]["iou_by_class"]["road"] == summary.evaluation.iou_by_class["road"]
    bare = summary_dict(NightSummary(run="n", status="failed", profile="smoke"))
    assert set(bare["model"].values()) == {None}
    assert bare["stages"] == [] and bare["seconds"] is None


def test_equal_nights_give_equal_bytes_and_replace_whole(summary, tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("half a file {")
    write_summary(summary, path)
    first = path.read_bytes()
    write_summary(dataclasses.replace(summary), path)
    assert path.read_bytes() == first
    assert [each.name for each in tmp_path.iterdir()] == ["summary.json"]


def test_failed_write_leaves_the_old_file_alone(summary, tmp_path):
    path = tmp_path / "summary.json"
    write_summary(summary, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"seconds is inf"):
        write_summary(dataclasses.replace(summary, seconds=float("inf")), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_numpy_scalars_become_plain_numbers(summary):
    model = figures.ModelFigures(
        parameters_dense=np.int64(7), miou_dense=np.float64("nan"), miou_pruned=np.float32(0.5)
    )
    built = summary_dict(dataclasses.replace(summary, model=model))["model"]
    assert built["parameters_dense"] == 7 and type(built["parameters_dense"]) is int
    assert built["miou_dense"] is None
    assert type(built["miou_pruned"]) is float


def test_refuses_what_json_cannot_hold(summary):
    with pytest.raises(InputError, match=r"data\.version is a ndarray"):
        summary_dict(dataclasses.replace(summary, data=figures.DataFigures(version=np.zeros(3))))
    with pytest.raises(InputError, match="night status is 'finished'"):
        NightSummary(run="n", status="finished", profile="smoke")
