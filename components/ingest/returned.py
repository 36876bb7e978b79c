"""Labels that came back from annotation, as a source lists them and as they arrive."""

from collections.abc import Callable, Collection, Iterator

import pandas as pd

from components.ingest.arrivals import LISTING_COLUMNS, signature_of
from components.ingest.sources import Source
from perception.data.annotation import ReturnedLabel, read_label, returned_labels
from perception.data.decoding import BadFrame
from perception.data.source_files import SourceFiles, open_source_files
from perception.data.store import Store, holds
from perception.quality.intake import Arrival


def list_returned(name: str, source: Source, handed_out: Callable[[Collection[str]], pd.DataFrame]) -> pd.DataFrame:
    """Return what came back below a source's path: columns LISTING_COLUMNS and places, the names of the drops that ingest opens for it; one
    row a frame or a drop that is none.

    handed_out: gives which of some names are frames that a batch has held.
    """
    with open_source_files(source.path) as files:
        found = returned_labels(files.root, handed_out)
        rows = [
            (name, each.frame_id, str(each.facts.drive_id), signature_of(each.files), "/".join(each.places))
            for each in found
        ]
    return pd.DataFrame(rows, columns=[*LISTING_COLUMNS, "places"], dtype=object)


def returned(
    source: Source, listed: pd.DataFrame, store: Store, handed_out: pd.DataFrame, taxonomy: str
) -> Iterator[Arrival]:
    """Yield the listed labels one by one; a frame that its annotator has not answered yet is left out.

    store: where the images of the frames lie. handed_out: rows of frames that a batch has held. taxonomy: that annotators were given.
    """
    wanted, places = set(listed.object), {place for each in listed.places for place in each.split("/")}
    with open_source_files(source.path) as files:
        for each in returned_labels(files.root, lambda _names: handed_out, places):
            if each.frame_id in wanted:
                with files.whole(each.files):
                    arrival = _arrival(each, store, files, taxonomy)
                if arrival:
                    yield arrival


def _arrival(each: ReturnedLabel, store: Store, files: SourceFiles, taxonomy: str) -> Arrival | None:
    problem, read, uri = None, None, getattr(each.facts, "image_uri", "")
    try:
        read = read_label(each, taxonomy, store)
        if read is None:
            return None
    except BadFrame as bad:
        problem = BadFrame(files.name(str(bad.path)), bad.rule, bad.remedy)
    return Arrival(
        facts=each.facts,
        image=store.get(uri) if read or holds(store, uri) else b"",  # of a label that could be read there is an image
        image_path=uri,
        label=read[0] if read else None,
        label_path=files.name(f"{each.files[0]}: {each.frame_id}"),
        label_taxonomy=each.taxonomy or taxonomy,
        problem=problem,
        label_drop=each.drop,
        tags=read[1] if read else {},
        tag_drop=each.tag_drop,
    )
