"""What came back from annotation tonight, as events of the ledger: accepted labels, and rejected ones with the reason."""

import pandas as pd

from components.stage.learning import ORACLE_NAME
from perception.versioning.growing import Book
from perception.versioning.ledger import AT_ANNOTATORS, read_events, state
from perception.versioning.pool import ADMITTED

COLUMNS = ("frame_id", "event", "batch", "who", "why", "label_drop")


def returned_labels(files: pd.DataFrame, labelled: pd.DataFrame, book: Book) -> pd.DataFrame:
    """Return events, columns COLUMNS: of label drops, and of frames at annotators whose hidden label is revealed tonight.

    files: every file read, with label_drop and outcome. labelled: rows of the night's manifest with a label.
    Labels of frames that no batch in the ledger holds make no event.
    """
    known = state(read_events(book)).set_index("frame_id")
    came = files[
        files.label_drop.notna() & files.outcome.isin([*ADMITTED, "rejected"]) & files.frame_id.isin(known.index)
    ]
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
