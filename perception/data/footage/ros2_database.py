"""ROS 2 bags in SQLite files (.db3); those in MCAP files are read as these."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from perception.data.decoding import BadFrame
from perception.data.footage.chunks import CHUNK_LIMIT_BYTES, TYPES_LIMIT, Message
from perception.data.footage.frames import COPY_AGAIN, Deadline

_CHECK_EVERY_STEPS = 100_000  # of SQLite's machine, some milliseconds: a file may hold a query that never ends


def read_ros2_database(
    path: Path, name: str, wants: Callable[[str], bool], deadline: Deadline
) -> Iterator[Message | BadFrame]:
    """Yield the messages of the types that are wanted, and a BadFrame where the file cannot be read to its end."""
    address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CHUNK_LIMIT_BYTES)
        database.set_progress_handler(lambda: _over(deadline), _CHECK_EVERY_STEPS)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA writable_schema = ON")  # else a file without its tail is refused whole
            topics = dict(_topics(database, wants))
            rows = "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
            for topic, log_ns, data in database.execute(rows):
                if topic in topics and isinstance(log_ns, int) and isinstance(data, bytes):
                    yield Message(*topics[topic], "cdr", b"", log_ns, data)
        except sqlite3.Error as error:
            yield BadFrame(name, f"cannot be read to its end ({error})", COPY_AGAIN)


def _topics(database: sqlite3.Connection, wants: Callable[[str], bool]) -> Iterator[tuple[int, tuple[str, str]]]:
    rows = f"SELECT id, name, type, serialization_format FROM topics LIMIT {TYPES_LIMIT}"
    for number, topic, kind, encoding in database.execute(rows):
        if encoding == "cdr" and wants(str(kind)):
            yield number, (str(topic), str(kind))


def _over(deadline: Deadline) -> bool:
    try:
        deadline.check()
    except BadFrame:
        return True
    return False
