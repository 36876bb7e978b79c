"""What the adaptation table learns from and is judged on: simulator frames, a target's frames, on the device as bytes."""

import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.adaptation.detector_training import INSTANCES_PER_CLASS, TargetSettings, class_channels, encode_targets
from perception.data.taxonomies import Taxonomy, label_lookup, load_taxonomy
from perception.errors import InputError
from perception.simulator.render import render_drive
from perception.simulator.world import Rendering, World

# The first of each: no frame is in two.
SIMULATOR_DRIVES, FOREGROUND_DRIVES, HELD_OUT_DRIVES = 100_000, 200_000, 300_000
STREET_DRIVES, STREET_TEST_DRIVES = 400_000, 500_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """Simulator frames of one taxonomy.

    images: (frame, 3, height, width) uint8; labels: (frame, height, width) uint8 class ids, 255 = ignored; instances:
    (frame, height, width) uint16, class_id * 1000 + number, 0 = none.
    """

    images: Tensor
    labels: Tensor
    instances: NDArray[np.uint16]


def rendered(
    world: World,
    rendering: Rendering,
    taxonomy: Taxonomy,
    seed: int,
    drives: Sequence[int],
    size: tuple[int, int],
    workers: int,
) -> Simulated:
    """Render one frame of each drive, in the classes of a taxonomy. size: (height, width) in pixels."""
    found = _in_processes(partial(_render, world, rendering, seed, size), list(drives), workers)
    images, labels, instances = (np.stack(part) for part in zip(*found, strict=True))
    lookup = label_lookup("cityscapes19", taxonomy.name)
    return Simulated(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(lookup[labels]),
        instances=_in_taxonomy(instances, lookup, taxonomy),
    )


def keep(path: Path, frames: Simulated) -> None:
    """Write frames to one file, whole or not at all."""
    _keep(path, images=frames.images.numpy(), labels=frames.labels.numpy(), instances=frames.instances)


def _keep(path: Path, **arrays: NDArray[Any]) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def kept(path: Path) -> Simulated:
    """Read frames that `keep` wrote; raises InputError where they are gone or damaged."""
    file = _arrays(path, ("images", "labels", "instances"))
    images, labels = (torch.from_numpy(file[name]) for name in ("images", "labels"))
    return Simulated(images=images, labels=labels, instances=file["instances"])


def _arrays(path: Path, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file that an earlier cell kept, at least those of these names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in dict.fromkeys((*names, *file.files))}
    except FileNotFoundError:
        problem = "the frames of an earlier cell are gone"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        problem = "the frames of an earlier cell are damaged"
    else:
        return arrays
    raise InputError(f"{path}: {problem}; remove the folder {path.parent.parent} and begin anew")


def joined(parts: Sequence[Simulated]) -> Simulated:
    """Return all frames of several parts."""
    return Simulated(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        instances=np.concatenate([part.instances for part in parts]),
    )


def foreground_ids(taxonomy: Taxonomy) -> list[int]:
    """Return the class ids of things that have instances."""
    return [number for number, flag in enumerate(taxonomy.foreground) if flag]


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Frames as the detector's loss takes them: the fields of DetectionBatch, over all frames, images as bytes."""

    fields: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.fields["images"])


def detector_frames(frames: Simulated, taxonomy: Taxonomy, targets: TargetSettings, workers: int) -> Instances:
    """Encode what the detector is to say about simulator frames."""
    class_ids = foreground_ids(taxonomy)
    encode = partial(encode_targets, channels=class_channels(class_ids), classes=len(class_ids), settings=targets)
    encoded = _in_processes(encode, list(frames.instances), workers)
    fields = {name: torch.from_numpy(np.stack([each[name] for each in encoded])) for name in encoded[0]}
    return Instances(fields={"images": frames.images} | fields)


def keep_targets(path: Path, frames: Instances) -> None:
    """Write what the detector learns from to one file, whole or not at all."""
    _keep(path, **{name: value.numpy() for name, value in frames.fields.items()})


def kept_targets(path: Path) -> Instances:
    """Read what `keep_targets` wrote; raises InputError where it is gone or damaged."""
    return Instances(fields={name: torch.from_numpy(array) for name, array in _arrays(path, ("images",)).items()})


def _render(
    world: World, rendering: Rendering, seed: int, size: tuple[int, int], drive: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    (scene,) = render_drive(world, rendering, seed, drive, 1, *size)
    return scene.image, scene.label, scene.instances


def _in_processes(function, values: list, workers: int) -> list:  # type: ignore[no-untyped-def,type-arg]
    """Apply a function to each value, over processes where several workers are asked for."""
    if workers <= 1:
        return [function(value) for value in values]
    # A process that has used a GPU cannot be forked; spawned ones import everything anew.
    start = "spawn" if torch.cuda.is_initialized() else "fork"
    # One thread each: there are as many processes as cores are to be used.
    with ProcessPoolExecutor(workers, get_context(start), cv2.setNumThreads, (1,)) as pool:
        return list(pool.map(function, values, chunksize=16))


def _in_taxonomy(instances: NDArray[np.uint16], lookup: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.uint16]:
    """Name instances by the classes of a taxonomy; what is background there is no instance."""
    class_ids = lookup[np.minimum(instances // INSTANCES_PER_CLASS, 255)]
    named = class_ids.astype(np.uint16) * INSTANCES_PER_CLASS + instances % INSTANCES_PER_CLASS
    kept = (instances > 0) & np.isin(class_ids, foreground_ids(taxonomy))
    return np.where(kept, named, 0).astype(np.uint16)


def taxonomy_of(data_kind: str) -> Taxonomy:
    """Return the classes that a target is judged in."""
    return load_taxonomy("camvid11" if data_kind == "camvid" else "cityscapes19")
