"""What arrives in a season: a source's footage night by night, its labels apart, where only the season's annotator looks."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.ingest.sources import Source
from perception.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from perception.quality.intake import Arrival

LABEL = "label.png"
_FACTS = ("drive_id", "camera", "time_of_day", "weather", "scene")


def in_nights(listing: "pd.DataFrame", nights: int, stretch_frames: int) -> "list[pd.DataFrame]":
    """Return a listing divided over nights in its order, by stretches: so many frames of one drive, or what it has left; or a tar file.

    Raises InputError for fewer stretches than nights.
    """
    import pandas as pd

    place = listing.groupby("drive_id", sort=False).cumcount() // stretch_frames
    stretches = [rows for _, rows in listing.groupby([listing.drive_id, place], sort=False)]
    if len(stretches) < nights:
        raise InputError(
            f"NIGHTS={nights}: the footage has {len(stretches)} stretches of {stretch_frames} frames; ask for fewer nights, or "
            "lower season.stretch_frames"
        )
    ends = [round(night * len(stretches) / nights) for night in range(nights + 1)]
    return [pd.concat(stretches[start:end]) for start, end in itertools.pairwise(ends)]


def write_arriving(
    source: Source, nights: int, stretch_frames: int, taxonomy: str, seed: int, size: tuple[int, int], folder: Path
) -> None:
    """Write footage/NIGHT.tar and labels/NIGHT.tar for each night from 1 on, in the WebDataset layout; what is there stays.

    taxonomy: of the labels as annotators send them. seed, size (height, width in pixels): of rendered scenes.
    Raises InputError for a frame without a sound label.
    """
    from components.ingest.arrivals import arrivals, list_arrivals
    from perception.data.shards import write_shard

    listing = list_arrivals("season", source, seed, size)
    for night, listed in enumerate(in_nights(listing, nights, stretch_frames), start=1):
        footage, labels = (folder / kind / f"{night}.tar" for kind in ("footage", "labels"))
        if footage.exists():
            continue
        wanted = set(listed.object)
        arriving = [
            each for each in arrivals(source, listed, seed, size) if (each.object or each.facts.frame_id) in wanted
        ]
        write_shard(((each.facts.frame_id, {LABEL: _label(each, taxonomy)}) for each in arriving), labels)
        write_shard(
            ((each.facts.frame_id, _files(each)) for each in arriving), footage
        )  # last: it says that both are there


def let_arrive(folder: Path, night: int, labelled: set[str], taxonomy: str, place: Path) -> None:
    """Put a night's footage into place/arrived, but for the labelled frames, which go into place/labelled with their labels.

    What is there stays. taxonomy: of the labels.
    """
    from perception.data.shards import read_shard, write_shard

    arrived = place / "arrived" / f"{night}.tar"
    if arrived.exists():
        return
    frames, labels = dict(read_shard(folder / "footage" / arrived.name)), dict(hidden_labels(folder, labelled))
    told = {
        frame_id: json.dumps(json.loads(frames[frame_id]["json"]) | {"label_taxonomy": taxonomy}) for frame_id in labels
    }
    full = [(each, frames[each] | {"json": told[each].encode(), LABEL: label}) for each, label in labels.items()]
    if full:
        write_shard(full, place / "labelled" / arrived.name)
    write_shard(((each, files) for each, files in frames.items() if each not in labelled), arrived)


def frames_arriving(folder: Path, night: int) -> list[str]:
    """Return the frames that arrive on a night, counted from 1, as write_arriving wrote them."""
    from perception.data.shards import index_shard

    return sorted({name.partition(".")[0] for name in index_shard(folder / "footage" / f"{night}.tar")})


def hidden_labels(folder: Path, frame_ids: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the label of each of these frames of a season, as write_arriving wrote it."""
    from perception.data.shards import read_shard

    for path in sorted((folder / "labels").glob("*.tar")):
        for frame_id, files in read_shard(path):
            if frame_id in frame_ids:
                yield frame_id, files[LABEL]


def _files(arrival: "Arrival") -> dict[str, bytes]:
    facts: dict[str, Any] = {name: getattr(arrival.facts, name, None) for name in _FACTS}
    time = getattr(arrival.facts, "timestamp_utc", None)
    facts["timestamp_utc"] = time.isoformat() if time else None
    suffix = Path(arrival.image_path).suffix.lstrip(".").lower()
    return {suffix: arrival.image, "json": json.dumps(facts).encode()}


def _label(arrival: "Arrival", taxonomy: str) -> bytes:
    """Return a frame's label as a file of the taxonomy that annotators are asked for."""
    import cv2

    from perception.data.decoding import decode_label, image_size
    from perception.data.taxonomies import apply_lookup, label_lookup, load_taxonomy, raw_values

    if arrival.problem or arrival.label is None:
        raise arrival.problem or InputError(f"frame {arrival.facts.frame_id!r}: has no label; a season needs all")
    own, size = arrival.label_taxonomy, image_size(arrival.image, arrival.image_path)
    label = decode_label(arrival.label, arrival.label_path, load_taxonomy(own), size)
    wanted = apply_lookup(label, label_lookup(own, taxonomy))
    done, data = cv2.imencode(".png", raw_values(wanted, load_taxonomy(taxonomy)))
    assert done, f"cv2 cannot encode a label of {wanted.shape}"
    return data.tobytes()
