"""Divide a pool into shards that can be scored on different machines."""

import zlib

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.errors import InputError


def in_shard(drive_ids: pd.Series, shard: int, shard_count: int) -> NDArray[np.bool_]:
    """Return which frames belong to a shard: a drive's frames stay together, whatever else is in the pool.

    drive_ids: (frame,) str. Returns (frame,) bool. Raises InputError when shard is not in 0..shard_count-1.
    """
    if not 0 <= shard < shard_count:
        raise InputError(
            f"shard {shard} of {shard_count}: shards count from 0 to {shard_count - 1}; correct the number"
        )
    shard_of = {drive: zlib.crc32(str(drive).encode()) % shard_count for drive in drive_ids.unique()}
    return drive_ids.map(shard_of).to_numpy() == shard
