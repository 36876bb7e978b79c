"""Every stage by name: the modules of components/ that declare one."""

import functools
import importlib
import pkgutil

import components
from components.stage.declaration import Stage
from perception.errors import InputError


def stage_names() -> list[str]:
    """Return the names of all stages, sorted; none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(components.__path__) if module.name != "stage")


def find_stage(name: str) -> Stage:
    """Return the stage that components/NAME declares, importing no other; raises InputError where there is none."""
    if name not in stage_names():
        raise InputError(f"stage {name!r}: there is no components/{name}.py; use one of {', '.join(stage_names())}")
    stage: Stage = importlib.import_module(f"components.{name}").STAGE
    return stage


@functools.cache
def all_stages() -> dict[str, Stage]:
    """Return every stage by name."""
    return {name: find_stage(name) for name in stage_names()}
