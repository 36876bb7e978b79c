"""Readers of public folder layouts: each lists the frames of a folder and checks that its files belong together."""

from collections.abc import Mapping

from perception.data.readers.bdd100k import bdd100k_frames
from perception.data.readers.camvid import camvid_frames, camvid_label
from perception.data.readers.cityscapes import cityscapes_frames
from perception.data.readers.games import gta5_frames, viper_frames, viper_instances
from perception.data.readers.layout import RawFrame, Reader, Shards
from perception.data.readers.mapillary import mapillary_frames
from perception.data.readers.scenes_folder import scenes_folder_frames
from perception.data.readers.synthia import synthia_frames, synthia_instances, synthia_label
from perception.data.readers.webdataset import (
    shard_frames,
    shard_paths,
    webdataset_frames,
    webdataset_image,
    webdataset_instances,
    webdataset_label,
)
from perception.errors import InputError

__all__ = ["READERS", "RawFrame", "Reader", "open_reader"]


def open_reader(format: str) -> Reader:
    """Find the reader of a format by its name; raises InputError for an unknown one."""
    if format not in READERS:
        raise InputError(f"format {format!r} is unknown; use one of {', '.join(sorted(READERS))}")
    return READERS[format]


_ALL = (
    Reader("bdd100k", "bdd100k", bdd100k_frames),
    Reader("camvid", "camvid11", camvid_frames, label=camvid_label),
    Reader("cityscapes", "cityscapes_ids", cityscapes_frames),
    Reader("gta5", "gta5", gta5_frames),
    Reader("mapillary_v1_2", "mapillary_v1_2", mapillary_frames("v1.2", "mapillary_v1_2")),
    Reader("mapillary_v2_0", "mapillary_v2_0", mapillary_frames("v2.0", "mapillary_v2_0")),
    Reader("scenes_folder", "cityscapes19", scenes_folder_frames),
    Reader("synthia", "synthia16", synthia_frames, label=synthia_label, instances=synthia_instances),
    Reader("viper", "viper", viper_frames, instances=viper_instances),
    Reader(
        "webdataset", "cityscapes19", webdataset_frames,
        image=webdataset_image, label=webdataset_label, instances=webdataset_instances,
        shards=Shards(shard_paths, shard_frames),
    ),
)  # fmt: skip
READERS: Mapping[str, Reader] = {reader.name: reader for reader in _ALL}
