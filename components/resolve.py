"""resolve: find the exact data version that this night starts from, and list the footage that has arrived."""

from pathlib import Path

from components.ingest.sources import Source
from components.stage.declaration import BASE, Needs, Paths, Port, Stage
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import BrokenRule, Count, checked


@checked
class ResolveParameters:
    """Say where the data registry is, which version to start from, and where footage arrives."""

    registry: str  # git repository of the data registry: a folder or a URL; a folder that does not exist is created
    remote: str  # where the registry keeps data: a folder or s3://bucket/prefix
    store: str  # blob store: a folder or s3://bucket/prefix
    sources: dict[str, Source]  # every source of the night by name
    batch_count: Count  # batches that the listing is divided into
    revision: str = "current"  # what people promoted last, or the tag of a version
    require_signed: bool = False  # refuse a version whose tag or release is not signed by an allowed key
    allowed_signers: str = ""  # with require_signed: lines `name ssh-ed25519 KEY`, or the path of a file with them

    def __post_init__(self) -> None:
        if self.require_signed and not self.allowed_signers.strip():
            raise BrokenRule("allowed_signers", self.allowed_signers, "must not be empty with require_signed")


def run(inputs: Paths, outputs: Paths, parameters: ResolveParameters) -> dict[str, str | None]:
    """Write the resolved version (its manifest, empty on the first night, run.json and the champion where there is one) and,
    for each batch, its share of the listing of all that has arrived; tell the base.
    """
    from perception.data.store import open_store
    from perception.versioning.base import write_base

    registry, remote = absolute(parameters.registry), absolute(parameters.remote)
    base = write_base(outputs.one("base"), registry, remote, open_store(parameters.store), parameters.revision)
    if parameters.require_signed and base.tag:
        from perception.versioning.signatures import require_signed

        log(f"{base.tag} is signed by {require_signed(registry, base.tag, parameters.allowed_signers)}")
    released = base.champion[:8] if base.champion else "none yet"
    log(f"data version: {base.tag or 'none yet'}, {base.frames} frames; champion: {released}")
    _write_listing(outputs.one("arrivals"), parameters)
    return {"base": base.tag}


def _write_listing(folder: Path, parameters: ResolveParameters) -> None:
    import pandas as pd

    from components.ingest.arrivals import list_arrivals
    from perception.selection.shards import in_shard

    sources = parameters.sources
    listing = pd.concat([list_arrivals(name, source) for name, source in sources.items()], ignore_index=True)
    for batch in range(parameters.batch_count):
        share = listing[in_shard(listing.drive_id, batch, parameters.batch_count)]
        (folder / str(batch)).mkdir()
        share.to_parquet(folder / str(batch) / "listing.parquet", index=False)
    log(f"{len(listing)} objects have arrived from {len(sources)} sources, in {parameters.batch_count} batches")


STAGE = Stage(
    name="resolve",
    summary="Resolve the promoted data version to an exact commit, and list the footage that has arrived.",
    outputs=(BASE, Port(name="arrivals", about="what has arrived, one folder a batch", shares="batch")),
    parameters=ResolveParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=2),
    run=run,
)
