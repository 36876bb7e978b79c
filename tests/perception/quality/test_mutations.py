"""Every expectation of every suite fails, and it alone, for a fault planted in otherwise good data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from perception.quality.gate import Verdict, columns_read, judge
from perception.quality.suites import SUITE_NAMES, Suite, bind, load_suite, substitute

TODAY = date(2026, 11, 23)
PX = 64 * 32
OTHER_SHA256 = "0" * 64


@dataclass(frozen=True)
class Fault:
    """One fault, and what else must fail with it because the one rule implies the other."""

    plant: Callable[[pd.DataFrame], pd.DataFrame]
    also: frozenset[str] = frozenset()


def rows(table: pd.DataFrame, count: int | None = None, **where: str) -> pd.Index:
    """Find the first rows where columns have the values."""
    mask = pd.Series(True, index=table.index)
    for column, value in where.items():
        mask &= table[column] == value
    return table.index[mask][:count]


def put(column: str | tuple[str, ...], value: object, count: int | None = 1, **where: str) -> Callable:
    """Put a value into the first rows where other columns have the values."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        for name in (column,) if isinstance(column, str) else column:
            if value is None and table[name].dtype == bool:
                table[name] = table[name].astype(object)
            table.loc[rows(table, count, **where), name] = value
        return table

    return plant


def drop(count: int | None, **where: str) -> Callable:
    return lambda table: table.drop(index=rows(table, count, **where))


def same(column: str | tuple[str, ...]) -> Callable:
    """Give two rows the same value."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        for name in (column,) if isinstance(column, str) else column:
            table.loc[table.index[1], name] = table[name].iloc[0]
        return table

    return plant


def shares(
    road: float, person: float, sky: float, void_px: int | None = None, count: int | None = None, **where: str
) -> Callable:
    """Recount the pixels of the first labelled rows, the sum kept."""
    assert round(road + person + sky, 9) == 1

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        chosen = rows(table[table.px_road.notna()], count, **where)
        counted = table.loc[chosen, ["px_road", "px_person", "px_sky"]].sum(axis=1)
        if void_px is not None:
            table.loc[chosen, "void_fraction"] = void_px / PX
            counted[:] = PX - void_px
        table.loc[chosen, "px_road"] = (counted * road).round().astype(table.px_road.dtype)
        table.loc[chosen, "px_person"] = (counted * person).round().astype(table.px_person.dtype)
        table.loc[chosen, "px_sky"] = (counted - table.loc[chosen, "px_road"] - table.loc[chosen, "px_person"]).astype(
            table.px_sky.dtype
        )
        return table

    return plant


def one_more_frame(table: pd.DataFrame) -> pd.DataFrame:
    extra = table.loc[rows(table, 1, drive_id="carC")].assign(
        frame_id="carC_9999", image_sha256=OTHER_SHA256, image_sha256_actual=OTHER_SHA256, dhash="0123456789abcdef"
    )
    return pd.concat([table, extra], ignore_index=True)


def look_alike(table: pd.DataFrame) -> pd.DataFrame:
    bits = int(table.loc[rows(table, 1, split="train"), "dhash"].iloc[0], 16) ^ 0b1001
    table.loc[rows(table, 1, split="test"), "dhash"] = f"{bits:016x}"
    return table


def older(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(timestamp_utc=table.timestamp_utc - pd.Timedelta(days=10))


def every(column: str, step: int, value: float) -> Callable:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[::step], column] = value
        return table

    return plant


def unbound(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[table.index[0], ["lower", "bounded"]] = [np.nan, False]
    return table


FRAMES = {
    "columns_present": Fault(lambda table: table.drop(columns="camera")),
    "values_present": Fault(put("image_uri", None)),
    "facts_finite": Fault(put("sharpness", np.inf)),
    "frame_id_unique": Fault(same("frame_id")),
    "frame_id_well_formed": Fault(put("frame_id", "../evil")),
    "image_unique": Fault(same(("image_sha256", "image_sha256_actual"))),
    "image_sha256_well_formed": Fault(put(("image_sha256", "image_sha256_actual"), "ABC123")),
    "image_bytes_as_recorded": Fault(put("image_sha256_actual", OTHER_SHA256)),
    "image_decodes": Fault(put("decode_ok", False)),
    "domain_known": Fault(put("domain", "virtual", split="train")),
    "label_source_known": Fault(put("label_source", "alien", split="pool")),
    "time_of_day_known": Fault(put("time_of_day", "dusk")),
    "weather_known": Fault(put("weather", "hail")),
    "scene_known": Fault(put("scene", "city")),
    "labels_where_needed": Fault(put("label_uri", None, split="val")),
    "label_facts_present": Fault(put("label_taxonomy", None, split="val")),
    "label_sha256_well_formed": Fault(put("label_sha256", "ABC123", split="val")),
    "label_has_an_author": Fault(put("label_source", "none", split="val")),
    "label_values_known": Fault(put("unknown_label_px", 3.0, split="val")),
    "pixels_add_up": Fault(put("px_sky", 1.0, split="val")),
    "void_share_of_a_frame": Fault(shares(0.5, 0.1, 0.4, void_px=1946, count=1, split="val")),
    "void_share_on_average": Fault(shares(0.5, 0.1, 0.4, void_px=1229)),
    "label_not_uniform": Fault(put("label_max", 0.0, split="val")),
    "drive_in_one_split": Fault(put("split", "val", drive_id="carE")),
    "near_duplicates_across_splits": Fault(look_alike),
    "brightness_plausible": Fault(put("brightness_mean", 1.0, count=3)),
    "contrast_plausible": Fault(put("contrast_std", 0.5, count=3)),
    "sharpness_plausible": Fault(every("sharpness", 5, 0.1)),
    "class_shares_near_reference": Fault(shares(0.05, 0.55, 0.4)),
}
INGEST = FRAMES | {
    "split_known": Fault(put("split", "hold", split="pool")),
    "enough_frames": Fault(lambda table: drop(8, drive_id="carC")(drop(8, drive_id="carD")(table))),
    "enough_pool_frames": Fault(drop(11, split="pool")),
    "enough_test_frames": Fault(drop(6, split="test")),
    "enough_synthetic_frames": Fault(drop(6, domain="synthetic")),
    "usual_volume": Fault(one_more_frame),
    "real_width_as_agreed": Fault(put("width_px", 48, split="pool")),
    "real_height_as_agreed": Fault(put("height_px", 48, split="pool")),
    "footage_is_fresh": Fault(older),
    "returned_labels_sound": Fault(put("returned", False, 11, drive_id="carC")),
    "test_covers_times_of_day": Fault(put("time_of_day", "day", None, split="test")),
    "test_covers_weathers": Fault(put("weather", "rain", None, split="test")),
}
CURATE = FRAMES | {
    # every frame of a version has a label, so an unknown author is also no author
    "label_source_known": Fault(put("label_source", "alien", split="val"), frozenset({"label_has_an_author"})),
    "split_known": Fault(put("split", "hold", split="val")),
    "train_frames_complete": Fault(drop(1, split="train")),
    "train_labels_checked": Fault(put("label_source", "pseudo", split="train")),
    # fewer than the last version are also fewer than expected
    "not_shrunk": Fault(drop(3, split="train"), frozenset({"train_frames_complete"})),
    "classes_shown": Fault(shares(0.6, 0.0, 0.4, split="train")),
}
SELECT = {
    # each column of this small table is also looked at by other rules
    "columns_present": Fault(
        lambda table: table.drop(columns="rank"),
        frozenset({"values_present", "numbers_finite", "rank_unique", "rank_within_budget"}),
    ),
    "values_present": Fault(put("in_pool", None)),
    "budget_exact": Fault(drop(1)),
    "frame_id_unique": Fault(same("frame_id")),
    "chosen_from_pool": Fault(put("in_pool", False)),
    "not_labelled_before": Fault(put("in_labelled", True)),
    "split_is_pool": Fault(put("split", "test")),
    "numbers_finite": Fault(put("score", np.nan), frozenset({"values_present"})),
    "rank_unique": Fault(same("rank")),
    "rank_within_budget": Fault(put("rank", 0)),
    "scores_differ": Fault(put("score", 1.0, None)),
    "drives_mixed": Fault(put("drive_id", "carA", 18)),
}
ADAPT = {
    "columns_present": Fault(
        lambda table: table.drop(columns="confidence"),
        frozenset({"numbers_finite", "confidence_is_a_share", "confidence_on_average", "confidence_of_most_frames"}),
    ),
    "frame_id_present": Fault(put("frame_id", None)),
    "frame_id_unique": Fault(same("frame_id")),
    "enough_frames": Fault(drop(51)),
    "numbers_finite": Fault(put("ignore_fraction", np.nan)),
    "confidence_is_a_share": Fault(put("confidence", 1.5)),
    "ignore_fraction_is_a_share": Fault(put("ignore_fraction", -0.1)),
    "ignore_fraction_of_a_frame": Fault(put("ignore_fraction", 0.97, 6)),
    "ignore_fraction_on_average": Fault(put("ignore_fraction", 0.9, None)),
    "confidence_on_average": Fault(put("confidence", 0.45, None)),
    "confidence_of_most_frames": Fault(put("confidence", 0.1, 12)),
    "class_shares_near_source": Fault(shares(0.7, 0.1, 0.2)),
    # what breaks the hard limit breaks the soft one
    "class_shares_not_collapsed": Fault(shares(0.04, 0.04, 0.92), frozenset({"class_shares_near_source"})),
    "classes_kept": Fault(shares(0.575, 0.025, 0.4)),
    "fused_shares_near_source": Fault(put("fused_px_road", 0, None)),
    "detected_classes_kept": Fault(put("detected_px_road", 1, None)),
    "detected_pixels_right": Fault(put(("detected_right_px_person", "detected_right_px_road"), 1.0, None)),
}
METRICS = {
    "figures_measured": Fault(put("value", np.nan, metric="seconds")),
    "gate_id_unique": Fault(lambda table: pd.concat([table, table.tail(1)], ignore_index=True)),
    "required_figures": Fault(lambda table: table.drop(index=1)),
    "required_figures_bounded": Fault(unbound),
    "at_least_lower": Fault(put("value", 0.3, slice="night", metric="miou")),
    "at_most_upper": Fault(put("value", 20.0, metric="latency_ms")),
}
FAULTS = {"ingest": INGEST, "curate": CURATE, "select": SELECT, "adapt": ADAPT} | dict.fromkeys(
    ("adapt_metrics", "train_prune", "compress", "evaluate"), METRICS
)
CASES = [(suite, identifier) for suite in SUITE_NAMES for identifier in FAULTS[suite]]


def that_can_see(suite: Suite, table: pd.DataFrame, faulty: pd.DataFrame, parameters: dict) -> Suite:
    """Keep the rules that look at something that changed; the others have the same to look at as before."""
    if len(table) != len(faulty) or list(table) != list(faulty):
        return suite
    changed = {name for name in table if not table[name].equals(faulty[name])}
    assert changed, "nothing was planted"
    bound = bind(suite, parameters)
    seeing = [e for e in suite.expectations if columns_read(e, substitute(e.kwargs, bound), table) & changed]
    return replace(suite, expectations=tuple(seeing))


def judged(suite: Suite, table: pd.DataFrame, parameters: dict) -> Verdict:
    return judge(suite, table, parameters, (), TODAY)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_good_data_passes_every_rule(name, good):
    suite = load_suite(name)
    verdict = judged(suite, *good(name))
    assert (verdict.decision, verdict.failed, verdict.not_checked) == ("pass", (), ())
    assert verdict.checked == len(suite.expectations)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_rule_has_a_fault(name):
    assert set(FAULTS[name]) == {expectation.id for expectation in load_suite(name).expectations}


@pytest.mark.parametrize(("name", "identifier"), CASES)
def test_fault_fails_its_rule_alone(name, identifier, good):
    suite = load_suite(name)
    table, parameters = good(name)
    fault = FAULTS[name][identifier]
    faulty = fault.plant(table.copy())
    verdict = judged(that_can_see(suite, table, faulty, parameters), faulty, parameters)
    assert {failure.id for failure in verdict.failed} == {identifier} | fault.also
    failure = next(failure for failure in verdict.failed if failure.id == identifier)
    assert failure.observed and not failure.observed.startswith("could not be applied")
    severities = {failure.severity for failure in verdict.failed}
    assert verdict.decision == ("refuse" if "critical" in severities else "warn" if "warning" in severities else "pass")
