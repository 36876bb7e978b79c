"""Which duels there are: what each one measures, against whom, and its bars."""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from perception.errors import InputError

_INSTALL = (
    "install the extra 'benchmarks' beside those of `make setup`: .venv/bin/python -m pip install -c constraints.txt "
    "-e '.[gates,versioning,cluster,outside,development,benchmarks]'"
)


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Say which file measures a duel, against whom, in what unit, and what its bars and its limit are, in words."""

    name: str
    ours: str  # our operation
    peers: tuple[str, ...]  # distributions that it needs; the first one is the peer of the ratio unless `peer` says
    bar: str
    limit: str
    unit: str
    least_ratio: float = 0.0  # of the bars, the one of how many times better ours is; 0: the duel has others alone
    peer: str = ""  # where the peer is no package
    options: tuple[str, ...] = ()
    timeout_s: float = 300.0

    @property
    def against(self) -> str:
        """Return whom the ratio is with."""
        return self.peer or self.peers[0]


DUELS = TypeAdapter(tuple[Duel, ...]).validate_python(
    yaml.safe_load(Path(__file__).with_name("catalogue.yaml").read_text("utf-8"))
)


def peer_versions(duel: Duel) -> dict[str, str]:
    """Return the installed versions of a duel's peers; raises InputError naming the extra where one is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in duel.peers}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"duel {duel.name}: its peer {error.name} is not installed; {_INSTALL}") from None
