"""Rendered street frames in a store, for what is measured of loading them."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pandas as pd

from perception.data.loading import usable_cores
from perception.data.store import FolderStore
from perception.simulator.folder import encode_scene, scene_frames
from perception.simulator.world import World

TAXONOMY = "cityscapes19"
Pair = tuple[bytes, bytes]  # an image and its label, encoded


def encoded_streets(count: int, height_px: int) -> list[Pair]:
    """Render one frame a drive, twice as wide as high, in all cores: its JPEG and its label's PNG."""
    with ProcessPoolExecutor(usable_cores(), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(_encoded, height_px), range(count)))


def _encoded(height_px: int, drive: int) -> Pair:
    ((_, scene),) = scene_frames(
        World(), "street", seed=1, drives=1, frames_per_drive=1, first_drive=drive, height_px=height_px, width_px=2 * height_px
    )  # fmt: skip
    encoded = encode_scene(scene)
    return encoded.image_jpg, encoded.label_png


def stored(pairs: list[Pair], store: FolderStore) -> pd.DataFrame:
    """Put frames into a store and return their rows."""
    rows = [
        (f"f{n:04d}", store.put(image, "jpg").uri, store.put(label, "png").uri)
        for n, (image, label) in enumerate(pairs)
    ]
    return pd.DataFrame(rows, columns=["frame_id", "image_uri", "label_uri"]).assign(label_taxonomy=TAXONOMY)
