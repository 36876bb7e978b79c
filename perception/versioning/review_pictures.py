"""Choose the frames that a review shows and bring their images and labels, from the store or from a version's shards."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from perception.data.conditions import CONDITIONS
from perception.data.decoding import BadFrame, decode_image, decode_label
from perception.data.manifest import TAGGED
from perception.data.shards import read_shard
from perception.data.store import Store
from perception.data.taxonomies import apply_lookup, label_lookup, load_taxonomy
from perception.errors import InputError, Unreachable
from perception.versioning.curated import MEMBERS
from perception.versioning.records import Version
from perception.versioning.registry import fetch
from perception.versioning.review import Side

RANDOM, UNCERTAIN, REMOVED, RELABELLED, PAIRS, DOUBTED, OFFENDING = 8, 8, 48, 8, 6, 8, 8
_COMPARED_LABELS = 64  # relabelled frames whose labels are compared pixel by pixel
Blobs = Callable[[Side, Sequence[str]], Mapping[str, bytes]]  # side, frame ids: bytes by uri


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewPicture:
    """A frame as a review shows it."""

    frame_id: str
    caption: str
    image: np.ndarray | None  # (height, width, 3) uint8; None where its bytes are not at hand
    label: np.ndarray | None = None  # (height, width) uint8 class ids, 255 = ignore
    before: np.ndarray | None = None  # the base version's label, as label


def review_taxonomy(head: Side) -> str:
    """Give the taxonomy in which a review shows labels: the one that most of the version's labels are in."""
    names = head.frames["label_taxonomy"].dropna()
    return str(names.mode().iloc[0]) if len(names) else "cityscapes19"


def review_pictures(
    facts: Mapping[str, Any], base: Side, head: Side, blobs: Blobs, seed: int
) -> dict[str, list[ReviewPicture]]:
    """Return the pictures of a review by group: random, uncertain, removed, relabelled, pairs, doubted, offending.

    Pairs follow each other: the training frame, then the held-out frame that looks like it.
    """
    gallery = _Gallery(base, head, blobs, review_taxonomy(head))
    added = head.frames[~head.frames["frame_id"].isin(base.frames["frame_id"])]
    labelled = added[added["split"] == "train"]
    drawn = labelled.sample(min(RANDOM, len(labelled)), random_state=seed).sort_values("frame_id")
    scored = labelled.dropna(subset=["score"]) if "score" in labelled else labelled.head(0)
    doubted = ((facts["evidence"] or {}).get("labels") or {}).get("rows") or []
    chosen = {
        "random": list(drawn["frame_id"]),
        "uncertain": list(scored.nlargest(UNCERTAIN, "score", keep="all").head(UNCERTAIN)["frame_id"])
        if len(scored)
        else [],
        "pairs": [pair[key] for pair in facts["leakage"]["pairs"][:PAIRS] for key in ("train", "held_out")],
        "doubted": [row["frame_id"] for row in doubted if row["frame_id"] in set(head.frames["frame_id"])][:DOUBTED],
        "offending": _offenders(facts, head),
    }
    wanted = dict.fromkeys(frame_id for ids in chosen.values() for frame_id in ids)
    gallery.load(head, list(wanted))
    shown = {name: [gallery.picture(head, frame_id) for frame_id in ids] for name, ids in chosen.items()}
    removed = facts["changes"]["removed"]["ids"][:REMOVED]
    gallery.load(base, removed)
    shown["removed"] = [gallery.picture(base, frame_id) for frame_id in removed]
    shown["relabelled"] = _relabelled(gallery, base, head, facts["changes"]["relabelled"]["ids"][:_COMPARED_LABELS])
    return shown


def _offenders(facts: Mapping[str, Any], head: Side) -> list[str]:
    """Give the frames of the version that failed rules of gates name, each once."""
    gates = (facts["evidence"] or {}).get("gates") or []
    named = [str(row.get("frame_id")) for gate in gates for failure in gate["failed"] for row in failure["frames"]]
    known = set(head.frames["frame_id"])
    return [frame_id for frame_id in dict.fromkeys(named) if frame_id in known][:OFFENDING]


def _relabelled(gallery: "_Gallery", base: Side, head: Side, ids: Sequence[str]) -> list[ReviewPicture]:
    """Return the frames whose labels changed most, with both labels."""
    gallery.load(head, ids)
    gallery.load(base, ids)
    found = []
    for frame_id in ids:
        now, then = gallery.picture(head, frame_id), gallery.label(base, frame_id)
        share, words = 1.0, "labelled on one side only"
        if now.label is not None and then is not None and now.label.shape == then.shape:
            share = float((now.label != then).mean())
            words = f"{share:.1%} of the pixels have another class"
        found.append((-share, replace(now, caption=words, before=then)))
    return [picture for _, picture in sorted(found, key=lambda each: (each[0], each[1].frame_id))[:RELABELLED]]


class _Gallery:
    """Decode what was loaded, in one taxonomy."""

    def __init__(self, base: Side, head: Side, blobs: Blobs, taxonomy: str) -> None:
        self._blobs, self._taxonomy = blobs, taxonomy
        self._rows = {id(side): side.frames.set_index("frame_id", drop=False) for side in (base, head)}
        self._bytes: dict[str, bytes] = {}

    def load(self, side: Side, frame_ids: Sequence[str]) -> None:
        if frame_ids:
            self._bytes |= self._blobs(side, frame_ids)

    def picture(self, side: Side, frame_id: str) -> ReviewPicture:
        row = self._rows[id(side)].loc[frame_id]
        data = self._bytes.get(row["image_uri"])
        image = decode_image(data, row["image_uri"]) if data else None
        return ReviewPicture(frame_id=frame_id, caption=_caption(row), image=image, label=self.label(side, frame_id))

    def label(self, side: Side, frame_id: str) -> np.ndarray | None:
        row = self._rows[id(side)].loc[frame_id]
        data = self._bytes.get(row["label_uri"]) if isinstance(row["label_uri"], str) else None
        if data is None:
            return None
        own, size = load_taxonomy(row["label_taxonomy"]), (int(row["height_px"]), int(row["width_px"]))
        try:
            raw = decode_label(data, row["label_uri"], own, size)
        except BadFrame:
            return None
        return apply_lookup(raw, label_lookup(own.name, self._taxonomy))


def _caption(row: Any) -> str:
    conditions = ", ".join(filter(None, (_condition(row, name) for name in CONDITIONS)))
    reason, who = row.get("reason"), row.get("label_drop")
    if not isinstance(reason, str):
        reason = "came with its label, was not chosen" if row["split"] == "train" else f"{row['split']} part"
    labelled = f"; labelled by {' on '.join(who.split('/')[1:])}" if isinstance(who, str) else ""
    return f"{conditions}; {reason}{labelled}"


def _condition(row: Any, name: str) -> str:
    """Say what a frame is judged by, and that an annotator said so where the sender did not."""
    said, tagged = row[name], row.get(TAGGED + name)
    if not isinstance(tagged, str):
        return said if isinstance(said, str) else ""
    return tagged if tagged == said else f"{tagged} (as tagged{f', sender: {said}' if isinstance(said, str) else ''})"


def blobs_in_store(store: Store) -> Blobs:
    """Bring blobs from the store that the night wrote them to; those that it lacks are left out."""

    def bring(side: Side, frame_ids: Sequence[str]) -> dict[str, bytes]:
        found = {}
        for uri in _uris(side, frame_ids):
            try:
                found[uri] = store.get(uri)
            except Unreachable:  # a store that does not answer may well have them
                raise
            except InputError:
                continue
        return found

    return bring


def _uris(side: Side, frame_ids: Iterable[str]) -> list[str]:
    rows = side.frames[side.frames["frame_id"].isin(list(frame_ids))]
    return [uri for column in ("image_uri", "label_uri") for uri in rows[column].dropna()]


def blobs_in_shards(registry: str, folders: Mapping[str, Path]) -> Blobs:
    """Bring blobs out of a version's shards; only the shards that hold a wanted frame are fetched.

    folders: the folder of each version, by tag, with its members.parquet.
    """

    def bring(side: Side, frame_ids: Sequence[str]) -> dict[str, bytes]:
        version = side.version
        if version is None or not frame_ids:
            return {}
        return _from_shards(registry, version, folders[version.tag], side.frames, set(frame_ids))

    return bring


def _from_shards(
    registry: str, version: Version, folder: Path, frames: pd.DataFrame, wanted: set[str]
) -> dict[str, bytes]:
    members = pq.read_table(folder / MEMBERS).to_pandas()
    shards = sorted(set(members.loc[members["frame_id"].isin(wanted), "shard"]))
    rows = frames.set_index("frame_id")
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "shards"
        fetch(registry, version, place, files=[f"shards/{name}" for name in shards])
        for name in shards:
            for frame_id, files in read_shard(place / "shards" / name):
                if frame_id in wanted:
                    found |= _named(rows.loc[frame_id], files)
    return found


def _named(row: Any, files: Mapping[str, bytes]) -> dict[str, bytes]:
    found = {}
    for column, prefix in (("image_uri", ""), ("label_uri", "label.")):
        uri = row[column]
        if isinstance(uri, str) and (content := files.get(prefix + uri.rsplit(".", 1)[1])) is not None:
            found[uri] = content
    return found
