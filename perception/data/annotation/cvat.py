"""CVAT: the list of labels for its constructor, and its own XML format, "CVAT for images 1.1", both ways."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
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
)
from perception.data.annotation.outlines import Outline
from perception.data.conditions import CONDITIONS
from perception.data.decoding import BadFrame
from perception.data.taxonomies import Taxonomy

IMAGE_TAGS = "image_tags"  # the label of CVAT whose tag holds what the image as a whole shows
_KIND = "CVAT"
_SHAPES = ("polygon", "mask", "box", "polyline", "points", "ellipse", "cuboid", "skeleton")


# --- out


def label_list(taxonomy: Taxonomy) -> bytes:
    """Return the labels of a task, and of its image tags, as CVAT's constructor takes them (its "Raw" tab)."""
    colors = zip(taxonomy.classes, taxonomy.colors.tolist(), strict=True)
    labels = [
        {"name": name, "color": f"#{bytes(color).hex()}", "type": "any", "attributes": []} for name, color in colors
    ]
    tags = {"name": IMAGE_TAGS, "type": "tag", "attributes": _tag_attributes()}
    return (json.dumps([*labels, tags], indent=1) + "\n").encode()


def _tag_attributes() -> list[dict[str, object]]:
    kind = {"mutable": False, "input_type": "select", "default_value": UNKNOWN}
    return [{"name": name, **kind, "values": [UNKNOWN, *words]} for name, words in CONDITIONS.items()]


def write_cvat(
    name: str, files: Mapping[str, tuple[str, Size]], outlines: Mapping[str, Sequence[Outline]], taxonomy: Taxonomy
) -> bytes:
    """Return a task's annotations: every image, with its outlines as polygons, the later above the earlier.

    files: name and size of each frame's image.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for tag, text in (("name", name), ("size", str(len(files))), ("mode", "annotation")):
        SubElement(task, tag).text = text
    labels = SubElement(task, "labels")
    for each in json.loads(label_list(taxonomy)):
        _describe(SubElement(labels, "label"), each)
    for place, (frame_id, (file, size)) in enumerate(sorted(files.items(), key=lambda item: item[1])):
        told = {"id": str(place), "name": file, "width": str(size[1]), "height": str(size[0])}
        image = SubElement(root, "image", told)
        for depth, outline in enumerate(outlines.get(frame_id, ())):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in outline.points(size).tolist())
            shape = {"label": taxonomy.classes[outline.class_id], "source": "auto", "occluded": "0"}
            SubElement(image, "polygon", shape | {"points": points, "z_order": str(depth)})
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _describe(element: Element, label: Mapping[str, object]) -> None:
    for name, value in label.items():
        child = SubElement(element, name)
        if isinstance(value, list):
            for each in value:
                _describe(SubElement(child, "attribute"), each | {"values": "\n".join(each["values"])})
        else:
            child.text = str(value)


# --- back


def read_cvat(data: bytes, path: Path, where: str) -> list[Answer]:
    """Return what CVAT exported as "CVAT for images": an answer for every image that has a shape.

    Raises BadFrame for what is no such file.
    """
    root = _parsed(data, where)
    if root.tag != "annotations" or root.find("track") is not None:
        raise BadFrame(where, "is no annotation of single images", 'export it as "CVAT for images 1.1"')
    told = (root.findtext(f".//{place}/username") for place in ("assignee", "owner"))
    annotator, moment = next(filter(None, told), None), moment_of(root.findtext(".//dumped"))
    answers = []
    for image in root.findall("image"):
        try:
            answer = _answer(image, path, where)
        except BadFrame as problem:
            answer = broken(image.get("name", ""), _KIND, path, problem)
        answers += [replace(answer, annotator=annotator, moment=moment)] if answer else []
    return answers


def _answer(image: Element, path: Path, where: str) -> Answer | None:
    name = image.get("name", "")
    named = f"{where}: {name}"
    drawn = sorted(
        (each for each in image if each.tag in _SHAPES), key=lambda each: _number(each.get("z_order", "0"), named)
    )
    shapes = [_shape(each, named) for each in drawn]
    size = (_number(image.get("height"), named), _number(image.get("width"), named))
    label = partial(label_of_shapes, shapes, size, named)
    return Answer(image=name, kind=_KIND, label=label, files=(path,), tags=_tags(image)) if shapes else None


def _parsed(data: bytes, where: str) -> Element:
    # Entities can multiply into any size; no export declares one.
    if re.search(rb"<!(DOCTYPE|ENTITY)", data, re.IGNORECASE) or b"\0" in data[:64]:
        raise BadFrame(where, "declares a document type, which no export of CVAT does", "export it again")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadFrame(where, f"is not readable as XML ({error})", "export it again") from None


def _number(text: str | None, where: str) -> int:
    if text is None or not re.fullmatch(r"-?\d{1,9}", text):
        raise BadFrame(where, f"{text!r} is no whole number", "export it again")
    return int(text)


def _tags(image: Element) -> dict[str, str]:
    said = (each for tag in image.findall("tag") if tag.get("label") == IMAGE_TAGS for each in tag.findall("attribute"))
    return {each.get("name", ""): (each.text or "").strip() for each in said}


def _shape(element: Element, where: str) -> Shape:
    name = element.get("label", "")
    if element.tag == "polygon":
        corners = [pair.split(",") for pair in element.get("points", "").split(";")]
        return polygon(name, [corners], where)
    if element.tag == "mask":
        return Shape(name, partial(_mask, element, where))
    return no_outline(name, f"a {element.tag}", where)


def _mask(element: Element, where: str, size: Size) -> NDArray[np.bool_]:
    """Draw run lengths, row after row in a box, that begin with what is not the object."""
    left, top, width, height = (_number(element.get(name), where) for name in ("left", "top", "width", "height"))
    if not (0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]):
        raise BadFrame(where, "a mask lies outside its image", "export it again")
    runs = [_number(each.strip(), where) for each in element.get("rle", "").split(",")]
    if min(runs) < 0 or sum(runs) != width * height:
        raise BadFrame(where, "a mask's run lengths do not add up to its pixels", "export it again")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask = np.zeros(size, np.bool_)
    mask[top : top + height, left : left + width] = inside
    return mask
