"""What a stage is: one declaration, from which its command line, its Kubeflow step and its DVC command are derived."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from perception.parameters import Count, CountOrZero, NotNegative, Positive, checked


class Refused(Exception):
    """Say that a gate refused; the outputs written so far are kept, because they explain why.

    failed: the rules that did, each with its id, bound and observed value.
    """

    def __init__(self, message: str, failed: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.failed = tuple(failed)


@dataclass(frozen=True, kw_only=True)
class Port:
    """Name one artifact that a stage takes or gives; every artifact is a folder."""

    name: str
    about: str  # one line for --help and for the reference in docs/
    many: bool = False  # takes a list of artifacts, one a batch, a shard or a gate
    optional: bool = False  # the stage has something sensible to do without it
    gate_table: bool = False  # the folder holds gate.parquet, the table that a gate judges
    # the folder holds one folder a share; a task that takes it is given the one that this parameter numbers
    shares: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Name a file among what a stage gives that Kubeflow's own pages show; HTML and Markdown stand for all of their port."""

    name: str
    kind: Literal["HTML", "Markdown", "Metrics", "ClassificationMetrics"]  # as Kubeflow calls it
    port: str
    file: str  # in the port's folder; of metrics JSON, of a classification with the keys classes and rows


FRAMES = Port(name="frames", about="the night's frames")
BASE = Port(name="base", about="the data version that the night starts from")


@checked
class Needs:
    """Declare what a stage needs to run on a cluster."""

    image: str  # dependency set: gates, versioning or torch
    cpu_cores: Positive = 1.0  # of its pod
    memory_gib: Positive = 2.0  # of its pod
    gpu_count: CountOrZero = 0  # wanted where the cluster has GPUs; every stage also runs without
    retries: CountOrZero = 2  # for infrastructure errors; bad input and a refused gate are none
    timeout_minutes: Count = 60  # after which its pod is ended
    shared_memory_gib: NotNegative = 0.0  # of /dev/shm, for data-loading processes; 0: the container engine's default
    distributed: bool = False  # trains over all GPUs of its pod, one process a GPU
    # the library that takes longest to load; one machine loads it once a night (components/stage/warm.py)
    loads: str = ""


@dataclass(frozen=True)
class Paths:
    """Hold the folders of a stage's inputs or outputs by port name."""

    folders: Mapping[str, tuple[Path, ...]]

    def one(self, port: str) -> Path:
        """Return the single folder of `port`."""
        (folder,) = self.folders[port]
        return folder

    def many(self, port: str) -> tuple[Path, ...]:
        """Return every folder of `port`, in the order in which they were given."""
        return self.folders.get(port, ())

    def maybe(self, port: str) -> Path | None:
        """Return the folder of an optional port, or None where it was not given or does not exist."""
        folders = [folder for folder in self.folders.get(port, ()) if folder.exists()]
        return folders[0] if folders else None


Run = Callable[[Paths, Paths, Any], Mapping[str, Any] | None]  # what it tells beside its artifacts: values, counts


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Declare a stage: what it takes and gives, its parameters, what it needs, and the function that does its work."""

    name: str
    summary: str  # one sentence in the imperative
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    value: str = ""  # of what its `run` tells, the short string that an engine can branch on
    pages: tuple[Page, ...] = ()
    parameters: type  # a frozen dataclass
    needs: Needs
    run: Run = field(repr=False)
