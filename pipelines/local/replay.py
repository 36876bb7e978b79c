"""A recorded night repeated: on its own frames, from the base and the champion that it had, beside what has happened since."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.stage.parameters import read_yaml
from perception.data.files import replace_file
from perception.errors import InputError
from perception.reporting.replay_page import FigurePair, render_replay
from perception.versioning.nights import Night
from perception.versioning.replay import recorded_night, registry_as_of
from pipelines.graph import Graph
from pipelines.local.run import code_commit, repeat_night, run_folder
from pipelines.settings import COUNTS, changed_settings

REGISTRY = "registry.git"  # in the replay's folder: as the night found it
PAGE = "replay.html"
# Of these a replay has none: it publishes nothing.
_NOT_COMPARED = ("run", "stages", "data.version", "data.manifest_sha256", "data.parent", "pool.open_at_annotators")
_TIMES = ("seconds", "cost", "latency_ms")  # differ from run to run


@dataclass(frozen=True)
class Replay:
    """A replay's folder, how it ended, and its figures beside those of the night."""

    folder: Path
    code: int
    pairs: tuple[FigurePair, ...]

    @property
    def page(self) -> Path:
        """Return the page that shows both nights."""
        return self.folder / PAGE


def replay(night: Graph, runs: Path, name: str, overrides: Sequence[str]) -> Replay:
    """Repeat a night of this machine in runs/NAME-replay, and write the page with both side by side.

    Neither the registry nor its remote is written. Raises InputError for a night that the registry does not know, or whose run
    is not here with the parameters that were recorded.
    """
    first, folder = run_folder(name, runs), run_folder(f"{name}-replay", runs)
    settings = _settings(first)
    registry = _registry(settings, first)
    recorded = recorded_night(registry, name)
    if settings["report"]["settings_sha256"] != recorded.used.parameters:
        raise InputError(
            f"{first / 'params.yaml'}: has other parameters than those that night {name} recorded; restore it"
        )
    changed = changed_settings(settings, night, overrides)
    for section in changed.values():
        if isinstance(section, dict) and "registry" in section:
            section["registry"] = REGISTRY
    shutil.rmtree(folder / REGISTRY, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    registry_as_of(registry, recorded, folder / REGISTRY)
    code = repeat_night(night, folder, changed)
    pairs = tuple(figure_pairs(first, folder, recorded))
    replace_file(folder / PAGE, render_replay(name, overrides, pairs).encode())
    return Replay(folder, code, pairs)


def _settings(first: Path) -> dict[str, Any]:
    if not (first / "params.yaml").is_file():
        raise InputError(f"{first}: has no params.yaml; a night is repeated on the machine that it ran on")
    settings = read_yaml(first / "params.yaml")
    return settings | {name: len(settings[name]) for name in COUNTS.values()}  # listed there, for the engine


def _registry(settings: Mapping[str, Any], first: Path) -> str:
    place = str(settings["resolve"]["registry"])
    return place if "://" in place else str((first / place).resolve())


def figure_pairs(first: Path, second: Path, recorded: Night) -> Iterator[FigurePair]:
    """Yield every figure of two nights' summaries, the hash of the curated data and the commit of the code among them."""
    yield FigurePair("code", recorded.used.code, code_commit(), timed=False)
    yield FigurePair("curated manifest", _curated(first), _curated(second), timed=False)
    ours, theirs = (dict(_flat(json.loads((folder / "summary.json").read_text()))) for folder in (second, first))
    for name in dict.fromkeys([*theirs, *ours]):
        if name.partition("[")[0] not in _NOT_COMPARED:
            yield FigurePair(name, theirs.get(name), ours.get(name), timed=any(part in name for part in _TIMES))


def _curated(folder: Path) -> str | None:
    file = folder / "curated" / "version" / "version.json"
    return str(json.loads(file.read_text())["manifest_sha256"]) if file.is_file() else None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _flat(each, f"{name}[{place}]")
    else:
        yield name, value


def replay_table(done: Replay) -> str:
    """Return what differs, and how much is equal, as text."""
    differ = [pair for pair in done.pairs if pair.differs]
    width = max((len(pair.name) for pair in differ), default=0)
    rows = [f"{pair.name:<{width}}  {pair.first} -> {pair.second}  {pair.difference}" for pair in differ]
    compared = sum(not pair.timed for pair in done.pairs)
    said = f"{compared - len(differ)} of {compared} figures are equal to the digit" + (
        "; these are not:" if differ else ""
    )
    return "\n".join([said, *rows, f"page  {done.page}"])
