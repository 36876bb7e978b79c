"""curate: put the newly labelled frames and the last data version together into the next one."""

from typing import TYPE_CHECKING

from components.stage.declaration import BASE, FRAMES, Needs, Paths, Port, Stage
from components.stage.learning import ORACLE_NAME, Taxonomy, labelled_so_far, read_frames, write_json
from components.stage.records import log, progress_line
from perception.errors import InputError
from perception.parameters import Count, checked

if TYPE_CHECKING:
    import pandas as pd

_WHY = {"frame_id": "text", "score": "number", "rank": "whole number", "reason": "text"}
_SELECTED = _WHY | {"fresh": "flag", "prelabel_uri": "text?"}
_EVENTS = {"frame_id": "text", "event": "text", "batch": "text", "who": "text?", "why": "text?", "label_drop": "text?"}


@checked
class CurateParameters:
    """Say where blobs are and how the version is packed."""

    store: str  # blob store: a folder or s3://bucket/prefix
    taxonomy: Taxonomy  # pixels of labels are counted by its classes
    frames_per_shard: Count = 200  # frames in one tar; a version adds shards and never rewrites one


def run(inputs: Paths, outputs: Paths, parameters: CurateParameters) -> dict[str, int]:
    """Reveal the labels of the selected frames and write the version, held-out frames included, and the table of its gate; in
    events.parquet what the ledger will say of tonight.

    Selected frames of a fleet without hidden labels wait for their annotation, those drawn uniformly wait for the next night. Tells
    how many labels were accepted, and how many training frames of the version have a label by people.
    """
    import pandas as pd

    from perception.data.store import open_store
    from perception.data.tables import read_table
    from perception.quality.intake import gate_table, profile_labels, with_class_pixels
    from perception.versioning.curated import build_version

    store, folder = open_store(parameters.store), outputs.one("curated")
    frames, known = read_frames(inputs), labelled_so_far(inputs)
    selected = read_table(inputs.one("selection") / "selected.parquet", _SELECTED, key="frame_id")
    labelled = _newly_labelled(inputs, frames, selected[~selected.fresh])
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
    events = _events(inputs, selected, labelled)
    events.to_parquet(folder / "events.parquet", index=False)
    write_json(folder / "gate_parameters.json", bounds | ({"parent_train_frames": len(known)} if base else {}))
    accepted = int((events.event == "accepted").sum())
    log(f"data version of {len(version)} frames, {len(labelled)} of them newly labelled, {len(held_out)} held out")
    by_people = (version.split == "train") & (version.label_source == "human")
    return {"labelled": accepted, "human_labels": int(by_people.sum())}


def _events(inputs: Paths, selected: "pd.DataFrame", labelled: "pd.DataFrame") -> "pd.DataFrame":
    """Return tonight's events of the ledger in their order: what came back, what goes out, what is revealed at once."""
    import pandas as pd

    from perception.data.tables import read_record, read_table
    from perception.reporting.records import Selection

    batch = read_record(inputs.one("selection") / "selection.json", Selection).annotation_batch
    came = read_table(inputs.one("frames") / "labels.parquet", _EVENTS)
    opened = selected[["frame_id", "fresh", "prelabel_uri"]].assign(event="opened", batch=batch, why=selected.reason)
    shown = labelled[["frame_id"]].assign(batch=batch, who=ORACLE_NAME)
    parts = [came, opened, shown.assign(event="returned"), shown.assign(event="accepted")]
    events = pd.concat([each for each in parts if len(each)] or parts[:1], ignore_index=True)
    events = events.reindex(columns=[*_EVENTS, "fresh", "prelabel_uri"])
    return events.assign(fresh=events.fresh.eq(True))


def _newly_labelled(inputs: Paths, frames: "pd.DataFrame", selected: "pd.DataFrame") -> "pd.DataFrame":
    """Return the selected frames with their labels revealed and with why they were chosen."""
    from perception.data.tables import read_table
    from perception.quality.intake import ORACLE, reveal_selected

    oracle = read_table(inputs.one("frames") / "oracle.parquet", ORACLE, key="frame_id")
    labelled, awaited = reveal_selected(frames[frames.frame_id.isin(selected.frame_id)], oracle)
    if awaited:
        log(f"{awaited} selected frames await their labels")
    why = labelled.drop(columns=list(_WHY)[1:], errors="ignore")
    return why.merge(selected[list(_WHY)], on="frame_id")


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
