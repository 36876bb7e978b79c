"""resolve: find the exact data version that this night starts from."""

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import BrokenRule, checked


@checked
class ResolveParameters:
    """Say where the data registry is and which version to start from."""

    registry: str  # git repository of the data registry: a folder or a URL; a folder that does not exist is created
    remote: str  # where the registry keeps data: a folder or s3://bucket/prefix
    store: str  # blob store: a folder or s3://bucket/prefix
    revision: str = "current"  # what people promoted last, or the tag of a version
    require_signed: bool = False  # refuse a version whose tag or release is not signed by an allowed key
    allowed_signers: str = ""  # with require_signed: lines `name ssh-ed25519 KEY`, or the path of a file with them

    def __post_init__(self) -> None:
        if self.require_signed and not self.allowed_signers.strip():
            raise BrokenRule("allowed_signers", self.allowed_signers, "must not be empty with require_signed")


def run(inputs: Paths, outputs: Paths, parameters: ResolveParameters) -> None:
    """Write the resolved version: its manifest (empty on the first night), version.json and the champion where there is one."""
    from perception.data.store import open_store
    from perception.versioning.base import write_base

    registry, remote = absolute(parameters.registry), absolute(parameters.remote)
    base = write_base(outputs.one("base"), registry, remote, open_store(parameters.store), parameters.revision)
    if parameters.require_signed and base.tag:
        from perception.versioning.signatures import require_signed

        log(f"{base.tag} is signed by {require_signed(registry, base.tag, parameters.allowed_signers)}")
    released = base.champion[:8] if base.champion else "none yet"
    log(f"data version: {base.tag or 'none yet'}, {base.frames} frames; champion: {released}")


STAGE = Stage(
    name="resolve",
    summary="Resolve the promoted data version to an exact commit and bring its frames within reach.",
    outputs=(Port(name="base", kind="version", about="the data version that the night starts from"),),
    parameters=ResolveParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=2),
    run=run,
)
