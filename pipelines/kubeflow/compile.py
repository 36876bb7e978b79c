"""`make pipeline-compile`: write the night as Kubeflow pipeline YAML, the same bytes every time."""

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path

from perception.errors import InputError
from pipelines.settings import load_settings

# A line of the comment that KFP writes on top: the default of a list or a mapping, as Python prints it.
_NESTED_DEFAULT = re.compile(r"(?m)^(#    \w+: (?:list|dict) \[Default: )(.+)\]$")


def compile_pipeline(
    profile: str, target: Path, overrides: Sequence[str] = (), data: str = "", images: Path | None = None
) -> None:
    """Compile the night of a profile into `target`; the file appears whole.

    images: the file of digests that `make images` wrote, in place of the names in params.yaml.
    """
    from kfp import compiler

    from pipelines.kubeflow.images import references
    from pipelines.nightly import build_pipeline

    if target.suffix not in (".yaml", ".yml") or target.is_dir():
        raise InputError(f"OUT={target}: must be a file that ends in .yaml; name another")
    settings = load_settings(profile, overrides, data, run="nightly")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.stem}.partial{target.suffix}")
        names = settings["images"] | (references(images) if images else {})
        compiler.Compiler().compile(build_pipeline(settings, names), str(partial))
        partial.write_text(in_one_order(partial.read_text()))
        partial.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); choose another file with OUT=FILE") from None


def in_one_order(text: str) -> str:
    """Return compiled YAML with the keys in its leading comment sorted: KFP prints them in an order that differs by process."""

    def rewrite(line: re.Match[str]) -> str:
        return f"{line[1]}{json.dumps(ast.literal_eval(line[2]), sort_keys=True)}]"

    return _NESTED_DEFAULT.sub(rewrite, text)
