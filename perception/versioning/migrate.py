"""Bring a registry forward whose records an older Nightdrive wrote."""

import json
from collections.abc import Mapping

from perception.versioning.processes import Clone, read_all_committed, read_committed
from perception.versioning.recorded import CHAMPION, DECISIONS
from perception.versioning.records import CURRENT, FORMAT, RUN, json_bytes
from perception.versioning.repository import push_commit, trailers
from perception.versioning.verified import verified_clone


def migrate(registry: str) -> int:
    """Give every record that lacks one the number of its format, in one commit; return how many lacked it.

    The record of a version is what its tag says, and tags are write-once: it is read without a number.
    """
    changed: list[str] = []
    with verified_clone(registry) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            records = {path: json.loads(content) for path, content in _records(clone, head).items()}
            files = {
                path: json_bytes(record | {"format": FORMAT})
                for path, record in records.items()
                if "format" not in record
            }
            changed[:] = list(files)
            return (files, trailers(f"Give {len(files)} records the number of their format", "")) if files else None

        push_commit(clone, changes)
    return len(changed)


def _records(clone: Clone, head: str) -> dict[str, bytes]:
    """Read every JSON record at a commit, but for those of versions."""
    folders = (DECISIONS, "models", "datasets/runs")
    below = [item for folder in folders for item in read_all_committed(clone, folder, head).items()]
    pointers = [(name, content) for name in (CURRENT, CHAMPION) if (content := read_committed(clone, name, head))]
    return {
        path: content for path, content in below + pointers if path.endswith(".json") and not path.endswith(f"/{RUN}")
    }
