"""Bad input, generated: every reader, every table between stages, every parameter and every command line.

The property is one everywhere: bad input ends in an InputError (BadFrame is one), or in exit code 2 or 3 with a line that names the
thing; never in another exception, a traceback, a hang, or a result that differs from that of the good input without a word.
"""

import contextlib
import copy
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from components.stage.program import EXIT_BAD_INPUT, EXIT_DONE, EXIT_REFUSED
from perception.data.annotation import read_label
from perception.data.classification import read_class_folders, read_classification, read_icdar_characters
from perception.data.decoding import decode_image, decode_label
from perception.data.detection import read_bdd100k_boxes, read_coco, read_kitti, read_kitti_detections
from perception.data.manifest import COLUMNS
from perception.data.readers import open_reader
from perception.data.store import FolderStore
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from pipelines.nightly import nightly
from pipelines.settings import load_settings
from tests.faults.cases import elsewhere, named
from tests.faults.counting import Count, counted
from tests.faults.kills import Undisturbed, undisturbed_night
from tests.faults.nights import Task, content_of, run_task
from tests.perception.data.annotation import batches, test_exports
from tests.perception.data.classification import test_cifar, test_files, test_idx
from tests.perception.data.detection import test_detection
from tests.perception.data.readers.layouts import LAYOUTS

LIMIT_SECONDS = 10  # for one case; it takes milliseconds
ODD_TEXTS = (
    "", " ", "..", "../../etc/passwd", "/etc/passwd", "a/../../b", "data/x-0000000g", "-", "--help", "\u202egnp.exe", "名前", "a\nb",
    "x" * 5000, "${HOME}", "$(touch x)", "; rm -rf x", "%s%n", "nan", "null", "[]", "{}", "'", '"', "\\", "é", "a b", "s3://", "s3://../x",
    "http://127.0.0.1:9/x", "file:///etc", "current", "HEAD~1", "refs/tags/x", "data/night-00000000",
)  # fmt: skip
ODD_VALUES = (
    None, True, -1, 0, 10**30, -(10**30), 0.5, float("nan"), float("inf"), -0.0, "", "x", "../x", "1e400", [], [None], {}, {"a": {"b": 1}},
    "名", "a\nb", [[[[]]]], -(2**63) - 1,
)  # fmt: skip
OTHER_CONTENT = (b"", b"\0" * 64, b"{}", b"[[[[[[[[", b"NaN", b"\xff\xfe", b"-1e999")


class Hang(Exception):
    """Say that a case took longer than any does."""


@contextlib.contextmanager
def limited(seconds: int | None = None) -> Iterator[None]:
    """Raise Hang in the block once it takes too long."""
    limit = seconds or LIMIT_SECONDS

    def stop(*_: object) -> None:
        raise Hang(f"more than {limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def generated(examples: int, strategy: st.SearchStrategy[Any], judge: Callable[[Any], str], name: str) -> Count:
    """Judge as many generated cases; the same ones every time."""
    endings: list[str] = []
    quick = settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    @quick
    @given(strategy)
    def run(case: Any) -> None:
        endings.append(judge(case))

    run()
    return counted(name, endings)


def attempt(call: Callable[[], Any], what: str) -> str:
    """Call a library function: "error" for an InputError in one line, "correct" where it takes the input, else what went wrong."""
    try:
        with limited():
            call()
    except InputError as error:
        return "error" if "\n" not in str(error) and len(str(error)) > 10 else f"{what}: says {str(error)!r}"
    except (Exception, RecursionError) as error:
        return f"{what}: {type(error).__name__}: {str(error)[:200]}"
    return "correct"


# ---------------------------------------------------------------- readers


def damages() -> st.SearchStrategy[Any]:
    """Draw how a file of a data set is spoilt: which one (a number that is taken modulo) and how."""
    return st.tuples(
        st.integers(0, 10**6),
        st.one_of(
            st.tuples(st.just("flip"), st.floats(0, 0.999), st.integers(1, 255)),
            st.tuples(st.just("cut"), st.floats(0, 0.999), st.just(0)),
            st.tuples(st.just("noise"), st.floats(0, 0.999), st.binary(min_size=1, max_size=40)),
            st.tuples(st.just("replace"), st.just(0.0), st.sampled_from(OTHER_CONTENT)),
            st.tuples(st.just("grow"), st.just(0.0), st.sampled_from([b"\0" * 600, b"trailing"])),
            st.tuples(st.sampled_from(["folder", "pipe", "loop", "gone"]), st.just(0.0), st.just(0)),
            st.tuples(st.just("rename"), st.just(0.0), st.sampled_from(["名.png", "a b\n.png", "..png", "-x.txt", "x" * 240 + ".jpg"])),
        ),
    )  # fmt: skip


def damage(root: Path, chosen: Any) -> str:
    """Spoil one file below `root` as drawn; say what was done."""
    number, (how, place, what) = chosen
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = files[number % len(files)]
    data = bytearray(path.read_bytes())
    start = int(place * len(data))
    if how == "flip" and data:
        data[start] ^= what
    elif how == "cut":
        del data[start:]
    elif how == "noise":
        data[start : start + len(what)] = what
    elif how == "replace":
        data = bytearray(what)
    elif how == "grow":
        data += what
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)  # opening it would wait for ever
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "rename":
        path.with_name(what).write_bytes(data)
    elif how != "gone":
        path.write_bytes(data)
    return f"{path.relative_to(root)} {how}"


def read_layout(format: str, root: Path) -> None:
    """Read a whole data set as ingest does."""
    reader = open_reader(format)
    for frame in reader.frames(root, None, True):
        image = decode_image(reader.image(frame), frame.image_name)
        label = reader.label(frame)
        if label is None:
            raise AssertionError(f"{frame.frame_id} lost its label")
        decode_label(label, "label", load_taxonomy(frame.label_taxonomy or reader.taxonomy), image.shape[:2])
        reader.instances(frame)


def _written(write: Callable[[Path], Any]) -> Callable[[Path], Path]:
    """Return a builder that makes its folder first."""

    def build(root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        write(root)
        return root

    return build


def _coco(root: Path) -> None:
    (root / "images").mkdir()
    detections = read_bdd100k_boxes(test_detection.bdd(root / "bdd"), "val")
    frames = tuple(
        replace(each, image_path=root / "images" / each.image_path.name, width_px=64, height_px=64)
        for each in detections.frames
    )
    from perception.data.detection import write_coco

    write_coco(replace(detections, frames=frames), root / "annotations.json", root / "images")
    shutil.rmtree(root / "bdd")


def other_readers() -> dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]]:
    """Give every reader beside those of segmentation sets: how a tiny set is written, and how it is read."""

    def classification(name: str, part: str) -> Callable[[Path], Any]:
        return lambda root: read_classification(name, root, part)

    def idx(root: Path) -> None:
        test_idx.write(root, test_idx.IMAGES, np.array([9, 0], np.uint8))

    def jpeg_npz(root: Path) -> None:
        read_classification("jpeg_npz", root / "x.npz", "test")

    def cifar10(root: Path) -> None:
        read_classification("cifar10", root / "x", "test")

    return {
        "cifar10 binary": (_written(lambda root: test_cifar.binary_version(root / "x")), cifar10),
        "jpeg npz": (_written(lambda root: test_cifar.packed(root / "x.npz")), jpeg_npz),
        "fashion_mnist": (_written(idx), classification("fashion_mnist", "test")),
        "svhn": (_written(test_files.svhn), classification("svhn", "test")),
        "class folders": (_written(test_files.imagenet), lambda root: read_class_folders(root, "train")),
        "icdar": (_written(test_files.icdar), lambda root: read_icdar_characters(root, "train")),
        "kitti": (_written(test_detection.kitti), read_kitti),
        "kitti results": (_written(_kitti_results), read_kitti_detections),
        "bdd100k boxes": (_written(test_detection.bdd), lambda root: read_bdd100k_boxes(root, "val")),
        "coco": (_written(_coco), lambda root: read_coco(root / "annotations.json", root / "images")),
        "label drop": (_written(_label_drop), _read_drop),
        "exports of annotation tools": (_written(_exports), _read_drop),
    }


def _kitti_results(root: Path) -> None:
    (root / "000000.txt").write_bytes(
        b"\n".join(line + b" 0.5" for line in test_detection.KITTI.splitlines()[:2]) + b"\n"
    )


def _label_drop(root: Path) -> None:
    """Write a batch of three frames and its labels: one frame as polygons, one as a label file."""
    store, batch = FolderStore(root / "store"), root / "drops" / "batch"
    batches.hand_out(store, batch)
    batches.outline(batch, "frame0", [{"label": "road", "polygon": batches.box(0, 0, 5, 5)}])
    (batch / "labels").mkdir()
    label = np.zeros((batches.HEIGHT, batches.WIDTH), np.uint8)
    (batch / "labels" / "frame1.png").write_bytes(batches.png(label))
    batches.say(batch)


def _exports(root: Path) -> None:
    """Write a batch, and what CVAT and Label Studio export of it."""
    _label_drop(root)
    shapes = test_exports.CAR_MASK + test_exports.ROAD_POLYGON.format(0)
    (root / "drops" / "task.xml").write_text(test_exports.CVAT.format(shapes=shapes))
    regions = [test_exports.ALL_ROAD, test_exports.CAR_BRUSH, test_exports.RAIN]
    (root / "drops" / "project.json").write_text(json.dumps([test_exports.task(regions)]))


def _read_drop(root: Path) -> None:
    store = FolderStore(root / "store")
    known = batches.chosen_frames(FolderStore(root / "elsewhere")).assign(batch="batch-0123456789ab")
    for each in batches.returned(root / "drops", known):
        read_label(each, "cityscapes19", store)


def segmentation_readers(folder: Path, examples: int) -> Count:
    """Spoil one file of a data set in each of the known layouts, and read it."""
    numbers = iter(range(10**9))

    def judge(case: Any) -> str:
        format, chosen = case
        root = LAYOUTS[format](folder / f"{next(numbers)}")
        what = f"{format}: {damage(root, chosen)}"
        try:
            return attempt(lambda: read_layout(format, root), what)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return generated(examples, st.tuples(st.sampled_from(sorted(LAYOUTS)), damages()), judge, "readers of frames")


def readers_of_other_sets(folder: Path, examples: int) -> Count:
    """Spoil one file of a classification or detection set, and read it."""
    numbers, readers = iter(range(10**9)), other_readers()

    def judge(case: Any) -> str:
        name, chosen = case
        root = folder / f"{next(numbers)}"
        write, read = readers[name]
        write(root)
        what = f"{name}: {damage(root, chosen)}"
        try:
            return attempt(lambda: read(root), what)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    return generated(examples, st.tuples(st.sampled_from(sorted(readers)), damages()), judge, "readers of other sets")


def forged_images(folder: Path, examples: int) -> Count:
    """Decode images and labels whose headers promise what the file does not hold."""
    del folder
    import struct
    import zlib

    def forged(case: Any) -> bytes:
        width, height, depth, kind, payload = case
        header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(payload)), (b"IEND", b""))
        body = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        return b"\x89PNG\r\n\x1a\n" + body

    sizes = st.sampled_from([0, 1, 7, 64, 65_535, 2**31 - 1, 2**32 - 1])
    cases = st.tuples(
        sizes, sizes, st.sampled_from([0, 1, 8, 16, 255]), st.sampled_from([0, 2, 3, 4, 6, 9]), st.binary(max_size=200)
    )

    def judge(case: Any) -> str:
        data, what = forged(case), f"PNG header {case[:4]}"
        first = attempt(lambda: decode_image(data, "image"), what)
        second = attempt(lambda: decode_label(data, "label", load_taxonomy("cityscapes19"), (8, 8)), what)
        return first if first not in ("correct", "error") else second if second not in ("correct", "error") else first

    return generated(examples, cases, judge, "forged image headers")


# ---------------------------------------------------------------- tables and records between stages

MUTATED = {  # task: its artifacts whose files are made wrong by hand; tasks that refuse in milliseconds
    "gather": ("arrived/0",),
    "select": ("frames", "scores/0", "base"),
    "gate_select": ("selection",),
    "gate_evaluate": ("evaluation",),
    "curate": ("frames", "selection", "base"),
    "publish": ("curated",),
    "propose": ("version", "selection", "comparison", "evaluation", "gates/ingest"),
    "report": ("selection", "evaluation", "comparison", "gates/ingest", "adaptation"),
}
TABLE_CHANGES = (
    "missing column",
    "text for numbers",
    "not a number",
    "negative",
    "absurd",
    "twice",
    "no rows",
    "not Parquet",
)
RECORD_CHANGES = ("not JSON", "a list", "missing key", "null value", "text value", "nested deep")


def spoil_table(path: Path, how: str, place: int) -> str:
    """Make a table wrong in one column; say which."""
    table = pd.read_parquet(path)
    column = table.columns[place % len(table.columns)] if len(table.columns) else ""
    numeric = [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]
    if how in ("not a number", "negative", "absurd") and numeric:
        column = numeric[place % len(numeric)]
        table[column] = table[column].astype(float)
        table.loc[table.index[:1], column] = {"not a number": np.nan, "negative": -1e9, "absurd": 1e300}[how]
    elif how == "missing column":
        table = table.drop(columns=[column])
    elif how == "text for numbers":
        table[column] = "x"
    elif how == "twice":
        table = pd.concat([table, table], ignore_index=True)
    elif how == "no rows":
        table = table[:0]
    path.unlink()
    if how == "not Parquet":
        path.write_bytes(b"PAR1 no PAR1")
    else:
        table.to_parquet(path, index=False)
    return f"{path.name}: {column} {how}"


def spoil_record(path: Path, how: str, place: int) -> str:
    """Make a JSON record wrong in one key; say which."""
    record = json.loads(path.read_text())
    keys = sorted(record) if isinstance(record, dict) else []
    key = keys[place % len(keys)] if keys else ""
    if how == "missing key" and keys:
        del record[key]
    elif how in ("null value", "text value") and keys:
        record[key] = None if how == "null value" else "x"
    path.unlink()
    text = {"not JSON": "{", "a list": "[1]", "nested deep": "[" * 50_000}.get(how, json.dumps(record))
    path.write_text(text)
    return f"{path.name}: {key} {how}"


def _same_or_tolerated(run: Path, undisturbed: Task, task: Task, what: str) -> bool:
    """Say whether the outputs are those of the good artifact, or the change was one that no stage can know to be wrong."""
    if what.endswith(TOLERATED) or (task.words[0] in SHOWS and what.endswith(VALUES)):
        return True
    column = what.rpartition(": ")[2].split()[0]
    if "profile.parquet" in what and ("not a number" in what or column in COLUMNS.names):
        return True  # the next gate judges it, and where the manifest says the same fact, the manifest counts
    if "scores.parquet" in what and column not in ("frame_id", "score") and not column.startswith("embedding"):
        return True  # nothing is chosen by it; it is carried along for the report
    pairs = zip(undisturbed.gives, task.gives, strict=True)
    return all(content_of(run / good, run.name) == content_of(Path(found), run.name) for good, found in pairs)


# Fewer rows may be all there were; an absurd but finite figure may have been measured; so may another text.
TOLERATED = ("no rows", "absurd", "text value")
# The report and the review show the figures that they are given; null is what a figure is that nobody measured.
SHOWS, VALUES = ("report", "propose"), ("negative", "not a number", "null value")


def hand_made_artifacts(
    folder: Path, examples: int, undisturbed: Undisturbed, tasks: Sequence[str] = tuple(MUTATED)
) -> Count:
    """Make a table or a record of an unsealed artifact wrong and run a stage that takes it.

    Exit code 0 counts only where the stage gives exactly what it gives for the good artifact, or where the changed thing is
    a matter of taste (fewer rows, a text in a report).
    """
    run, numbers = undisturbed.run, iter(range(10**9))
    strategy = st.tuples(
        st.sampled_from(sorted(tasks)), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)
    )

    def judge(case: Any) -> str:
        name, which_artifact, which_file, which_change = case
        artifact = run / MUTATED[name][which_artifact % len(MUTATED[name])]
        files = [
            path
            for path in sorted(artifact.rglob("*"))
            if path.suffix in (".parquet", ".json") and path.name != "seal.json"
        ]
        if not files:
            return "correct"
        path, seal = files[which_file % len(files)], artifact / "seal.json"
        kept, sealed = path.read_bytes(), seal.read_bytes()
        seal.unlink()
        changes = TABLE_CHANGES if path.suffix == ".parquet" else RECORD_CHANGES
        how, place = changes[which_change % len(changes)], which_change // len(changes)
        task = elsewhere(named(run, name), folder / f"{next(numbers)}")
        try:
            what = f"{name} with {artifact.name}/{(spoil_table if path.suffix == '.parquet' else spoil_record)(path, how, place)}"
            ended = run_task(task, run)
        finally:
            path.write_bytes(kept)
            seal.write_bytes(sealed)
        if "Traceback" in ended.said or ended.code not in (EXIT_DONE, EXIT_BAD_INPUT, EXIT_REFUSED):
            return f"{what}: code {ended.code}, {ended.said[-300:]!r}"
        if ended.code != EXIT_DONE:
            return "error"
        return "correct" if _same_or_tolerated(run, named(run, name), task, what) else f"{what}: taken without a word"

    return generated(examples, strategy, judge, "hand-made artifacts")


# ---------------------------------------------------------------- parameters


def odd_parameters(folder: Path, examples: int) -> Count:
    """Put an odd value, or an odd name, at any place of params.yaml, and load the night."""
    from pipelines.settings import PARAMS_FILE

    good = yaml.safe_load(PARAMS_FILE.read_text())
    places = list(_places({name: value for name, value in good.items() if name != "profiles"}))
    file = folder / "params.yaml"

    def judge(case: Any) -> str:
        number, value, rename = case
        spoilt = copy.deepcopy(good)
        place = places[number % len(places)]
        at = spoilt
        for key in place[:-1]:
            at = at[key]
        if rename:
            at["wrong_name"] = at.pop(place[-1])
        else:
            at[place[-1]] = value
        file.write_text(yaml.safe_dump(spoilt))
        return attempt(
            lambda: load_settings(nightly(), "demo", file=file), f"params.yaml {'.'.join(place)} = {value!r}"
        )

    cases = st.tuples(st.integers(0, 10**6), st.sampled_from(ODD_VALUES), st.booleans())
    return generated(examples, cases, judge, "params.yaml")


def _places(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from _places(value, (*path, name))


# ---------------------------------------------------------------- all of them


def input_rows(folder: Path, examples: int, undisturbed: Undisturbed | None = None) -> Iterator[Count]:
    """Run every bad-input property; examples: generated cases of each."""
    night = undisturbed or undisturbed_night(folder / "night")
    for name in ("frames", "others", "artifacts", "parameters", "lines"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    yield segmentation_readers(folder / "frames", examples)
    yield readers_of_other_sets(folder / "others", examples)
    yield forged_images(folder, examples)
    yield odd_parameters(folder / "parameters", examples)
    from tests.faults.lines import odd_command_lines

    yield odd_command_lines(folder / "lines", 2 * examples, night.run.parent / "registry" / "smoke.git")
    yield hand_made_artifacts(folder / "artifacts", examples, night)
