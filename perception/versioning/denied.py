"""The deny list as the registry keeps it: a table that grows by an entry an erasure."""

import pyarrow as pa

from perception.data.deny_list import DenyList, from_table
from perception.versioning.growing import DENIES, Book, Table, read_table

# One entry an erasure. content: sha256 of bytes; mark: of a picture, in hexadecimal (perception.data.picture_hash).
DENIED = Table(DENIES, pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("about", "value")]))


def deny_list(book: Book) -> DenyList:
    """Return what all erasures of a book deny, or those of a part of it."""
    return from_table(read_table(book, DENIED))
