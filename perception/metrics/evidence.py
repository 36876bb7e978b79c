"""What a night's test set shows about how often the network fails, and what it does not: bounds that hold together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.errors import InputError
from perception.metrics import bounds
from perception.metrics.slices import DOMAIN, cell_slices

# Human drivers, failures per mile: Kalra and Paddock, "Driving to Safety", RAND 2016.
HUMAN_RATES: Mapping[str, float] = {"fatality": 1.09e-8, "injury": 77e-8, "crash": 190e-8}


@dataclass(frozen=True, kw_only=True)
class SliceEvidence:
    """Bound the failure rate of one cell of the operating domain; upper holds together with the other cells' bounds."""

    name: str
    frames: int
    drives: int
    failures: int
    upper: float
    share: float  # of operation, as the mix says
    known: bool  # enough frames and drives; otherwise the cell is unknown, not passed


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Hold every bound of a night at one confidence."""

    confidence: float
    frames: int
    failures: int
    drives: int
    failed_drives: int  # drives with at least one failed frame
    correlation: float  # intraclass correlation of failures within a drive
    design_effect: float
    effective_frames: int  # independent frames that the test set is worth
    upper_frames: float  # were all frames independent: too low a bound, given for comparison
    upper: float  # by drives: the bound to quote
    upper_95: float  # the same at 95 % confidence, whatever `confidence` is
    upper_drives: float  # share of drives with a failed frame
    cells: tuple[SliceEvidence, ...]  # worst bound first
    cells_of_domain: int
    cells_seen: int
    cells_known: int
    mix_upper: float  # of the rate under the operating mix
    claim_rate: float
    frames_needed: int  # independent frames without failure that would show claim_rate
    test_frames_needed: int  # the same in frames of drives like these
    miles: float
    miles_failures: int
    miles_upper: float | None  # failures per mile; None without miles
    miles_needed: Mapping[str, float]  # clean miles that would show the human rate of each kind


def intraclass_correlation(failed: NDArray[np.bool_], drive_of: NDArray[np.int64]) -> float:
    """Estimate how alike frames of one drive are in failing: 0 not at all, 1 all or none.

    failed: (frame,) bool; drive_of: (frame,) integers. The analysis-of-variance estimate for unequal group sizes
    (Donner 1986), clipped to [0, 1]; 1, the careful value, where it cannot be estimated: nothing failed or everything,
    a single drive, or one frame a drive (where it does not matter).
    """
    sizes = np.bincount(drive_of)
    sizes = sizes[sizes > 0]
    frames, drives = len(failed), len(sizes)
    if drives < 2 or frames == drives or failed.all() or not failed.any():
        return 1.0
    values = failed.astype(np.float64)
    _, place = np.unique(drive_of, return_inverse=True)
    means = np.bincount(place, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (drives - 1)
    within = float(((values - means[place]) ** 2).sum()) / (frames - drives)
    typical = (frames - float((sizes**2).sum()) / frames) / (drives - 1)
    spread = between + (typical - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 1.0


def gather_evidence(
    frames: pd.DataFrame,
    failed: NDArray[np.bool_],
    columns: Sequence[str],
    *,
    confidence: float = 0.95,
    mix: Mapping[str, float] | None = None,
    claim_rate: float = 0.01,
    minimum_frames: int = 10,
    minimum_drives: int = 8,
    miles: float = 0.0,
    miles_failures: int = 0,
) -> Evidence:
    """Bound the failure rate of judged frames overall, by cell and under an operating mix.

    frames: one row a frame with drive_id and `columns`; failed: (frame,) bool. mix: share of operation by cell name
    (`time_of_day=night,weather=rain,scene=urban`); by default the test set's own. A cell of the mix without frames has
    bound 1. Raises InputError for a mix that does not sum to 1 or no frames.
    """
    if not len(frames):
        raise InputError("no judged frame: nothing can be bounded; correct the test set")
    by_drive = failures_by_drive(frames, failed)
    sizes = by_drive.frames.to_numpy()
    drive_of = np.unique(frames.drive_id.to_numpy(str), return_inverse=True)[1]
    correlation = intraclass_correlation(failed, drive_of)
    # The size-weighted mean of drives is what a frame sees: large drives repeat themselves more.
    effect = bounds.design_effect(max(1.0, float((sizes**2).sum() / sizes.sum())), correlation)
    failures, count, failed_drives = int(failed.sum()), len(frames), int((by_drive.failures > 0).sum())
    cells, mixed = _cells(frames, failed, columns, mix, confidence, (minimum_frames, minimum_drives))
    whole = set(DOMAIN) <= set(columns)
    domain = math.prod(map(len, DOMAIN.values())) if whole else len(cell_slices(frames, columns))
    needed = bounds.trials_needed(claim_rate, confidence)
    return Evidence(
        confidence=confidence,
        frames=count,
        failures=failures,
        drives=len(by_drive),
        failed_drives=failed_drives,
        correlation=correlation,
        design_effect=effect,
        effective_frames=int(count / effect),
        upper_frames=bounds.failure_rate_upper(failures, count, confidence),
        upper=_upper(by_drive, confidence),
        upper_95=_upper(by_drive, 0.95),
        upper_drives=bounds.failure_rate_upper(failed_drives, len(by_drive), confidence),
        cells=cells,
        cells_of_domain=domain,
        cells_seen=sum(cell.frames > 0 for cell in cells),
        cells_known=sum(cell.known for cell in cells),
        mix_upper=mixed,
        claim_rate=claim_rate,
        frames_needed=needed,
        test_frames_needed=int(np.ceil(needed * effect)),
        miles=miles,
        miles_failures=miles_failures,
        miles_upper=bounds.rate_upper(miles_failures, miles, confidence) if miles else None,
        miles_needed={kind: bounds.miles_needed(rate, confidence) for kind, rate in HUMAN_RATES.items()},
    )


def failures_by_drive(frames: pd.DataFrame, failed: NDArray[np.bool_]) -> pd.DataFrame:
    """Count failures and frames of every drive: one row a drive."""
    return frames.assign(failed=failed).groupby("drive_id").failed.agg(failures="sum", frames="size")


def _upper(by_drive: pd.DataFrame, confidence: float) -> float:
    return bounds.drives_failure_upper(by_drive.failures.to_numpy(), by_drive.frames.to_numpy(), confidence)


def _cells(
    frames: pd.DataFrame,
    failed: NDArray[np.bool_],
    columns: Sequence[str],
    mix: Mapping[str, float] | None,
    confidence: float,
    least: tuple[int, int],
) -> tuple[tuple[SliceEvidence, ...], float]:
    """Bound every cell that has frames or a share of the mix, all together (Bonferroni), and their mix."""
    found = {cell.name: cell.rows for cell in cell_slices(frames, columns)}
    nothing = np.zeros(len(frames), bool)
    names = sorted(set(found) | set(mix or {}))
    if not names:
        return (), 1.0
    rows = [found.get(name, nothing) for name in names]
    total = sum(int(each.sum()) for each in rows)
    shares = [mix.get(name, 0.0) if mix else each.sum() / total for name, each in zip(names, rows, strict=True)]
    together = bounds.slice_confidence(confidence, len(names))
    tables = [failures_by_drive(frames[each], failed[each]) for each in rows]
    uppers = [_upper(table, together) for table in tables]
    cells = [
        SliceEvidence(
            name=name,
            frames=int(each.sum()),
            drives=len(table),
            failures=int(table.failures.sum()),
            upper=upper,
            share=float(share),
            known=bool(each.sum() >= least[0] and len(table) >= least[1]),
        )
        for name, each, table, upper, share in zip(names, rows, tables, uppers, shares, strict=True)
    ]
    return tuple(sorted(cells, key=lambda cell: (-cell.upper, cell.name))), bounds.mixed_bound(uppers, shares)
