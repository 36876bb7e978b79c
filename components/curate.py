"""curate: put the newly labelled frames and the last data version together into the next one."""

from dataclasses import dataclass

from components.contract import Needs, Paths, Port, Stage, log, progress_line
from components.learning import labelled_so_far, read_frames, write_json
from components.parameters import require


@dataclass(frozen=True, kw_only=True)
class CurateParameters:
    """Say where blobs are and how the version is packed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: str  # pixels of labels are counted by its classes
    frames_per_shard: int = 200  # frames in one tar; a version adds shards and never rewrites one

    def __post_init__(self) -> None:
        require(self.frames_per_shard >= 1, "frames_per_shard", self.frames_per_shard, "must be at least 1")


def run(inputs: Paths, outputs: Paths, parameters: CurateParameters) -> None:
    """Reveal the labels of the selected frames and write the version: manifest, shards, and the table that its gate judges."""
    import pandas as pd

    from perception.data.store import open_store
    from perception.quality.intake import gate_table, profile_labels, reveal
    from perception.versioning.curated import build_version

    store, folder = open_store(parameters.store), outputs.one("curated")
    selected = pd.read_parquet(inputs.one("selection") / "selected.parquet")
    oracle = pd.read_parquet(inputs.one("frames") / "oracle.parquet")
    frames = read_frames(inputs)
    chosen = frames[frames.frame_id.isin(selected.frame_id)].drop(columns=list(oracle.columns.drop("frame_id")))
    labelled = chosen.merge(reveal(oracle, list(chosen.frame_id)), on="frame_id", validate="one_to_one")
    labelled = labelled.assign(split="train", label_source="human")
    known = labelled_so_far(inputs)
    version = pd.concat([known, labelled], ignore_index=True)
    base = inputs.one("base") if (inputs.one("base") / "run.json").exists() else None
    build_version(
        version, store, base, folder / "version", parameters.frames_per_shard, progress=progress_line("curate")
    )
    facts = profile_labels(
        version, pd.read_parquet(inputs.one("frames") / "profile.parquet"), store, parameters.taxonomy
    )
    held_out = frames[frames.split.isin(["val", "test"])]
    gate_table(pd.concat([version, held_out], ignore_index=True), facts).to_parquet(
        folder / "gate.parquet", index=False
    )
    write_json(folder / "gate_parameters.json", {"expected_train_frames": len(known) + len(selected)})
    log(f"data version of {len(version)} frames, {len(labelled)} of them new")


STAGE = Stage(
    name="curate",
    summary="Build the next data version from the last one and the newly labelled frames.",
    inputs=(
        Port(name="frames", kind="frames", about="the night's frames"),
        Port(name="base", kind="version", about="the data version that the night starts from"),
        Port(name="selection", kind="selection", about="the frames chosen for labelling"),
    ),
    outputs=(
        Port(
            name="curated", kind="version", about="version/ as it will be published, and the table that its gate judges"
        ),
    ),
    parameters=CurateParameters,
    needs=Needs(image="torch", cpu_cores=2, memory_gib=4),
    run=run,
)
