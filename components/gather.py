"""gather: put the frames of all batches together into the night's one manifest, and say whether any of them is new."""

from typing import TYPE_CHECKING

from components.ingest.sources import Source
from components.stage.declaration import BASE, Needs, Paths, Port, Stage
from components.stage.learning import Taxonomy
from components.stage.parameters import shared_fields
from components.stage.records import log
from perception.parameters import Seed, checked

if TYPE_CHECKING:
    import pandas as pd


@checked
class GatherParameters:
    """Say what is asked of each source as a whole."""

    sources: dict[str, Source]  # every source of the night by name
    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    seed: Seed  # of the initial random draw


def run(inputs: Paths, outputs: Paths, parameters: GatherParameters) -> dict[str, str | int]:
    """Write one frames folder out of all that arrived; give news as "some" or "nothing", tell how many are new."""
    from perception.data.manifest import read_manifest
    from perception.data.store import open_store
    from perception.quality.intake import SourceRules, gather_frames

    rules = {
        name: shared_fields(SourceRules, source, max_rejected_fraction=source.tolerated_fraction())
        for name, source in parameters.sources.items()
    }
    store, folder = open_store(parameters.store), outputs.one("frames")
    frames = gather_frames(inputs.many("arrived"), folder, rules, store, parameters.taxonomy, parameters.seed)
    news = find_news(frames, read_manifest(inputs.one("base") / "manifest.parquet"))
    log(f"{len(frames)} frames from {len(parameters.sources)} sources, {news} that the base version does not hold")
    return {"news": "some" if news else "nothing", "new": news}


def find_news(frames: "pd.DataFrame", base: "pd.DataFrame") -> int:
    """Return how many real frames to choose from or to learn from the base version lacks, or has with another label.

    frames, base: rows of manifests.
    """
    real = frames[(frames.domain == "real") & frames.split.isin(["pool", "train"])]
    known = real[["frame_id", "label_sha256"]].merge(
        base[["frame_id", "label_sha256"]], on="frame_id", suffixes=("", "_base")
    )
    same = known[(known.label_sha256 == known.label_sha256_base) | known.label_sha256.isna()]
    return len(real) - len(same)


STAGE = Stage(
    name="gather",
    summary="Put the frames of all batches together into the night's one manifest, and say whether any is new.",
    inputs=(Port(name="arrived", about="frames folders, one a batch", many=True), BASE),
    outputs=(
        Port(
            name="frames", about="the night's frames: manifest, profile, rejected files, hidden labels", gate_table=True
        ),
    ),
    value="news",
    parameters=GatherParameters,
    needs=Needs(image="torch", loads="pandas", memory_gib=4),
    run=run,
)
