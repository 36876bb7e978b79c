"""Intake: from the bytes of arriving frames to a frames folder, with every broken file listed and left out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.manifest import empty_manifest, read_manifest, validate_manifest, write_manifest
from perception.data.store import Store
from perception.data.tables import read_table
from perception.data.taxonomies import Taxonomy, load_taxonomy
from perception.errors import InputError
from perception.quality.profile import label_facts, profile_frame

# What the columns of the tables beside a manifest hold, as read_table checks it.
REJECTED = dict.fromkeys(("source", "path", "frame_id", "rule", "remedy"), "text")
ORACLE = dict.fromkeys(("frame_id", "source", "label_uri", "label_sha256", "label_taxonomy"), "text")
ORACLE |= {"instances_uri": "text?"}
PROFILE = dict.fromkeys(("frame_id", "source", "image_sha256_actual"), "text")
PROFILE |= {"decode_ok": "flag", "dhash": "text", "*": "number?"}
# What each object of footage gave, by reason (docs/footage.md).
OBJECTS = {"source": "text", "object": "text", "signature": "text", "*": "whole number"}
COUNTED = (
    "taken", "too_near", "unchanged", "other_camera", "no_time", "no_place", "damages", "clock_stands", "clock_jumps"
)  # fmt: skip
_Ledger = dict[str, list[dict[str, Any]]]  # rows of each table of an intake
_KNOWN = ("frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene")
_FOOTAGE = ("latitude", "longitude", "source_sha256", "privacy")  # known of frames of footage alone


class FrameFacts(Protocol):
    """What is known about a frame before its image is opened."""

    @property
    def frame_id(self) -> str: ...
    @property
    def drive_id(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """Hold one frame as it arrives: what is known about it and its files' bytes."""

    facts: FrameFacts
    image: bytes
    image_path: str
    label: bytes | None
    label_path: str
    label_taxonomy: str  # how the label file's values are to be read
    instances: bytes | None = None
    problem: BadFrame | None = None  # why its files could not be read
    label_drop: str | None = None  # the label drop that the label came with: batch/annotator/date


@dataclass(frozen=True)
class Intake:
    """Hold what one source gave."""

    manifest: pd.DataFrame
    profile: pd.DataFrame  # one row a frame: facts measured on pixels; nothing about hidden labels
    rejected: pd.DataFrame  # columns of REJECTED
    oracle: pd.DataFrame  # columns of ORACLE: labels that stay hidden until their frame is selected
    objects: pd.DataFrame  # columns of OBJECTS and COUNTED: the objects of footage that were read


def _nothing() -> Intake:
    """Return the intake of no frame: tables with their columns and no row."""
    return Intake(
        manifest=empty_manifest(),
        profile=pd.DataFrame(columns=list(PROFILE)[:-1]),
        rejected=pd.DataFrame(columns=list(REJECTED)),
        oracle=pd.DataFrame(columns=list(ORACLE)),
        objects=pd.DataFrame(columns=[*list(OBJECTS)[:-1], *COUNTED]).astype(dict.fromkeys(COUNTED, "int64")),
    )


@dataclass(frozen=True, kw_only=True)
class IntakeSettings:
    """Say how one source's frames are admitted."""

    source: str  # its name
    split: str  # that its frames get
    domain: str  # synthetic or real
    labels: str  # given: every frame keeps its label; oracle: stored but hidden; drop: back from annotation; none
    taxonomy: str  # pixels are counted by its classes, whatever a label file's own are, so that sources compare


def admit_frames(
    arrivals: Iterable[Arrival],
    count: int,
    store: Store,
    settings: IntakeSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Intake:
    """Check every arriving frame, put its files into the store and describe it in a manifest.

    count: how many frames arrive. Whether a hidden label file is sound is checked, since that depends on the file and
    not on what it shows. A broken frame, or one with a broken label, is listed and left out; whether too many are is
    for `gather_frames` to say, which sees the whole source.
    """
    nothing, counted = _nothing(), load_taxonomy(settings.taxonomy)
    ledger: _Ledger = {each.name: [] for each in fields(Intake)}
    for done, arrival in enumerate(arrivals, start=1):
        try:
            _admit(arrival, store, ledger, settings, counted)
        except BadFrame as bad:
            named = {"source": settings.source, "path": str(bad.path), "frame_id": arrival.facts.frame_id}
            ledger["rejected"].append(named | {"rule": bad.rule, "remedy": bad.remedy})
        if progress:
            progress(done, count)
    return Intake(**{name: pd.DataFrame(rows) if rows else getattr(nothing, name) for name, rows in ledger.items()})


def write_frames_folder(intake: Intake, folder: Path) -> None:
    """Write manifest, profile, rejected, oracle, objects and the gate's table into `folder`."""
    write_manifest(intake.manifest, folder / "manifest.parquet")
    for name in ("profile", "rejected", "oracle", "objects"):
        table: pd.DataFrame = getattr(intake, name)
        keys = [column for column in ("frame_id", "path", "object") if column in table]
        table = table.sort_values(keys, ignore_index=True) if len(table) else table
        table.to_parquet(folder / f"{name}.parquet", index=False)


def join_intakes(intakes: Sequence[Intake]) -> Intake:
    """Return several intakes as one; none give an empty one. A label drop's frame takes the place of the same frame as footage."""
    nothing = _nothing()

    def joined(name: str) -> pd.DataFrame:
        tables: list[pd.DataFrame] = [table for each in intakes if len(table := getattr(each, name))]
        return pd.concat(tables, ignore_index=True) if tables else getattr(nothing, name)

    return _without_superseded(Intake(**{each.name: joined(each.name) for each in fields(Intake)}))


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """Say what is asked of all frames of one source together."""

    labels: str  # as in IntakeSettings
    initial_labelled_frames: int = 0  # of an oracle: frames drawn by the seed that are labelled from the start
    max_rejected_fraction: float = 0.0  # more broken frames than this are an error


def gather_frames(
    arrived: Sequence[Path], folder: Path, rules: Mapping[str, SourceRules], store: Store, taxonomy: str, seed: int
) -> pd.DataFrame:
    """Write one frames folder out of those of all batches; return its manifest.

    rules: by source. Raises InputError when a frame_id occurs twice, but for a frame and its label drop, when too many frames
    of a source are broken, or one of a test or labelled set: a test set with a frame missing is another test set.
    """
    intake = join_intakes([_read_intake(path) for path in arrived])
    for source, rule in rules.items():
        _check_source(intake, source, rule)
        if rule.labels == "oracle" and rule.initial_labelled_frames:
            intake = _reveal_first(intake, source, rule.initial_labelled_frames, store, taxonomy, seed)
    intake = replace(intake, manifest=validate_manifest(intake.manifest, str(folder)))
    write_frames_folder(intake, folder)
    gate_table(intake.manifest, intake.profile).to_parquet(folder / "gate.parquet", index=False)
    return intake.manifest


def _read_intake(path: Path) -> Intake:
    intake = Intake(
        manifest=read_manifest(path / "manifest.parquet"),
        profile=read_table(path / "profile.parquet", PROFILE),
        rejected=read_table(path / "rejected.parquet", REJECTED),
        oracle=read_table(path / "oracle.parquet", ORACLE),
        objects=read_table(path / "objects.parquet", OBJECTS),
    )
    profiled, hidden = intake.profile.frame_id, intake.oracle.frame_id
    if not intake.manifest.frame_id.isin(profiled).all() or len(profiled) != len(intake.manifest):
        raise InputError(f"{path}: profile.parquet must have one row a frame of the manifest; ingest again")
    if hidden.duplicated().any():
        twice = hidden[hidden.duplicated()].iloc[0]
        raise InputError(f"{path}: oracle.parquet hides two labels for frame {twice!r}, must be one; ingest again")
    return intake


def _without_superseded(intake: Intake) -> Intake:
    """Leave out footage whose label a label drop brings; raises InputError when the drop is about another image."""
    frames = intake.manifest
    if "label_drop" not in frames:
        return intake
    dropped = frames[frames.label_drop.notna()][["frame_id", "image_sha256", "label_drop"]]
    footage = frames[frames.label_drop.isna() & (frames.label_source == "none")]
    both = footage[["frame_id", "source", "image_sha256"]].merge(dropped, on="frame_id", suffixes=("", "_dropped"))
    for frame in both[both.image_sha256 != both.image_sha256_dropped].itertuples():
        raise InputError(
            f"frame {frame.frame_id!r}: label drop {frame.label_drop} is about another image than the footage's; "
            "remove the label, or the frame that took its name"
        )
    gone = set(zip(both.frame_id, both.source, strict=True))

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        stays = [pair not in gone for pair in zip(table.frame_id, table.source, strict=True)]
        # as a series of truth values, since an empty list is one of columns
        return table[pd.Series(stays, table.index, dtype=bool)].reset_index(drop=True)

    return replace(intake, manifest=kept(frames), profile=kept(intake.profile), oracle=kept(intake.oracle))


def gate_table(manifest: pd.DataFrame, profile: pd.DataFrame) -> pd.DataFrame:
    """Join the manifest with the facts measured on pixels: one row a frame, the table that the ingest gate judges."""
    facts = profile.drop(columns=[column for column in profile if column in manifest and column != "frame_id"])
    return manifest.merge(facts, on="frame_id", how="left", validate="one_to_one")


def profile_labels(frames: pd.DataFrame, profile: pd.DataFrame, store: Store, taxonomy: str) -> pd.DataFrame:
    """Return the profile with the label facts of `frames` measured where they are missing: labels revealed since ingest.

    Frames that the profile lacks, those of earlier versions, are measured whole. Pixels are counted by the classes of
    `taxonomy`.
    """
    counted = load_taxonomy(taxonomy)
    known = profile.set_index("frame_id")
    rows = []
    for frame in frames.itertuples():
        facts = known.loc[frame.frame_id].to_dict() if frame.frame_id in known.index else _measure_image(frame, store)
        if pd.isna(facts.get("label_min")):
            own, size = load_taxonomy(frame.label_taxonomy), (int(frame.height_px), int(frame.width_px))
            facts |= label_facts(decode_label(store.get(frame.label_uri), frame.label_uri, own, size), own, counted)
        rows.append({"frame_id": frame.frame_id} | facts)
    others = profile[~profile.frame_id.isin(frames.frame_id)]
    return pd.concat([pd.DataFrame(rows), others], ignore_index=True)


def with_class_pixels(frames: pd.DataFrame, profile: pd.DataFrame) -> pd.DataFrame:
    """Return manifest rows with the class pixel counts and the void fraction that the profile has of them."""
    columns = [name for name in profile if name.startswith("px_")]
    counted = profile.set_index("frame_id")[[*columns, "void_fraction"]].reindex(frames.frame_id)
    facts = counted.astype("float64").reset_index(drop=True)
    kept = frames.drop(columns=[*columns, "void_fraction"], errors="ignore").reset_index(drop=True)
    return pd.concat([kept, facts.astype({"void_fraction": "float32"})], axis=1)


def _measure_image(frame: Any, store: Store) -> dict[str, Any]:
    image = decode_image(store.get(frame.image_uri), frame.image_uri)
    return {"image_sha256_actual": frame.image_sha256, "decode_ok": True} | profile_frame(image, None, None)


def reveal_selected(selected: pd.DataFrame, oracle: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the selected frames with their hidden labels, as training frames, and how many frames have none to reveal.

    selected: manifest rows of frames that were selected. A source has hidden labels for all of its frames or none: the
    frames of a source without wait for annotation. Raises InputError when only this frame's label is missing.
    """
    sources_with_labels = set(oracle.source)
    hidden = selected[selected.source.isin(sources_with_labels)]
    missing = hidden[~hidden.frame_id.isin(oracle.frame_id)]
    if len(missing):
        raise InputError(
            f"frame {missing.frame_id.iloc[0]!r}: was selected but has no label to reveal; add its label to the source"
        )
    bare = hidden.drop(columns=[column for column in oracle if column in hidden and column != "frame_id"])
    labelled = bare.merge(oracle, on="frame_id", validate="one_to_one")
    return labelled.assign(split="train", label_source="human"), len(selected) - len(hidden)


# ---------------------------------------------------------------- one frame


def _admit(arrival: Arrival, store: Store, ledger: _Ledger, settings: IntakeSettings, counted: Taxonomy) -> None:
    if arrival.problem:
        raise arrival.problem
    taxonomy = load_taxonomy(arrival.label_taxonomy)
    image = decode_image(arrival.image, arrival.image_path)
    label = None
    if arrival.label is not None and settings.labels != "none":
        label = decode_label(arrival.label, arrival.label_path, taxonomy, image.shape[:2])
    shown = label if settings.labels in ("given", "drop") else None
    facts = profile_frame(image, shown, taxonomy if shown is not None else None, counted)
    image_blob = store.put(arrival.image, Path(arrival.image_path).suffix.lstrip(".").lower())
    known: dict[str, Any] = {name: getattr(arrival.facts, name, None) for name in _KNOWN}
    known |= {name: getattr(arrival.facts, name) for name in _FOOTAGE if hasattr(arrival.facts, name)}
    row: dict[str, Any] = known | {
        "domain": settings.domain,
        "split": settings.split,
        "width_px": image.shape[1],
        "height_px": image.shape[0],
        "image_uri": image_blob.uri,
        "image_sha256": image_blob.sha256,
        "source": settings.source,
    }
    reference = _store_label(arrival, store) if label is not None else None
    named = {"frame_id": row["frame_id"], "source": settings.source}
    if settings.labels in ("given", "drop"):
        assert reference is not None, "a reader that was asked for labels gave a frame without one"
        row |= reference | {"label_source": "simulator" if settings.domain == "synthetic" else "human"}
        row |= {"label_drop": arrival.label_drop} if settings.labels == "drop" else {}
    else:
        row |= dict.fromkeys(("label_uri", "label_sha256", "label_taxonomy", "instances_uri")) | {
            "label_source": "none"
        }
        if reference is not None:
            ledger["oracle"].append(named | reference)
    ledger["manifest"].append(row)
    ledger["profile"].append(named | {"image_sha256_actual": image_blob.sha256, "decode_ok": True} | facts)


def _store_label(arrival: Arrival, store: Store) -> dict[str, Any]:
    assert arrival.label is not None
    label = store.put(arrival.label, "png")
    instances = store.put(arrival.instances, "png").uri if arrival.instances else None
    return {
        "label_uri": label.uri,
        "label_sha256": label.sha256,
        "label_taxonomy": arrival.label_taxonomy,
        "instances_uri": instances,
    }


# ---------------------------------------------------------------- all frames of a source


def _check_source(intake: Intake, name: str, rule: SourceRules) -> None:
    """Raise InputError where too many frames of a source are broken, or none is left; of a drop none may have come yet."""
    broken = intake.rejected[intake.rejected.source == name]
    count = int((intake.manifest.source == name).sum()) + len(broken)
    tolerated = rule.max_rejected_fraction
    if len(broken) > tolerated * count:
        first = broken.iloc[0]
        allowed = "none may be" if tolerated == 0 else f"at most {tolerated:.0%} may be"
        raise InputError(
            f"{first.path}: {first.rule}; {first.remedy} ({len(broken)} of {count} files of source {name!r} are broken, {allowed})"
        )
    if len(broken) == count and (rule.labels != "drop" or count):
        raise InputError(
            f"source {name!r}: not one of its {count} frames can be used; mend its files or leave the source out"
        )


def _reveal_first(intake: Intake, name: str, count: int, store: Store, taxonomy: str, seed: int) -> Intake:
    """Label `count` frames of a source from the start, drawn at random without regard to what their labels show."""
    own = intake.manifest[intake.manifest.source == name]
    order = sorted(own.frame_id, key=lambda frame_id: hashlib.sha256(f"{seed}:{frame_id}".encode()).digest())
    if count > len(order):
        raise InputError(
            f"source {name!r}: initial_labelled_frames = {count}, but it has {len(order)} frames; ask for fewer"
        )
    drawn = own[own.frame_id.isin(order[:count])]
    for frame_id in drawn.frame_id[~drawn.frame_id.isin(intake.oracle.frame_id)]:
        raise InputError(
            f"frame {frame_id!r} of source {name!r}: drawn for the initial labelled set but has no label; add its label file"
        )
    revealed, _ = reveal_selected(drawn, intake.oracle)
    others = intake.manifest[~intake.manifest.frame_id.isin(drawn.frame_id)]
    profile = profile_labels(revealed, intake.profile, store, taxonomy)
    hidden = intake.oracle[~intake.oracle.frame_id.isin(drawn.frame_id)]
    return replace(intake, manifest=pd.concat([revealed, others], ignore_index=True), profile=profile, oracle=hidden)
