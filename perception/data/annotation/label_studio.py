"""Label Studio: the labelling configuration, tasks with pre-annotations, and what it exports as JSON."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perception.data.annotation.answers import (
    UNKNOWN,
    Answer,
    Shape,
    Size,
    broken,
    label_of_shapes,
    moment_of,
    no_outline,
    polygon,
    stated_size,
)
from perception.data.annotation.outlines import Outline
from perception.data.conditions import CONDITIONS
from perception.data.decoding import BadFrame
from perception.data.taxonomies import Taxonomy

_OUTLINES, _BRUSH, _IMAGE = "outlines", "brush", "image"  # names of the configuration's tags
_KIND = "Label Studio"
_HEADER_BYTES = 8
_CHANNELS, _ALPHA = 4, 3  # a brush mask is a picture whose opacity is the mask


# --- out


def labelling_config(taxonomy: Taxonomy) -> bytes:
    """Return the labelling configuration: outlines and brush of every class, and a choice for every image tag."""
    view = Element("View")
    SubElement(view, "Image", name=_IMAGE, value="$image", zoom="true")
    for name, kind in ((_OUTLINES, "PolygonLabels"), (_BRUSH, "BrushLabels")):
        labels = SubElement(view, kind, name=name, toName=_IMAGE)
        for label, color in zip(taxonomy.classes, taxonomy.colors.tolist(), strict=True):
            SubElement(labels, "Label", value=label, background=f"#{bytes(color).hex()}")
    for name, words in CONDITIONS.items():
        SubElement(view, "Header", value=name.replace("_", " "))
        choices = SubElement(view, "Choices", name=name, toName=_IMAGE, choice="single", showInline="true")
        for word in (*words, UNKNOWN):
            SubElement(choices, "Choice", value=word)
    ElementTree.indent(view)
    return bytes(ElementTree.tostring(view, encoding="utf-8"))


def write_tasks(
    frames: pd.DataFrame, urls: Mapping[str, str], outlines: Mapping[str, Sequence[Outline]], taxonomy: Taxonomy
) -> list[dict[str, Any]]:
    """Return one task a frame, in their order, with its outlines as a prediction to start from."""
    tasks = []
    for frame in frames.itertuples():
        size = (int(frame.height_px), int(frame.width_px))
        data = {"image": urls[frame.frame_id], "frame_id": frame.frame_id}
        regions = [
            _region(f"{place}", each, size, taxonomy) for place, each in enumerate(outlines.get(frame.frame_id, ()))
        ]
        predictions = [{"model_version": "ensemble", "result": regions}] if regions else []
        tasks.append({"data": data, "predictions": predictions})
    return tasks


def _region(region_id: str, outline: Outline, size: Size, taxonomy: Taxonomy) -> dict[str, Any]:
    percent = (outline.points(size) * 100 / np.array(size[::-1])).tolist()
    kind = "polygonlabels"
    return {
        "id": region_id,
        "from_name": _OUTLINES,
        "to_name": _IMAGE,
        "type": kind,
        "original_width": size[1],
        "original_height": size[0],
        "image_rotation": 0,
        "value": {"points": percent, "closed": True, kind: [taxonomy.classes[outline.class_id]]},
    }


# --- back


def read_label_studio(content: list[Any], path: Path, where: str) -> list[Answer]:
    """Return what Label Studio exported as JSON: an answer for every task that was submitted; of several annotations the newest.

    Raises BadFrame for what is no such file.
    """
    answers = []
    for task in content:
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise BadFrame(where, "is no export of Label Studio (a task is no mapping with data)", "export it as JSON")
        try:
            name, annotations = str(task["data"].get("frame_id") or task["data"][_IMAGE]), task["annotations"]
        except (LookupError, AttributeError, TypeError) as error:
            raise BadFrame(where, f"is no export of Label Studio ({error!r})", "export it as JSON") from None
        named = f"{where}: {name}"
        try:
            answer = _answer(annotations, name, path, named)
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
            problem = BadFrame(named, f"a region is broken ({error!r})", "export it again")
            answer = broken(name, _KIND, path, problem)
        answers += [answer] if answer else []
    return answers


def _answer(annotations: list[dict[str, Any]], name: str, path: Path, where: str) -> Answer | None:
    given = [each for each in annotations if not each.get("was_cancelled") and each["result"]]
    if not given:
        return None
    newest = max(given, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
    results, who = newest["result"], newest.get("completed_by")
    regions = [each for each in results if "original_width" in each and each["type"] != "choices"]
    sizes = {stated_size(each["original_height"], each["original_width"]) for each in regions}
    stated = sizes.pop() if len(sizes) == 1 else None
    shapes = [_shape(each, where) for each in regions]
    return (
        Answer(
            image=name,
            kind=_KIND,
            label=partial(label_of_shapes, shapes, stated, where),
            files=(path,),
            tags={each["from_name"]: str(each["value"]["choices"][0]) for each in results if each["type"] == "choices"},
            annotator=str(who.get("email") or who.get("id")) if isinstance(who, dict) else who and f"user {who}",
            moment=moment_of(newest.get("updated_at") or newest.get("created_at")),
        )
        if shapes
        else None
    )


def _shape(result: dict[str, Any], where: str) -> Shape:
    kind, value = str(result["type"]), result["value"]
    names = value.get(kind) or value.get("labels") or [""]
    height, width = result.get("original_height"), result.get("original_width")
    if result.get("image_rotation"):
        return no_outline(str(names[0]), "an outline on a turned image", where)
    if "points" in value and kind in ("polygonlabels", "polygon", "labels"):
        corners = np.asarray(value["points"], np.float64) * np.asarray((width, height), np.float64) / 100
        return polygon(str(names[0]), [corners], where)
    if value.get("format") == "rle" or "rle" in value:
        return Shape(str(names[0]), partial(_painted, value.get("rle"), where))
    return no_outline(str(names[0]), f"a region of type {kind}", where)


def _painted(rle: Any, where: str, size: Size) -> NDArray[np.bool_]:
    try:
        picture = decode_brush(bytes(list(rle)), size[0] * size[1] * _CHANNELS)
    except (ValueError, TypeError, OverflowError) as error:
        raise BadFrame(where, f"a brush mask cannot be decoded ({error})", "export it again") from None
    return picture.reshape(*size, _CHANNELS)[:, :, _ALPHA] > 0


def decode_brush(rle: bytes, values: int) -> NDArray[np.uint8]:
    """Unpack a brush mask, the run lengths of thi.ng/rle-pack, to (values,) uint8; raises ValueError where it holds another number.

    The bits are: number of values 32, word size - 1 as 5, four sizes of run lengths - 1 as 4 each; then runs of one bit, two that
    choose the size, the length - 1, and one word, or that many words where the bit was 0.
    """
    if len(rle) > 2 * values + _HEADER_BYTES:
        raise ValueError("it is longer than its picture")
    bits, at = "".join(f"{byte:08b}" for byte in rle), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at] or "-", 2)  # what is cut off raises ValueError

    if take(32) != values:
        raise ValueError(f"it is not {values} values")
    word, sizes = take(5) + 1, [take(4) + 1 for _ in range(4)]
    if word > 8:
        raise ValueError(f"it has words of {word} bits")
    out, done = np.zeros(values, np.uint8), 0
    while done < values:
        same, length = take(1), take(sizes[take(2)]) + 1
        if done + length > values:
            raise ValueError("its runs go beyond its end")
        out[done : done + length] = take(word) if same else [take(word) for _ in range(length)]
        done += length
    return out
