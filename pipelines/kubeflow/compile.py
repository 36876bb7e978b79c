"""Write the night as Kubeflow pipeline YAML, the same bytes every time."""

from collections.abc import Sequence
from pathlib import Path

from components.stage.parameters import build_parameters
from perception.errors import InputError
from pipelines.cluster import Cluster
from pipelines.kubeflow.dsl import build_pipeline
from pipelines.kubeflow.images import references
from pipelines.kubeflow.size import check_size
from pipelines.kubeflow.sources import places_of_sources
from pipelines.nightly import nightly
from pipelines.settings import load_settings


def compile_pipeline(
    profile: str, target: Path, overrides: Sequence[str] = (), data: str = "", images: Path | None = None
) -> None:
    """Compile the night of a profile into `target`; the file appears whole.

    images: the file of digests that `make images` wrote, in place of the names in params.yaml. Raises InputError for a night
    whose run Kubeflow could not show.
    """
    from google.protobuf.json_format import MessageToDict
    from kfp import compiler

    if target.suffix not in (".yaml", ".yml") or target.is_dir():
        raise InputError(f"OUT={target}: must be a file that ends in .yaml; name another")
    night = nightly()
    settings = load_settings(night, profile, overrides, data, run="nightly")
    places_of_sources(settings["sources"], build_parameters(Cluster, settings["cluster"], where="cluster"))
    names = settings["images"] | (references(images) if images else {})
    pipeline = build_pipeline(night, settings, names)
    check_size(MessageToDict(pipeline.pipeline_spec), MessageToDict(pipeline.platform_spec))
    partial = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(pipeline, str(partial))
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another file with OUT=FILE") from None
