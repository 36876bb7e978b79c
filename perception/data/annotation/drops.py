"""What lies in the folder of label drops: which frames are labelled, by whom and when, and what cannot be used, with the reason.

A drop is a zip archive, a folder or a file that an annotation tool exported, or the folder of a batch with labels and a drop.json.
Whatever is wrong with one costs its own frame, or where nothing of it can be read the drop, and never the others.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.annotation import masks
from perception.data.annotation.answers import Answer, broken, known_tags
from perception.data.annotation.batch import BATCH_FILE, PRELABELS
from perception.data.annotation.coco import POLYGONS, read_coco, read_polygons
from perception.data.annotation.cvat import read_cvat
from perception.data.annotation.label_studio import read_label_studio
from perception.data.annotation.pack import Pack, open_pack
from perception.data.decoding import BadFrame, decode_label
from perception.data.files import named_stem, names_in
from perception.data.json_files import parse_json
from perception.data.readers.layout import frame_id_of
from perception.data.store import Store, holds
from perception.data.taxonomies import IGNORE, Taxonomy, apply_lookup, load_taxonomy
from perception.errors import InputError

DROP_FILE = "drop.json"
_UNKNOWN_FRAME = "no batch holds this frame"
_A_DAY = timedelta(days=1)  # by which the dates of two people differ who write at one moment
_SUFFIXES = (".zip", ".json", ".xml")
_ANSWERS = (".xml", ".json", ".png")
_NO_ANSWERS = frozenset((PRELABELS, "images"))  # folders of a drop that hold what went out
_UPLOAD = re.compile("[0-9a-f]{8}-(.+)")  # Label Studio puts a number before the name of what was uploaded


@dataclass(frozen=True, kw_only=True)
class ReturnedLabel:
    """Hold the newest label that came back for a frame, or why something that came back is none.

    facts: the manifest row of its frame; of what is no frame that was handed out frame_id and drive_id made of what the drop calls it.
    drop: batch/annotator/date, which the label carries; tag_drop: likewise of its image tags. taxonomy: of its batch, where the drop
    tells it.
    """

    facts: Any
    drop: str
    moment: datetime
    files: tuple[Path, ...]
    places: tuple[str, ...]  # names of the drops that it was found in
    answer: Answer | None = None
    tag_drop: str | None = None
    taxonomy: str | None = None
    problem: BadFrame | None = None

    @property
    def frame_id(self) -> str:
        return str(self.facts.frame_id)


@dataclass(frozen=True, kw_only=True)
class _Drop:
    """Hold what was found in one drop."""

    path: Path
    moment: datetime
    came: datetime  # when it was written here
    answers: tuple[Answer, ...] = ()
    annotator: str | None = None  # as drop.json says
    made_on: date | None = None  # likewise
    taxonomy: str | None = None  # of the batch's folder
    is_batch: bool = False  # the folder of a batch: it may hold no label yet
    problem: BadFrame | None = None


def returned_labels(
    folder: Path, handed_out: Callable[[Sequence[str]], pd.DataFrame], places: Collection[str] | None = None
) -> list[ReturnedLabel]:
    """Return what came back, one label a frame, the newest, and everything that cannot be used; in the order of frame_id.

    handed_out: given every name that a drop may call a frame by, gives the manifest rows of those that a batch has held, with the column
    batch. places: names of the drops that are opened; all by default. Nothing that a drop says of a frame itself counts, and no label of
    a frame that was never handed out.
    """
    drops = _open_drops(folder, places)
    names = sorted({name for drop in drops for each in drop.answers for name in _candidates(each.image)})
    known = {str(row.frame_id): row for row in handed_out(names).itertuples()}
    every = [each for drop in drops for each in _returned(drop, known)]
    newest: dict[str, ReturnedLabel] = {}
    tagged: dict[str, ReturnedLabel] = {}
    for each in sorted(every, key=lambda each: (each.moment, each.drop)):
        newest[each.frame_id] = _after(newest.get(each.frame_id), each)
        if each.answer and each.answer.tags and not each.problem:
            tagged[each.frame_id] = each
    return [_with_tags(newest[frame_id], tagged.get(frame_id)) for frame_id in sorted(newest)]


def _after(before: ReturnedLabel | None, now: ReturnedLabel) -> ReturnedLabel:
    """Return the later of two labels of a frame; two of one moment are told, because nobody can say which one counts."""
    if before is None or before.moment != now.moment or before.problem or now.problem:
        return now
    kinds = sorted(each.answer.kind for each in (before, now) if each.answer)
    files = sorted({str(file) for each in (before, now) for file in each.files})
    told = f"is labelled twice at one moment, as {' and as '.join(kinds)}"
    problem = BadFrame(f"{' and '.join(files)}: {now.frame_id}", told, "keep one of them")
    return replace(now, problem=problem, files=(*before.files, *now.files), places=(*before.places, *now.places))


def _with_tags(label: ReturnedLabel, tagged: ReturnedLabel | None) -> ReturnedLabel:
    """Return a label with the image tags that came last: a later label without any takes none back."""
    if not label.answer or not tagged or not tagged.answer:
        return label
    places = tuple(dict.fromkeys((*label.places, *tagged.places)))
    return replace(label, answer=replace(label.answer, tags=tagged.answer.tags), tag_drop=tagged.drop, places=places)


def _returned(drop: _Drop, known: Mapping[str, Any]) -> Iterator[ReturnedLabel]:
    place = (drop.path.name,)
    if drop.problem:
        nothing, name = _no_facts(f"drop {drop.path.name}"), _name("-", None, drop)
        yield ReturnedLabel(
            facts=nothing, drop=name, moment=drop.moment, files=(drop.path,), places=place, problem=drop.problem
        )
    for each in drop.answers:
        moment, problem = _dated(each, drop)
        names = _candidates(each.image)
        facts: Any = next((found for name in names if (found := known.get(name))), None)
        yield ReturnedLabel(
            facts=facts or _no_facts(f"unknown {names[0]}"),
            drop=_name(facts.batch if facts else "-", each, drop),
            moment=moment,
            files=each.files,
            places=place,
            answer=each,
            taxonomy=drop.taxonomy,
            problem=problem
            if facts
            else BadFrame(f"{drop.path}: {each.image}", _UNKNOWN_FRAME, "remove it, or name it as its batch does"),
        )


def _dated(answer: Answer, drop: _Drop) -> tuple[datetime, BadFrame | None]:
    """Return when an answer was given; of one dated after it came, which would be the newest for ever, when it came, and what is wrong."""
    made = datetime.combine(drop.made_on, time(tzinfo=UTC)) if drop.made_on else None
    moment = made or answer.moment or drop.moment
    if moment - drop.came <= _A_DAY:
        return moment, None
    told = f"is dated {moment:%Y-%m-%d}, and came on {drop.came:%Y-%m-%d}"
    return drop.came, BadFrame(f"{drop.path}: {answer.image}", told, "correct the date, or the clock that wrote it")


def _no_facts(name: str) -> SimpleNamespace:
    """Return what stands for the facts of something that is no frame that was handed out."""
    return SimpleNamespace(frame_id=frame_id_of(name), drive_id=frame_id_of(name))


def _name(batch: str | None, answer: Answer | None, drop: _Drop) -> str:
    """Return batch/annotator/date, as far as drop.json or the export tells them, else the drop's own name and time."""
    who = drop.annotator or (answer and answer.annotator) or drop.path.stem
    plain = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in who)[:100]
    day = drop.made_on or ((answer and answer.moment) or drop.moment).date()
    return f"{batch or '-'}/{plain}/{day.isoformat()}"


def _candidates(image: str) -> list[str]:
    stem = named_stem(image.split("?d=")[-1])
    uploaded = _UPLOAD.fullmatch(stem)
    return [stem, *([uploaded.group(1)] if uploaded else [])]


# ---------------------------------------------------------------- opening


def _open_drops(folder: Path, places: Collection[str] | None) -> list[_Drop]:
    """Open the drops in a folder: each of its folders and files of a known kind, or the folder itself where it is one."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; label drops are put into it, one archive, file or folder a drop")
    if (folder / DROP_FILE).exists():
        return [_opened(folder)]
    listed = [folder / name for name in names_in(folder) if places is None or name in places]
    return [_opened(each) for each in listed if _is_drop(each)]


def _is_drop(path: Path) -> bool:
    """Tell whether something was sent back: the folder of a batch is once it holds a drop.json, since people work in it."""
    if path.is_dir():
        return not (path / BATCH_FILE).exists() or (path / DROP_FILE).exists()
    return path.suffix.lower() in _SUFFIXES


def _opened(path: Path) -> _Drop:
    moment = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    try:
        pack = open_pack(path)
        drop = _said(pack, _Drop(path=path, moment=pack.moment, came=pack.came))
        answers = [found for name in pack.names if (found := _answers(pack, name)) is not None]
        if not answers and not drop.is_batch:
            raise BadFrame(path, "holds no label in a format that is read", "export it as docs/annotation.md says")
        return replace(drop, answers=tuple(each for found in answers for each in found))
    except InputError as error:
        problem = error if isinstance(error, BadFrame) else BadFrame(path, str(error), "send the drop again")
        return _Drop(path=path, moment=moment, came=moment, problem=problem)


def _said(pack: Pack, drop: _Drop) -> _Drop:
    """Return a drop with what its own files say of it: who made it and when, and of which batch it is the folder."""
    if name := _found(pack, DROP_FILE):
        drop = _signed(drop, _object(pack, name), pack.where(name))
    if (name := _found(pack, BATCH_FILE)) and pack.path.is_dir():
        taxonomy = str(_object(pack, name).get("taxonomy"))
        load_taxonomy(taxonomy)
        drop = replace(drop, is_batch=True, taxonomy=taxonomy)
    return drop


def _found(pack: Pack, file: str) -> str | None:
    """Return the name of a file that lies in the drop itself, or in a folder of it."""
    names = (name for name in pack.names if name.rpartition("/")[2] == file and name.count("/") <= 1)
    return min(names, key=len, default=None)


def _signed(drop: _Drop, said: Mapping[str, Any], where: str) -> _Drop:
    annotator = said.get("annotator")
    try:
        made_on = date.fromisoformat(str(said.get("date")))
    except ValueError:
        raise BadFrame(where, f"date {said.get('date')!r} must be like 2026-01-31", "correct it") from None
    if not isinstance(annotator, str) or not annotator.strip() or "/" in annotator:
        raise BadFrame(where, f"annotator {annotator!r} must be a name without /", "say who labelled")
    return replace(drop, annotator=annotator.strip(), made_on=made_on)


def _object(pack: Pack, name: str) -> dict[str, Any]:
    content = _json(pack, name)
    if not isinstance(content, dict):
        raise BadFrame(pack.where(name), "must hold an object", "mend it")
    return content


def _json(pack: Pack, name: str) -> Any:
    try:
        return parse_json(pack.read(name))
    except ValueError as error:
        raise BadFrame(pack.where(name), f"not a JSON file ({error})", "copy it again") from None


def _answers(pack: Pack, name: str) -> list[Answer] | None:
    """Return what one file of a drop answers; None where it is no file of labels."""
    *folders, file = name.split("/")
    if not file.lower().endswith(_ANSWERS) or not _NO_ANSWERS.isdisjoint(folders) or file in (DROP_FILE, BATCH_FILE):
        return None
    path, where, place = PurePosixPath(name), pack.where(name), pack.file(name)
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return read_cvat(pack.read(name), place, where)
    if path.name.endswith(POLYGONS):
        try:
            return read_polygons(_object(pack, name), Path(name), where)
        except BadFrame as problem:
            return [broken(path.name.removesuffix(POLYGONS), "polygons", place, problem)]
    if suffix == ".json":
        content = _json(pack, name)
        if isinstance(content, list):
            return read_label_studio(content, place, where)
        return read_coco(content, place, where) if isinstance(content, dict) and "annotations" in content else None
    if suffix == ".png":
        return _mask_answers(pack, path, partial(pack.read, name))
    return None


def _mask_answers(pack: Pack, path: PurePosixPath, read: Callable[[], bytes]) -> list[Answer] | None:
    folder, place = path.parent.name, pack.file(str(path))
    if folder == masks.LABELS:
        return [masks.label_png(path.name, read, place)]
    label_map = str(path.parent.parent / masks.LABEL_MAP)
    if folder != masks.MASKS or label_map not in pack.names:
        return None
    colors = masks.read_label_map(pack.read(label_map), pack.where(label_map))
    return [masks.colored_mask(path.name, read, colors, place, pack.where(str(path)))]


# ---------------------------------------------------------------- labels


def read_label(returned: ReturnedLabel, taxonomy: str, store: Store) -> tuple[bytes, dict[str, str]] | None:
    """Return a label as the bytes of a label file, and its image tags; None where the annotator has not answered yet.

    That is a label that ignores every pixel, or the one that the batch suggested, but for its edges, without an image tag. taxonomy: of
    drops that tell none. Raises BadFrame for a label that is not whole: another size, an unknown class, a shape that cannot be drawn.
    """
    if returned.problem:
        raise returned.problem
    assert returned.answer is not None
    own, facts = load_taxonomy(returned.taxonomy or taxonomy), returned.facts
    size, where = (int(facts.height_px), int(facts.width_px)), f"{returned.files[0]}: {returned.frame_id}"
    for name in ("image_uri", "prelabel_uri"):  # which may be gone since it was handed out
        if isinstance(uri := getattr(facts, name, None), str) and not holds(store, uri):
            raise BadFrame(
                where, f"the store has no {uri}, its {name}", "restore it, or take the frame back (make recall)"
            )
    data = returned.answer.label(size, own)
    label = apply_lookup(decode_label(data, where, own, size), own.raw)
    tags = known_tags(returned.answer.tags, where)
    if (label == IGNORE).all():
        return None
    suggested = getattr(facts, "prelabel_uri", None)
    if not tags and isinstance(suggested, str) and _is_untouched(label, _suggestion(store, suggested, own, size)):
        return None
    return data, tags


def _suggestion(store: Store, uri: str, taxonomy: Taxonomy, size: tuple[int, int]) -> NDArray[np.uint8]:
    return apply_lookup(decode_label(store.get(uri), uri, taxonomy, size), taxonomy.raw)


def _is_untouched(label: NDArray[np.uint8], suggested: NDArray[np.uint8]) -> bool:
    """Tell whether every pixel has a class that is suggested there or beside it, or is left out where suggested classes meet: every
    tool draws an outline in its own way.
    """
    height, width = suggested.shape
    padded = np.pad(suggested, 1, mode="edge")
    beside = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    meet = np.any([each != suggested for each in beside], axis=0)
    near = np.any([each == label for each in beside], axis=0)
    return bool((near | (meet & (label == IGNORE))).all())
