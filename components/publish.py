"""publish: make tonight's data version permanent in the data registry."""

from components.stage.declaration import Needs, Paths, Port, Stage
from components.stage.learning import write_json
from components.stage.parameters import absolute
from components.stage.records import log
from perception.parameters import checked


@checked
class PublishParameters:
    """Say where the data registry is and what the run is called."""

    registry: str  # git repository of the data registry: a folder or a URL
    remote: str  # where the registry keeps data: a folder or s3://bucket/prefix
    run: str  # name of the run, part of the version's tag


def run(inputs: Paths, outputs: Paths, parameters: PublishParameters) -> None:
    """Publish the curated folder under a write-once tag and write version.json."""
    from dataclasses import asdict

    from perception.versioning.registry import create_registry, publish

    registry = absolute(parameters.registry)
    create_registry(registry, absolute(parameters.remote))
    version = publish(registry, parameters.run, inputs.one("curated") / "version")
    write_json(outputs.one("version") / "version.json", asdict(version))
    log(f"published {version.tag}: {version.frames} frames, {version.new_bytes / 1e6:.1f} MB new")


STAGE = Stage(
    name="publish",
    summary="Publish the accepted data version: push, verify, commit, tag.",
    inputs=(
        Port(name="base", about="the data version that the night started from"),
        Port(name="curated", about="the manifest and shards that the gate accepted"),
    ),
    outputs=(Port(name="version", about="version.json: tag, commit, manifest hash, parent"),),
    parameters=PublishParameters,
    needs=Needs(image="versioning", loads="pandas", memory_gib=2),
    run=run,
)
