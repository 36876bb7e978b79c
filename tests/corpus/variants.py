"""What people, operating systems and tools do to the files of a data set; each changes a tree of files."""

from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from tests.corpus.layouts import SIZE, Layout, Tree, picture, renamed
from tests.perception.data.readers.layouts import grey

TEXTS = (".json", ".csv", ".txt")
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(40)
NAMES = ("0016E5 front 01", "0016E5_café_02", "0016E5_Straße_03", "0016E5 (copy) 04")


def hidden_files(tree: Tree) -> Tree:
    """Add what macOS and Windows leave: ._NAME beside every file, and a file of their own in every folder."""
    added = {}
    for name in tree:
        path = PurePosixPath(name)
        added[str(path.with_name("._" + path.name))] = APPLE_DOUBLE
        for own in (".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini"):
            for folder in (path.parent, *path.parents):
                added[str(folder / own)] = b"\x00\x00\x00\x01Bud1"
    return tree | added


def byte_order_marks(tree: Tree) -> Tree:
    """Begin every text as Excel and Notepad do."""
    return {name: b"\xef\xbb\xbf" + data if _is_text(name) else data for name, data in tree.items()}


def windows_line_ends(tree: Tree) -> Tree:
    """End every line of a text as Windows does."""
    return {name: data.replace(b"\n", b"\r\n") if _is_text(name) else data for name, data in tree.items()}


def other_tools_files(tree: Tree) -> Tree:
    """Add files of other tools to every folder: lists, notes, caches, thumbnails in a hidden folder."""
    folders = {str(PurePosixPath(name).parent) for name in tree}
    own = ("classes.names", "README.md", "data.yaml", "labels.cache", ".thumbs/a.png", "Makefile")
    return tree | {str(PurePosixPath(folder) / name): b"of another tool" for folder in folders for name in own}


def upper_case_suffixes(tree: Tree) -> Tree:
    """Write suffixes of pictures as cameras do."""
    return {
        name.removesuffix(suffix) + suffix.upper() if (suffix := PurePosixPath(name).suffix) in (".jpg", ".png") else name: data
        for name, data in tree.items()
    }  # fmt: skip


def palette_labels(layout: Layout, tree: Tree) -> Tree:
    """Write every label with a palette, which changes no value."""
    from tests.corpus.layouts import rows

    coded = [grey(np.array(layout.codes)[rows(number)], palette=True) for number in range(len(layout.stems))]
    return tree | dict(zip(layout.labels(), coded, strict=True))


def orientation(layout: Layout, tree: Tree, value: int) -> Tree:
    """Give every image an EXIF orientation."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = value
    pictures = {
        name: picture(number, PurePosixPath(name).suffix, exif=exif) for number, name in enumerate(layout.images())
    }
    return tree | pictures


def half_the_labels(layout: Layout, tree: Tree) -> Tree:
    """Leave the first two labels out, and what lies beside them under their names."""
    gone = [label.rpartition(".")[0].removesuffix(".label") for label in layout.labels()[:2]]
    kept = (*layout.images(), *(f"{stem}.json" for stem in layout.stems))
    return {name: data for name, data in tree.items() if name in kept or not name.startswith(tuple(gone))}


def one_bad_size(layout: Layout, tree: Tree) -> Tree:
    """Write the first label one row too low."""
    codes = np.array(layout.codes)[np.zeros((SIZE[0] - 1, SIZE[1]), int)]
    return tree | {layout.labels()[0]: layout.encode(codes)}


def one_truncated(layout: Layout, tree: Tree) -> Tree:
    """Cut the first image after half of its bytes."""
    name = layout.images()[0]
    return tree | {name: tree[name][: len(tree[name]) // 2]}


def own_names(layout: Layout) -> Layout:
    """Return the layout with names that have blanks, accents and brackets."""
    return renamed(layout, NAMES)


def _is_text(name: str) -> bool:
    return PurePosixPath(name).suffix in TEXTS


SAME: dict[str, Callable[[Layout, Tree], Tree]] = {
    "as published": lambda _layout, tree: tree,
    "hidden files": lambda _layout, tree: hidden_files(tree),
    "byte order marks": lambda _layout, tree: byte_order_marks(tree),
    "windows line ends": lambda _layout, tree: windows_line_ends(tree),
    "files of other tools": lambda _layout, tree: other_tools_files(tree),
    "upper-case suffixes": lambda _layout, tree: upper_case_suffixes(tree),
    "palette labels": palette_labels,
    "EXIF upright": lambda layout, tree: orientation(layout, tree, 1),
}
"""Changes after which the same frames are read."""


def applies(variant: str, layout: Layout) -> bool:
    """Say whether a variant changes anything of a layout, or could come about there."""
    if variant in ("byte order marks", "windows line ends"):
        return any(_is_text(name) for name in layout.files())
    if variant == "palette labels":
        return layout.encode is grey
    if layout.format == "webdataset":  # a shard is one tool's product: no other tool drops files into it
        return variant not in ("files of other tools", "upper-case suffixes")
    return True
