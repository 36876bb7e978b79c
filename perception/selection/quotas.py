"""Least shares of the budget for conditions and classes."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from perception.selection.settings import Quota


def quota_members(candidates: pd.DataFrame, quota: Quota) -> np.ndarray:
    """Return (candidate,) bool: the frames that the quota is about; unknown conditions and shares are not."""
    if quota.class_id is None:
        return (candidates[quota.column] == quota.value).fillna(False).to_numpy(bool)
    shares = candidates["class_share"]
    return np.array([len(row) > quota.class_id and row[quota.class_id] >= quota.class_share for row in shares], bool)


def quota_frames(quota: Quota, budget_frames: int) -> int:
    """Return how many frames of the budget the quota asks for, rounded up."""
    return math.ceil(quota.minimum_share * budget_frames - 1e-9)


class QuotaBook:
    """Keep count of what the quotas still lack, and say when the rest of the budget must go to them.

    members: by quota, (candidate,) bool. A quota bites only when the frames left to choose are as few as the frames
    still lacking; until then the strategy chooses freely.
    """

    def __init__(self, candidates: pd.DataFrame, quotas: Sequence[Quota], budget_frames: int) -> None:
        self.quotas = quotas
        self.members = [quota_members(candidates, quota) for quota in quotas]
        self.lacking = [quota_frames(quota, budget_frames) for quota in quotas]

    def allowed(self, open_frames: np.ndarray, slots: int) -> tuple[np.ndarray, str | None]:
        """Return the frames that may be chosen next, and the quota that narrows them, in words (None: none does).

        open_frames: (candidate,) bool, frames neither chosen nor suppressed. slots: frames left to choose. A quota
        asks for no more than the pool has left.
        """
        if not self.quotas:
            return open_frames, None
        wanted = np.zeros(len(open_frames), dtype=bool)
        lacking, names = 0, []
        for quota, members, missing in zip(self.quotas, self.members, self.lacking, strict=True):
            available = members & open_frames
            due = min(missing, int(available.sum()))
            if due > 0:
                wanted |= available
                lacking += due
                names.append(quota.name)
        if lacking < slots or not names:
            return open_frames, None
        return wanted, " or ".join(names)

    def spend(self, row: int) -> None:
        """Count one chosen frame towards every quota that it belongs to."""
        self.lacking = [
            lacking - int(members[row]) for lacking, members in zip(self.lacking, self.members, strict=True)
        ]
