"""Intake: from the bytes of arriving frames to a frames folder, with every broken file listed and left out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from perception.data.bare import bare_picture
from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.deny_list import NOTHING, REASON, DenyList
from perception.data.manifest import TAGGED, empty_manifest, read_manifest, write_manifest
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
# One row a frame that was read, or a damage; also one without a frame that tells what of an object was skipped, as its reason.
# object: its file as the listing names it; label_drop of a label that came back.
READ = dict.fromkeys(("source", "object", "signature"), "text")
READ |= dict.fromkeys(("frame_id", "source_sha256", "label_sha256", "reason", "label_drop"), "text?")
_Ledger = dict[str, list[dict[str, Any]]]  # rows of each table of an intake
_KNOWN = ("frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene")
_FOOTAGE = ("latitude", "longitude", "privacy")  # columns of manifests that know them


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
    object: str = ""  # its file as the listing names it; empty: by the name of the frame
    image: bytes
    image_path: str
    label: bytes | None
    label_path: str
    label_taxonomy: str  # how the label file's values are to be read
    instances: bytes | None = None
    problem: BadFrame | None = None  # why its files could not be read
    label_drop: str | None = None  # the label drop that the label came with: batch/annotator/date
    tags: Mapping[str, str] = field(default_factory=dict)  # what annotators say of conditions
    tag_drop: str | None = None  # the label drop that these tags came with


@dataclass(frozen=True)
class Skipped:
    """Say what of an object of footage was not taken, or that it holds nothing."""

    object: str
    counts: str


@dataclass(frozen=True)
class Intake:
    """Hold what one source gave."""

    manifest: pd.DataFrame
    profile: pd.DataFrame  # one row a frame: facts measured on pixels; nothing about hidden labels
    rejected: pd.DataFrame  # columns of REJECTED
    oracle: pd.DataFrame  # columns of ORACLE: labels that stay hidden until their frame is selected
    read: pd.DataFrame  # columns of READ: every file, and why it was rejected; the signature is the listing's to add


def no_intake() -> Intake:
    """Return the intake of no frame: tables with their columns and no row."""
    return Intake(
        manifest=empty_manifest("source_sha256"),
        profile=pd.DataFrame(columns=list(PROFILE)[:-1]),
        rejected=pd.DataFrame(columns=list(REJECTED)),
        oracle=pd.DataFrame(columns=list(ORACLE)),
        read=pd.DataFrame(columns=list(READ)),
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
    arrivals: Iterable[Arrival | Skipped],
    count: int,
    store: Store,
    settings: IntakeSettings,
    denied: DenyList = NOTHING,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Intake:
    """Check every arriving frame, put its files into the store and describe it in a manifest.

    count: how many frames arrive. denied: what is turned away, before anything of it is stored. Whether a hidden label file is
    sound is checked, since that depends on the file and not on what it shows. A broken frame, or one with a broken label, is
    listed and left out; whether too many are is for check_source to say, which sees the whole source.
    """
    nothing, counted = no_intake(), load_taxonomy(settings.taxonomy)
    ledger: _Ledger = {each.name: [] for each in fields(Intake)}
    for done, arrival in enumerate(arrivals, start=1):
        if isinstance(arrival, Skipped):
            told = {"source": settings.source, "object": arrival.object, "reason": arrival.counts}
            ledger["read"].append(dict.fromkeys(READ) | told)
            continue
        file = _file(arrival, settings)
        if denied.holds(arrival.facts.frame_id, arrival.facts.drive_id, file["source_sha256"], _image_sha256(arrival)):
            _turn_away(file, denied, ledger)
            continue
        try:
            _admit(arrival, store, ledger, settings, counted, file["source_sha256"])
        except BadFrame as bad:
            named = {"source": settings.source, "path": str(bad.path), "frame_id": arrival.facts.frame_id}
            ledger["rejected"].append(named | {"rule": bad.rule, "remedy": bad.remedy})
            file["reason"] = f"{bad.rule}; {bad.remedy}"
        ledger["read"].append(file)
        if progress:
            progress(done, count)
    return Intake(**{name: pd.DataFrame(rows) if rows else getattr(nothing, name) for name, rows in ledger.items()})


def _turn_away(file: Mapping[str, Any], denied: DenyList, ledger: _Ledger) -> None:
    """List a file of denied bytes, so that no night reads it again; one of a denied name stands nowhere."""
    if not denied.names(file["object"]):
        told = {"source": file["source"], "object": file["object"], "reason": REASON}
        ledger["read"].append(dict.fromkeys(READ) | told)


def _image_sha256(arrival: Arrival) -> str | None:
    return hashlib.sha256(arrival.image).hexdigest() if arrival.image else None


def _file(arrival: Arrival, settings: IntakeSettings) -> dict[str, Any]:
    label = arrival.label if settings.labels != "none" else None
    return {
        "source": settings.source,
        "object": arrival.object or arrival.facts.frame_id,
        "source_sha256": _content(arrival),
        "label_sha256": hashlib.sha256(label + _tag_bytes(arrival)).hexdigest() if label else None,
        "frame_id": arrival.facts.frame_id,
        "reason": None,
        "label_drop": arrival.label_drop,
    }


def _content(arrival: Arrival) -> str | None:
    """Return the sha256 of what arrived, which of footage is not what is stored; None where it cannot be read."""
    told: str | None = getattr(arrival.facts, "source_sha256", None)
    if told:
        return told
    return _image_sha256(arrival)


def _tag_bytes(arrival: Arrival) -> bytes:
    """Return what makes a label with other image tags another label."""
    return repr(sorted(arrival.tags.items())).encode() if arrival.tags else b""


def write_frames_folder(intake: Intake, folder: Path, *, repeats: bool = False) -> None:
    """Write manifest, profile, rejected, oracle and the list of files that were read into `folder`.

    repeats: several files may be the same frame, as in what has just arrived.
    """
    write_manifest(intake.manifest, folder / "manifest.parquet", repeats=repeats)
    for name in ("profile", "rejected", "oracle", "read"):
        table: pd.DataFrame = getattr(intake, name)
        keys = [column for column in ("frame_id", "path") if column in table]
        table = table.sort_values(keys, ignore_index=True) if len(table) else table
        table.to_parquet(folder / f"{name}.parquet", index=False)


def join_intakes(intakes: Sequence[Intake]) -> Intake:
    """Return several intakes as one; none give an empty one."""
    nothing = no_intake()

    def joined(name: str) -> pd.DataFrame:
        tables: list[pd.DataFrame] = [table for each in intakes if len(table := getattr(each, name))]
        return pd.concat(tables, ignore_index=True) if tables else getattr(nothing, name)

    return Intake(**{each.name: joined(each.name) for each in fields(Intake)})


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """Say what is asked of all frames of one source together."""

    format: str  # of the source
    labels: str  # as in IntakeSettings
    initial_labelled_frames: int = 0  # of an oracle: frames drawn by the seed that are labelled from the start
    max_rejected_fraction: float = 0.0  # more broken frames than this are an error


def read_intake(path: Path) -> Intake:
    """Return what ingest wrote of a batch; raises InputError where its tables disagree."""
    intake = Intake(
        manifest=read_manifest(path / "manifest.parquet", repeats=True),
        profile=read_table(path / "profile.parquet", PROFILE),
        rejected=read_table(path / "rejected.parquet", REJECTED),
        oracle=read_table(path / "oracle.parquet", ORACLE),
        read=read_table(path / "read.parquet", READ),
    )
    profiled = intake.profile.frame_id
    if not intake.manifest.frame_id.isin(profiled).all() or len(profiled) != len(intake.manifest):
        raise InputError(f"{path}: profile.parquet must have one row a frame of the manifest; ingest again")
    return intake


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
    measured = profile.frame_id[profile.label_min.notna()] if "label_min" in profile else ()
    missing = frames[~frames.frame_id.isin(measured)]
    known = profile[profile.frame_id.isin(missing.frame_id)].set_index("frame_id")
    rows = []
    for frame in missing.itertuples():
        facts = known.loc[frame.frame_id].to_dict() if frame.frame_id in known.index else _measure_image(frame, store)
        own, size = load_taxonomy(frame.label_taxonomy), (int(frame.height_px), int(frame.width_px))
        facts |= label_facts(decode_label(store.get(frame.label_uri), frame.label_uri, own, size), own, counted)
        rows.append({"frame_id": frame.frame_id} | facts)
    others = profile[~profile.frame_id.isin(missing.frame_id)]
    return pd.concat([pd.DataFrame(rows), others], ignore_index=True) if rows else profile


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


def _admit(
    arrival: Arrival,
    store: Store,
    ledger: _Ledger,
    settings: IntakeSettings,
    counted: Taxonomy,
    source_sha256: str | None,
) -> None:
    if arrival.problem:
        raise arrival.problem
    taxonomy = load_taxonomy(arrival.label_taxonomy)
    image = decode_image(arrival.image, arrival.image_path)
    label = None
    if arrival.label is not None and settings.labels != "none":
        label = decode_label(arrival.label, arrival.label_path, taxonomy, image.shape[:2])
    shown = label if settings.labels in ("given", "drop") else None
    facts = profile_frame(image, shown, taxonomy if shown is not None else None, counted)
    # The picture of a label that came back lies in the store as it is.
    kept = arrival.image if settings.labels == "drop" else bare_picture(arrival.image, arrival.image_path)
    image_blob = store.put(kept, Path(arrival.image_path).suffix.lstrip(".").lower())
    said = {name: getattr(arrival.facts, name, None) for name in (*_KNOWN, *_FOOTAGE)}
    said = {name: None if pd.isna(value) else value for name, value in said.items()}  # a batch's manifest has NaN
    known = {name: value for name, value in said.items() if name in _KNOWN or value is not None}
    row: dict[str, Any] = known | {
        "source_sha256": source_sha256,
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
        row |= {TAGGED + name: value for name, value in arrival.tags.items()}
        row |= {"tag_drop": arrival.tag_drop} if arrival.tags else {}
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


def check_source(intake: Intake, name: str, rule: SourceRules, known: int) -> None:
    """Raise InputError where too many files of a source are broken; labels that came back broken are the ingest gate's matter.

    A file of footage of which a part can be read is not broken; of tar files frames are counted. known: files of the source that earlier
    nights read, or frames of it.
    """
    read = intake.read[intake.read.source == name]
    counted = read.object if rule.format == "footage" else read.frame_id
    broken = set(counted) - set(counted[read.reason.isna() | read.frame_id.isna()])
    count, tolerated = known + counted.nunique(), rule.max_rejected_fraction
    if rule.labels == "drop" or len(broken) <= tolerated * count:
        return
    first = intake.rejected[intake.rejected.source == name].iloc[0]
    allowed = "none may be" if tolerated == 0 else f"at most {tolerated:.0%} may be"
    raise InputError(
        f"{first.path}: {first.rule}; {first.remedy} ({len(broken)} of {count} files of source {name!r} are broken, {allowed})"
    )


def reveal_first(intake: Intake, name: str, count: int, store: Store, taxonomy: str, seed: int) -> Intake:
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
