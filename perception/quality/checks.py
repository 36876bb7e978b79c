"""Our own expectations as plain functions of a table; perception/quality/expectations.py makes gates of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from perception.quality.profile import hash_values, near_values

SHOWN = 10  # offending rows whose values are shown
_NAMED = 5  # classes, drives named in words
_SEEN, _COLLAPSED = 0.001, 0.1  # a class of at least this share has collapsed below this part of it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one check found."""

    success: bool
    evaluated: int  # how many things were looked at; 0 means that nothing was
    observed: str  # in words
    count: int = 0  # offending rows, or offending groups where rows are not what is counted
    positions: npt.NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))  # all offending rows
    values: tuple[dict[str, Any], ...] = ()  # of the first SHOWN offending rows


def _offending(
    positions: npt.NDArray[np.intp], evaluated: int, observed: str, values: Iterable[dict[str, Any]]
) -> Outcome:
    """Return the outcome of a check that names its offending rows; values: of the first SHOWN of them."""
    return Outcome(
        success=not len(positions),
        evaluated=evaluated,
        observed=observed,
        count=len(positions),
        positions=positions,
        values=tuple(values),
    )


def values_present(table: pd.DataFrame, column_list: Sequence[str]) -> Outcome:
    """Check that no row lacks a value in any of the columns."""
    return _cells(table, column_list, table[list(column_list)].isna(), "lack a value")


def values_finite(table: pd.DataFrame, column_list: Sequence[str]) -> Outcome:
    """Check that every row has a finite number in each of the columns: null, NaN and infinity fail."""
    bad = pd.DataFrame(
        {name: ~np.isfinite(table[name].to_numpy(dtype=np.float64, na_value=np.nan)) for name in column_list}
    )
    return _cells(table, column_list, bad, "lack a finite number")


def _cells(table: pd.DataFrame, columns: Sequence[str], bad: pd.DataFrame, what: str) -> Outcome:
    rows = bad.to_numpy()
    positions = np.flatnonzero(rows.any(axis=1))
    per_column = {name: int(n) for name, n in zip(columns, rows.sum(axis=0), strict=True) if n}
    said = ", ".join(f"{name} in {n}" for name, n in per_column.items())
    values = (
        {name: table[name].iloc[row] for name, wrong in zip(columns, rows[row], strict=True) if wrong}
        for row in positions[:SHOWN]
    )
    observed = f"{len(positions)} of {len(table)} rows {what}: {said}" if said else "every row has one"
    return _offending(positions, len(table), observed, values)


def _side_of(column: pd.Series, sides: Mapping[str, Sequence[str]]) -> pd.Series:
    return column.map({value: side for side, values in sides.items() for value in values})


def group_on_one_side(
    table: pd.DataFrame, group_column: str, side_column: str, sides: Mapping[str, Sequence[str]]
) -> Outcome:
    """Check that no group (a drive) has rows on two sides (splits)."""
    side = _side_of(table[side_column], sides)
    placed = pd.DataFrame({"group": table[group_column], "side": side}).dropna()
    sizes = placed.groupby(["group", "side"], observed=True, sort=True).size().unstack(fill_value=0)
    split = sizes[(sizes > 0).sum(axis=1) > 1]
    bad = table[group_column].isin(split.index) & side.notna()
    # the smaller side first: those are the frames that a person would move
    size = sizes.stack().reindex(pd.MultiIndex.from_arrays([table[group_column], side])).to_numpy()
    positions = np.flatnonzero(bad.to_numpy())
    positions = positions[np.argsort(size[positions], kind="stable")]
    named = [
        f"{group} ({', '.join(f'{name} {n}' for name, n in row.items() if n)})"
        for group, row in split.head(_NAMED).iterrows()
    ]
    rest = f" and {len(split) - _NAMED} more" if len(split) > _NAMED else ""
    observed = f"{len(split)} of {len(sizes)} on two sides: {', '.join(named)}{rest}" if len(split) else "none"
    values = ({name: table[name].iloc[row] for name in (group_column, side_column)} for row in positions[:SHOWN])
    return _offending(positions, len(placed), observed, values)


def group_share(table: pd.DataFrame, group_column: str, max_share: float) -> Outcome:
    """Check that no group (a drive) gives more than its share of the rows."""
    counts = table[group_column].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if counts.empty:
        return Outcome(success=False, evaluated=0, observed="no rows")
    over = counts[counts > max_share * len(table)]
    positions = np.flatnonzero(table[group_column].isin(over.index).to_numpy())
    said = ", ".join(f"{name} {n} of {len(table)}" for name, n in counts.head(_NAMED).items())
    values = table[[group_column]].iloc[positions[:SHOWN]].to_dict("records")
    return _offending(positions, int(counts.sum()), f"largest: {said}", values)


def class_shares(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Return each class's share of all counted pixels, from the columns <prefix><class>; empty without pixels."""
    counts = _class_counts(table, prefix)
    total = sum(counts.values())
    return {name: n / total for name, n in counts.items()} if total else {}


def _class_columns(table: pd.DataFrame, prefix: str) -> list[str]:
    return sorted(name for name in table.columns if name.startswith(prefix))


def _class_counts(table: pd.DataFrame, prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): int(table[name].sum()) for name in _class_columns(table, prefix)}


def class_pixels_fill(
    table: pd.DataFrame, prefix: str, void_column: str, width_column: str, height_column: str
) -> Outcome:
    """Check row by row that the pixels of all classes and of no class add up to the frame's."""
    counted = table[_class_columns(table, prefix)].sum(axis=1, min_count=1).to_numpy(dtype=np.float64, na_value=np.nan)
    size = table[width_column].to_numpy(dtype=np.float64) * table[height_column].to_numpy(dtype=np.float64)
    void = table[void_column].to_numpy(dtype=np.float64, na_value=np.nan) * size
    # half a pixel: the fraction may have been kept as float32
    positions = np.flatnonzero(~(np.abs(counted + void - size) < 0.5))
    values = ({"counted_px": counted[row], "void_px": void[row], "frame_px": size[row]} for row in positions[:SHOWN])
    return _offending(positions, len(table), f"{len(positions)} of {len(table)} rows do not add up", values)


def class_shares_near(
    table: pd.DataFrame, prefix: str, reference: Mapping[str, float], floor_share: float, max_divergence_nats: float
) -> Outcome:
    """Check that class shares of pixels stay near a reference, by Kullback-Leibler divergence KL(table || reference).

    reference: share of each class. A class that the reference has not seen counts there as floor_share, so that its
    first pixels neither pass unseen nor give an infinite divergence.
    """
    shares = class_shares(table, prefix)
    if not shares:
        return Outcome(success=False, evaluated=0, observed="no labelled pixels")
    names = sorted(set(shares) | set(reference))
    p = np.array([shares.get(name, 0.0) for name in names])
    q = np.maximum([float(reference.get(name, 0.0)) for name in names], floor_share)
    q /= q.sum()
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / q), 0.0) - p + q  # each at least 0; sums to KL
    worst = np.argsort(-terms, kind="stable")[:_NAMED]
    said = ", ".join(f"{names[k]} {p[k]:.3%} against {q[k]:.3%}" for k in worst)
    gone = [
        name for name, ours, theirs in zip(names, p, q, strict=True) if theirs > _SEEN and ours < _COLLAPSED * theirs
    ]
    collapsed = f"; collapsed to below a tenth: {', '.join(gone)}" if gone else ""
    divergence = float(terms.sum())
    return Outcome(
        success=bool(divergence <= max_divergence_nats),
        evaluated=sum(_class_counts(table, prefix).values()),
        observed=f"{divergence:.4f} nats; furthest: {said}{collapsed}",
    )


def class_mix_kept(
    table: pd.DataFrame,
    prefix: str,
    reference: Mapping[str, float],
    least_share: float,
    lowest_ratio: float,
    highest_ratio: float,
) -> Outcome:
    """Check that the mix of the classes that the table counts resembles the mix of the same classes in a reference.

    Shares are of the pixels of these classes alone. A class of at least least_share in the reference has collapsed when
    its share falls below lowest_ratio times the reference; one that takes at least least_share has swollen when that is
    above highest_ratio times the reference.
    """
    shares = class_shares(table, prefix)
    known = {name: float(reference.get(name, 0.0)) for name in shares}
    total = sum(known.values())
    if not shares or not total:
        return Outcome(success=False, evaluated=0, observed="no pixels to compare")
    expected = {name: share / total for name, share in known.items()}
    collapsed = [
        name for name in shares if expected[name] >= least_share and shares[name] < lowest_ratio * expected[name]
    ]
    swollen = [name for name in shares if shares[name] >= least_share and shares[name] > highest_ratio * expected[name]]
    said = {
        what: ", ".join(f"{name} {shares[name]:.1%} against {expected[name]:.1%}" for name in names[:_NAMED])
        for what, names in (("collapsed", collapsed), ("swollen", swollen))
        if names
    }
    return Outcome(
        success=not said,
        evaluated=sum(_class_counts(table, prefix).values()),
        observed="; ".join(f"{what}: {words}" for what, words in said.items()) or "every class near its share",
    )


def class_pixels_right(table: pd.DataFrame, prefix: str, right_prefix: str, min_share: float) -> Outcome:
    """Check the share of counted pixels that are right; classes of which the right ones are not known are left out."""
    counts, right = _class_counts(table, prefix), _class_sums(table, right_prefix)
    judged = {name: pixels for name, pixels in counts.items() if pixels and np.isfinite(right.get(name, np.nan))}
    total = sum(judged.values())
    if not total:
        return Outcome(success=False, evaluated=0, observed="no pixels whose quality is known")
    share = sum(right[name] for name in judged) / total
    worst = sorted(judged, key=lambda name: right[name] - judged[name])[:_NAMED]
    said = ", ".join(f"{name} {right[name] / judged[name]:.1%} of {judged[name]} px" for name in worst)
    return Outcome(
        success=bool(share >= min_share), evaluated=total, observed=f"{share:.1%} right; most wrong pixels: {said}"
    )


def _class_sums(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): float(table[name].sum(skipna=False)) for name in _class_columns(table, prefix)}


def class_pixels(table: pd.DataFrame, prefix: str, classes: Sequence[str], min_px: int) -> Outcome:
    """Check that every class has enough pixels in the whole table."""
    counts = _class_counts(table, prefix)
    few = {name: counts.get(name, 0) for name in classes if counts.get(name, 0) < min_px}
    said = ", ".join(f"{name} {px}" for name, px in few.items())
    return Outcome(
        success=not few,
        evaluated=len(table),
        observed=f"{len(few)} of {len(classes)} classes below: {said}" if few else "all there",
        count=len(few),
    )


def near_duplicates(
    table: pd.DataFrame, hash_column: str, side_column: str, sides: Mapping[str, Sequence[str]], max_distance_bits: int
) -> Outcome:
    """Check that no image on the second side looks like one on the first, by distance of their difference hashes.

    Offending rows are those of the second side; each names its nearest image of the first.
    """
    side = _side_of(table[side_column], sides).where(table[hash_column].notna())
    first, second = list(sides)
    rows_a = np.flatnonzero((side == first).to_numpy())
    rows_b = np.flatnonzero((side == second).to_numpy())
    hashes = table[hash_column]
    a, where_a = np.unique(hash_values(hashes.iloc[rows_a].tolist()), return_index=True)
    b, group_b = np.unique(hash_values(hashes.iloc[rows_b].tolist()), return_inverse=True)
    pairs = near_values(a, b, max_distance_bits)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 2], pairs[:, 1]))]
    near_b, nearest = np.unique(pairs[:, 1], return_index=True)
    best = np.full(len(b), -1)
    best[near_b] = nearest
    chosen = best[group_b]
    offending = np.flatnonzero(chosen >= 0)
    name = "frame_id" if "frame_id" in table.columns else hash_column
    values = (
        {
            f"nearest_in_{first}": table[name].iloc[rows_a[where_a[pairs[chosen[k], 0]]]],
            "distance_bits": int(pairs[chosen[k], 2]),
        }
        for k in offending[:SHOWN]
    )
    observed = f"{len(offending)} of {len(rows_b)} images of {second} look like one of {first}"
    return _offending(rows_b[offending], min(len(rows_a), len(rows_b)), observed, values)


CHECKS: dict[str, Callable[..., Outcome]] = {
    "expect_values_to_be_present": values_present,
    "expect_values_to_be_finite": values_finite,
    "expect_group_to_stay_on_one_side": group_on_one_side,
    "expect_group_share_to_be_at_most": group_share,
    "expect_class_pixels_to_fill_the_frame": class_pixels_fill,
    "expect_class_shares_to_stay_near": class_shares_near,
    "expect_class_mix_to_be_kept": class_mix_kept,
    "expect_class_pixels_to_be_right": class_pixels_right,
    "expect_class_pixels_to_reach": class_pixels,
    "expect_no_near_duplicates_across_sides": near_duplicates,
}
