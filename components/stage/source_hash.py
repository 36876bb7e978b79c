"""Which source a stage reaches, as one hash: a stage runs again when code that it imports changed, and not otherwise."""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from perception.errors import InputError

ROOT = Path(__file__).parents[2]
OURS = ("components", "perception")
DATA_FILES = ("*.yaml", "*/*.yaml", "*/*.html", "*/*.css", "*/*.md")


def source_hashes(modules: Mapping[str, str]) -> dict[str, str]:
    """Return a hash for each named module over its own source and all source and data of ours that it imports."""
    return {name: _hash(reachable_files(module)) for name, module in modules.items()}


def reachable_files(module: str) -> list[Path]:
    """Return the files of ours that importing `module`, and calling what it imports lazily, can reach."""
    seen: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        for file in _files(name):
            if file not in seen:
                seen.add(file)
                waiting += _imports(file) if file.suffix == ".py" else []
    return sorted(seen)


def package_hash(module: str) -> str:
    """Return a hash over every source file of the installed package that a module is in; raises InputError where there is none."""
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        raise InputError(f"package {top}: has no source here; install it, or put its folder on PYTHONPATH")
    file = Path(found.origin)
    files = sorted(file.parent.rglob("*.py")) if found.submodule_search_locations else [file]
    digest = hashlib.sha256()
    for each in files:
        digest.update(each.relative_to(file.parent).as_posix().encode() + b"\0" + _digest(each))
    return digest.hexdigest()[:16]


@functools.cache  # most files are reached by most stages
def _files(module: str) -> list[Path]:
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        # Tables, suites and templates lie beside the code that reads them, or one folder below.
        beside = [file for pattern in DATA_FILES for file in path.parent.glob(pattern)]
        return [path.with_suffix(".py"), *sorted(beside)]
    return [path / "__init__.py"] if (path / "__init__.py").is_file() else []


@functools.cache
def _imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] in OURS]


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + _digest(file))
    return digest.hexdigest()[:16]


@functools.cache
def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
