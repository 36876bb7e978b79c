"""Take frames in as a night does: resolve's listing, ingest, gather."""

from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from components import gather, ingest, resolve
from components.stage.declaration import Paths
from components.stage.learning import write_json
from components.stage.parameters import build_parameters
from perception.data.deny_list import NOTHING
from perception.data.manifest import empty_manifest, write_manifest
from perception.models.erfnet import ERFNet
from perception.uncertainty.ensemble import make_ensemble, save_ensemble
from perception.versioning.growing import open_book
from perception.versioning.repository import create_registry
from perception.versioning.tonight import Tonight
from tests.perception.data.annotation.batches import held


def run(stage: ModuleType, inputs: dict[str, list[Path]], output: str, folder: Path, **given: Any) -> Path:
    """Run a stage in this process and return the folder that it wrote."""
    folder.mkdir(parents=True)
    taken = Paths({name: tuple(folders) for name, folders in inputs.items()})
    stage.run(taken, Paths({output: (folder,)}), build_parameters(stage.STAGE.parameters, given, stage.STAGE.name))
    return folder


def untrained_ensemble(folder: Path) -> Path:
    """Write two small networks that have learned nothing yet."""
    ensemble = make_ensemble(lambda _seed: ERFNet(19, width=0.25), 2, seed=0)
    save_ensemble(ensemble, folder, {"kind": "dpe"})
    return folder


def empty_base(folder: Path) -> Path:
    """Write the base of a first night."""
    folder.mkdir(parents=True)
    write_manifest(empty_manifest(), folder / "manifest.parquet")
    tonight = Tonight(night="first", date="2026-11-30", entries=0)
    write_json(folder / "night.json", vars(tonight))
    return folder


def take_in(root: Path, name: str, sources: dict[str, dict[str, object]], store: Path, **size: Any) -> Path:
    """Take in all that has arrived in one batch; return the night's frames folder, root/name.

    The ledger knows the frames of the batches below root/drops.

    size: taxonomy, height_px and width_px.
    """
    place = root / f"{name}-intake"
    listing = place / "arrivals"
    listing.mkdir(parents=True)
    registry, base = str(place / "registry.git"), empty_base(place / "base")
    create_registry(registry, str(place / "remote"))
    wanted = {"registry": registry, "remote": "m", "store": str(store), "sources": sources, "batch_count": 1, "seed": 1}
    wanted |= {"run": "first", "height_px": size["height_px"], "width_px": size["width_px"]}
    parameters = build_parameters(resolve.ResolveParameters, wanted, "resolve")
    with patch("perception.versioning.pool.handed_out", lambda _book, _names: held(root / "drops")):
        resolve._write_listing(listing, base, parameters, "2026-11-30", open_book(registry), None, NOTHING)
    common: dict[str, Any] = {"sources": sources, "store": str(store), "seed": 1}
    arrived = run(
        ingest, {"arrivals": [listing / "0"]}, "arrived", place / "arrived", batch=0, batch_count=1, **common, **size
    )
    inputs = {"arrived": [arrived], "base": [base]}
    return run(gather, inputs, "frames", root / name, taxonomy=size["taxonomy"], registry=registry, **common)
