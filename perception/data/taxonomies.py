"""Class taxonomies and the tables between them, kept as data in taxonomy_tables/."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from perception.errors import InputError

IGNORE = 255
UNKNOWN = 254
HUB = "cityscapes19"
_TABLES = Path(__file__).parent / "taxonomy_tables"


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Name the classes of a label, how to draw them and how label files encode them.

    classes: names in the order of their ids. colors: (class, 3) uint8 RGB. foreground: one flag a class, True = object.
    raw: (256,) uint8, value in a label file → class id, 255 = ignore, 254 = value unknown to the taxonomy.
    """

    name: str
    classes: tuple[str, ...]
    colors: NDArray[np.uint8]
    foreground: tuple[bool, ...]
    raw: NDArray[np.uint8]


@cache
def taxonomy_names() -> tuple[str, ...]:
    """List the names of all known taxonomies, sorted."""
    return tuple(sorted(path.stem for path in _TABLES.glob("*.yaml")))


@cache
def load_taxonomy(name: str) -> Taxonomy:
    """Load a taxonomy by its name.

    Its arrays are read-only, because every caller shares them. Raises InputError for an unknown name.
    """
    table = _read_table(name)
    classes = _read_table(_base(table))["classes"]
    names = tuple(str(entry["name"]) for entry in classes)
    colors = np.array([entry["color"] for entry in classes], dtype=np.uint8)
    colors.setflags(write=False)
    foreground = tuple(bool(entry["foreground"]) for entry in classes)
    return Taxonomy(name, names, colors, foreground, _raw_lookup(table, names))


def published_names(name: str) -> tuple[str, ...]:
    """Name the classes of a taxonomy, and what its files ignore, by raw value as the data set publishes them.

    Raises InputError for an unknown taxonomy and for one whose table does not list them.
    """
    table = _read_table(name)
    if "published" not in table:
        raise InputError(f"taxonomy {name!r} lists no published names; use another one")
    return tuple(table["published"])


@cache
def drawn_colors(name: str) -> dict[tuple[int, ...], int]:
    """Return the value in a label file of every colour, red, green and blue, in which the data set also draws its labels."""
    table = _read_table(name)
    value_of = {str(each): value for value, each in table["raw"].items()}
    drawn: dict[str, dict[str, list[int]]] = table["drawn"]
    return {tuple(c): value_of.get(each, IGNORE) for each, colors in drawn.items() for c in colors.values()}


@cache
def categories(name: str) -> dict[str, tuple[int, ...]]:
    """Name the groups of classes that are also judged as one: category → class ids; empty where the table has none."""
    table = _read_table(_base(_read_table(name)))
    classes = load_taxonomy(name).classes
    return {
        str(group): tuple(classes.index(each) for each in members)
        for group, members in table.get("categories", {}).items()
    }


@cache
def label_lookup(source: str, target: str) -> NDArray[np.uint8]:
    """Build the table from raw values of a label file in `source` to class ids of `target`.

    Returns (256,) uint8, read-only; 255 = ignore, also where the target has no such class and for values that `source`
    does not know (perception.data.decoding refuses files that hold those). Raises InputError for an unknown name.
    """
    classes = load_taxonomy(target).classes
    mapped = [IGNORE if name is None else classes.index(name) for name in _mapped_classes(source, target)]
    by_class = np.full(256, IGNORE, np.uint8)
    by_class[: len(mapped)] = mapped
    lookup = by_class[load_taxonomy(source).raw]
    lookup.setflags(write=False)
    return lookup


def apply_lookup(label: NDArray[np.uint8], lookup: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map every pixel of a label through a table: label (height, width) uint8, lookup (256,) uint8, result as label."""
    # bytes.translate needs no index array of 8 bytes a pixel and is several times faster than lookup[label].
    return np.frombuffer(label.tobytes().translate(lookup.tobytes()), np.uint8).reshape(label.shape)


def raw_values(label: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """Map class ids to values of a label file, which may differ: label (height, width) uint8, 255 = ignore, result as label.

    Where a file may say a class in several values, the smallest is used.
    """
    value_of_class = np.full(256, IGNORE, np.uint8)
    for class_id in range(len(taxonomy.classes)):
        value_of_class[class_id] = np.flatnonzero(taxonomy.raw == class_id)[0]
    value_of_class[IGNORE] = np.flatnonzero(taxonomy.raw == IGNORE)[-1]
    return value_of_class[label]


def colorize(label: NDArray[np.uint8], taxonomy: Taxonomy) -> NDArray[np.uint8]:
    """Draw class ids in their colours: label (height, width) uint8 → (height, width, 3) uint8; ignore: black."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(taxonomy.classes)] = taxonomy.colors
    return palette[label]


def _mapped_classes(source: str, target: str) -> list[str | None]:
    """Name for every class of `source` its class in `target`; None where there is no such class."""
    names: list[str | None] = list(load_taxonomy(source).classes)
    start, end = _read_table(source), _read_table(target)
    if _base(start) == _base(end):
        return names
    if _base(start) != HUB:
        names = [start["to_cityscapes19"][name] for name in names]
    if _base(end) != HUB:
        names = [None if name is None else end["from_cityscapes19"][name] for name in names]
    return names


def _base(table: dict[str, Any]) -> str:
    """Name the taxonomy that lists the classes."""
    return str(table.get("classes_of", table["name"]))


def _raw_lookup(table: dict[str, Any], classes: tuple[str, ...]) -> NDArray[np.uint8]:
    raw = np.full(256, UNKNOWN, np.uint8)
    raw[table["ignore"]] = IGNORE
    for value, name in table["raw"].items():
        raw[value] = classes.index(name)
    raw.setflags(write=False)
    return raw


@cache
def _read_table(name: str) -> dict[str, Any]:
    if name not in taxonomy_names():
        raise InputError(f"taxonomy {name!r} is unknown; use one of {', '.join(taxonomy_names())}")
    table: dict[str, Any] = yaml.safe_load((_TABLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return table
