"""What came back from annotation tonight: events of the ledger, corrections for annotators, and why the frames were chosen."""

import pandas as pd

from components.stage.learning import ORACLE_NAME
from perception.versioning.growing import Book
from perception.versioning.ledger import AT_ANNOTATORS, fresh_frames, read_events, state
from perception.versioning.pool import ADMITTED

COLUMNS = ("frame_id", "event", "batch", "who", "why", "label_drop")


def returned_labels(files: pd.DataFrame, labelled: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Return events, columns COLUMNS: of label drops, and of frames at annotators whose hidden label is revealed tonight.

    files: every file read, with label_drop and outcome. labelled: rows of the night's manifest with a label.
    A broken label of a frame that no batch in the ledger holds makes no event: nobody was asked for it.
    """
    known = state(read_events(book)).set_index("frame_id")
    broken = files.outcome.eq("rejected") & files.frame_id.isin(known.index)
    came = files[files.label_drop.notna() & (files.outcome.isin(ADMITTED) | broken)]
    drops = pd.DataFrame(
        {
            "frame_id": came.frame_id,
            "event": came.outcome.eq("rejected").map({True: "rejected", False: "accepted"}),
            "batch": came.label_drop.str.split("/").str[0],
            "who": came.label_drop.str.split("/").str[1],
            "why": came.reason.where(came.outcome == "rejected"),
            "label_drop": came.label_drop,
        }
    )
    due = known[
        known.status.isin(AT_ANNOTATORS) & known.index.isin(labelled.frame_id) & ~known.index.isin(drops.frame_id)
    ]
    revealed = pd.DataFrame(
        {"frame_id": due.index, "event": "accepted", "batch": due.batch.to_numpy(), "who": ORACLE_NAME}
    )
    ended = pd.concat([drops, revealed], ignore_index=True)
    returned = ended.assign(event="returned", why=None)
    return pd.concat([returned, ended], ignore_index=True).reindex(columns=list(COLUMNS))


def fresh_tonight(labels: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Return which frames were drawn uniformly and have their first label since tonight, column frame_id: they judge tonight's
    networks, and teach tomorrow's.

    labels: as returned_labels gives them; book: before this night.
    """
    accepted = labels.frame_id[labels.event == "accepted"].unique()
    drawn = fresh_frames(state(read_events(book, accepted.tolist())))
    return drawn.loc[drawn.accepted_when.isna(), ["frame_id"]].reset_index(drop=True)


def corrections(files: pd.DataFrame) -> pd.DataFrame:
    """Return what goes back to annotators, columns who, batch, frame_id, why: labels and drops that cannot be used.

    files: every file read, with label_drop, outcome and reason.
    """
    broken = files[files.label_drop.notna() & (files.outcome == "rejected")]
    batch, who = (broken.label_drop.str.split("/").str[place] for place in (0, 1))
    table = pd.DataFrame({"who": who, "batch": batch, "frame_id": broken.frame_id, "why": broken.reason})
    return table.sort_values(["who", "batch", "frame_id"], ignore_index=True)


def with_reasons(manifest: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Return the night's manifest with why each labelled frame was chosen, as the ledger knows it."""
    labelled = manifest.frame_id[manifest.label_source == "human"]
    known = state(read_events(book, labelled.tolist()))
    if not len(known):
        return manifest
    why = manifest.frame_id.map(known.set_index("frame_id").chosen_why)
    return manifest.assign(reason=why.where(manifest.label_source == "human").astype(object))
