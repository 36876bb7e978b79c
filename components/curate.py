"""curate: put the newly labelled frames and the last data version together into the next one."""

from typing import TYPE_CHECKING

from components.stage.declaration import BASE, FRAMES, Needs, Paths, Port, Stage
from components.stage.learning import Taxonomy, labelled_so_far, read_frames, write_json
from components.stage.records import log, progress_line
from perception.errors import InputError
from perception.parameters import Count, checked

if TYPE_CHECKING:
    import pandas as pd

_SELECTED = {"frame_id": "text", "score": "number", "rank": "whole number", "reason": "text"}


@checked
class CurateParameters:
    """Say where blobs are and how the version is packed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    frames_per_shard: Count = 200  # frames in one tar; a version adds shards and never rewrites one


def run(inputs: Paths, outputs: Paths, parameters: CurateParameters) -> None:
    """Reveal the labels of the selected frames and write the version, held-out frames included, and the table of its gate.

    Selected frames of a fleet without hidden labels wait for their annotation; a later night takes them in.
    """
    import pandas as pd

    from perception.data.store import open_store
    from perception.quality.intake import gate_table, profile_labels, with_class_pixels
    from perception.versioning.curated import build_version

    store, folder = open_store(parameters.store), outputs.one("curated")
    frames, known = read_frames(inputs), labelled_so_far(inputs)
    labelled = _newly_labelled(inputs, frames)
    held_out = frames[frames.split.isin(["val", "test"])]
    version = pd.concat([known, labelled, held_out], ignore_index=True)
    twice = version.frame_id[version.frame_id.duplicated()]
    if len(twice):
        raise InputError(f"frame {twice.iloc[0]!r}: was selected though it has a label already; select again")
    facts = profile_labels(version, _profile(inputs), store, parameters.taxonomy)
    facts = facts[facts.frame_id.isin(version.frame_id)].sort_values("frame_id", ignore_index=True)
    base = inputs.one("base") if (inputs.one("base") / "run.json").exists() else None
    version = with_class_pixels(version, facts)
    progress = progress_line("curate")
    build_version(version, store, base, folder / "version", parameters.frames_per_shard, progress=progress)
    facts.to_parquet(folder / "version" / "profile.parquet", index=False)
    gate_table(version, facts).to_parquet(folder / "gate.parquet", index=False)
    bounds = {"expected_train_frames": len(known) + len(labelled)}
    write_json(folder / "gate_parameters.json", bounds | ({"parent_train_frames": len(known)} if base else {}))
    log(f"data version of {len(version)} frames, {len(labelled)} of them newly labelled, {len(held_out)} held out")


def _newly_labelled(inputs: Paths, frames: "pd.DataFrame") -> "pd.DataFrame":
    """Return the selected frames with their labels revealed and with why they were chosen."""
    from perception.data.tables import read_table
    from perception.quality.intake import ORACLE, reveal_selected

    selected = read_table(inputs.one("selection") / "selected.parquet", _SELECTED, key="frame_id")
    oracle = read_table(inputs.one("frames") / "oracle.parquet", ORACLE, key="frame_id")
    labelled, awaited = reveal_selected(frames[frames.frame_id.isin(selected.frame_id)], oracle)
    if awaited:
        log(f"{awaited} selected frames await their labels")
    why = labelled.drop(columns=list(_SELECTED)[1:], errors="ignore")
    return why.merge(selected[list(_SELECTED)], on="frame_id")


def _profile(inputs: Paths) -> "pd.DataFrame":
    """Return what was measured on the pixels of tonight's frames, and of the base version's where that kept it."""
    import pandas as pd

    from perception.data.tables import read_table
    from perception.quality.intake import PROFILE

    tonight = read_table(inputs.one("frames") / "profile.parquet", PROFILE, key="frame_id")
    kept = inputs.one("base") / "profile.parquet"
    if not kept.exists():
        return tonight
    before = read_table(kept, PROFILE, key="frame_id")
    return pd.concat([tonight, before[~before.frame_id.isin(tonight.frame_id)]], ignore_index=True)


STAGE = Stage(
    name="curate",
    summary="Build the next data version from the last one and the newly labelled frames.",
    inputs=(FRAMES, BASE, Port(name="selection", about="the frames chosen for labelling")),
    outputs=(
        Port(
            name="curated",
            about="version/ as it will be published, and the table that its gate judges",
            gate_table=True,
        ),
    ),
    parameters=CurateParameters,
    needs=Needs(image="torch", loads="pandas", cpu_cores=2, memory_gib=4),
    run=run,
)
