"""Which night `make run` goes on with, and the name of a new one."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perception.data.files import replace_file
from perception.data.json_files import read_json
from perception.errors import InputError
from perception.versioning.nights import next_night_name
from pipelines.local.run import run_folder

NIGHT_FILE = "night.json"  # in a run's folder: its UTC date and its profile
ENDED = ("done", "nothing_new")  # a night that failed or was refused goes on, with what has arrived since


def open_night(runs: Path, profile: str, named: str, now: datetime) -> tuple[Path, str]:
    """Return the folder and the UTC date of the night of that name, else of the profile's latest that has not ended, else of a new one.

    Raises InputError for a name that no run can have, and a folder that cannot be written.
    """
    nights = {path.parent: path for path in runs.glob(f"*/{NIGHT_FILE}") if not path.parent.is_symlink()}
    mine = [folder for folder, path in nights.items() if _read(path)["profile"] == profile]
    latest = max(mine, key=lambda folder: nights[folder].stat().st_mtime_ns, default=None)
    if named:
        folder = run_folder(named, runs)
    elif latest is not None and not _has_ended(latest):
        folder = run_folder(latest.name, runs)
    else:
        folder = run_folder(next_night_name([path.name for path in runs.glob("*")], now), runs)
    file = folder / NIGHT_FILE
    if not file.exists():
        about = {"date": now.astimezone(UTC).date().isoformat(), "profile": profile}
        try:
            replace_file(file, (json.dumps(about) + "\n").encode())
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); choose another folder with --runs"
            ) from None
    return folder, str(_read(file)["date"])


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(file, remedy="remove the run's folder")
    return content


def _has_ended(folder: Path) -> bool:
    summary = folder / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] in ENDED
