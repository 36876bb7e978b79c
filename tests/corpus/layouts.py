"""Segmentation sets in every published layout and its known variants: four frames each, road, car, sky and void in other rows."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from perception.data.taxonomies import published_names
from tests.perception.data.readers.layouts import grey, png, put

SIZE = (8, 16)
CLASSES = (0, 13, 10, 255)  # road, car, sky and void of the 19 classes, as cityscapesScripts' trainId has them
IDS = (7, 26, 23, 0)  # the same as Cityscapes' and GTA5's ids
Tree = dict[str, bytes]  # the files of a folder, or of an archive, by their paths in it


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Say how one layout names and writes its files; codes: its values for road, car, sky and void."""

    format: str
    part: str | None
    codes: tuple[Any, ...]
    stems: tuple[str, ...]
    image: str
    label: str
    frame_id: str
    encode: Callable[[np.ndarray], bytes] = grey
    beside: Callable[["Layout"], Tree] = lambda _layout: {}
    pack: Callable[[Tree, Path], None] | None = None  # None: plain files in folders
    free_names: bool = False  # the frames' names are their owner's own

    def files(self) -> Tree:
        """Return every file of the set."""
        tree = {}
        for number, stem in enumerate(self.stems):
            tree[self.image.format(stem=stem)] = picture(number, Path(self.image).suffix)
            tree[self.label.format(stem=stem)] = self.encode(np.array(self.codes)[rows(number)])
        return tree | self.beside(self)

    def images(self) -> list[str]:
        """Return the paths of the images in the order of the stems."""
        return [self.image.format(stem=stem) for stem in self.stems]

    def labels(self) -> list[str]:
        """Return the paths of the labels in the order of the stems."""
        return [self.label.format(stem=stem) for stem in self.stems]

    def lay_out(self, tree: Tree, root: Path) -> Path:
        """Write the files below a folder as the set is handed on."""
        (self.pack or plain_files)(tree, root)
        return root


def plain_files(tree: Tree, root: Path) -> None:
    """Write every file at its path."""
    for name, data in tree.items():
        put(root / name, data)


def one_tar(name: str, prefix: str = "") -> Callable[[Tree, Path], None]:
    """Return the function that packs all files into one tar, as `tar -cf NAME PREFIX.` does."""

    def pack(tree: Tree, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target, "w") as archive:
            for path, data in sorted(tree.items(), key=lambda item: item[0].rpartition("/")[2].lstrip("._")):
                member = tarfile.TarInfo(prefix + path)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    return pack


def rows(number: int) -> np.ndarray:
    """Return which of the four classes frame `number` shows where: SIZE, two rows a class."""
    return np.roll(np.repeat(np.arange(4), 2), 2 * number)[:, None].repeat(SIZE[1], 1)


def truth(number: int) -> np.ndarray:
    """Return the label of frame `number` in the 19 classes."""
    return np.array(CLASSES, np.uint8)[rows(number)]


def shade(number: int) -> int:
    """Return the grey that every pixel of frame `number` has."""
    return 40 + 50 * number


def picture(number: int, suffix: str, **more: Any) -> bytes:
    """Return the image file of frame `number`; more: what Pillow's writers take."""
    file = io.BytesIO()
    image = Image.new("RGB", SIZE[::-1], (shade(number),) * 3)
    image.save(file, "PNG" if suffix.lower() == ".png" else "JPEG", **more)
    return file.getvalue()


def colours(values: np.ndarray) -> bytes:
    """Return an RGB PNG of (height, width, 3) values."""
    return png(values.astype(np.uint8))


def synthia_codes(values: np.ndarray) -> bytes:
    """Return SYNTHIA's 16-bit PNG: the class, an instance number, nothing."""
    return png(np.stack([values, values > 5, np.zeros_like(values)], axis=2).astype(np.uint16))


def train_ids(layout: Layout) -> Tree:
    """Return what DAFormer's preparation leaves: *_labelTrainIds.png beside the labels, statistics beside the folders."""
    tree = {
        path.replace("_labelIds", "").replace(".png", "_labelTrainIds.png"): grey(truth(number))
        for number, path in enumerate(layout.labels())
    }
    statistics = json.dumps([{"0": 24, "13": 24, "file": path} for path in tree]).encode()
    return tree | dict.fromkeys(("sample_class_stats.json", "sample_class_stats_dict.json"), statistics)


def cityscapes_beside(layout: Layout) -> Tree:
    """Return the other files that Cityscapes publishes beside each label."""
    tree = {}
    for number, path in enumerate(layout.labels()):
        tree[path.replace("labelIds", "color")] = colours(np.zeros((*SIZE, 3)))
        tree[path.replace("labelIds", "instanceIds")] = png(np.array(IDS, np.uint16)[rows(number)][..., None])
        tree[path.replace("labelIds.png", "polygons.json")] = b'{"imgHeight": 8, "imgWidth": 16, "objects": []}'
    return tree


def camvid_classes(layout: Layout) -> Tree:
    """Return the list of classes and colours that Kaggle's copy of CamVid holds."""
    named = zip(("Road", "Car", "Sky", "Void"), layout.codes, strict=True)
    lines = ["name,r,g,b", *(f"{name},{r},{g},{b}" for name, (r, g, b) in named)]
    return {"class_dict.csv": ("\n".join(lines) + "\n").encode()}


def bdd100k_attributes(place: str) -> Callable[[Layout], Tree]:
    """Return the function that writes a label file of BDD100k at `place`, which holds the frames' attributes."""

    def write(layout: Layout) -> Tree:
        attributes = {"weather": "partly cloudy", "scene": "city street", "timeofday": "dawn/dusk"}
        frames = [{"name": Path(path).name, "attributes": attributes, "labels": []} for path in layout.images()]
        return {place: json.dumps(frames, indent=1).encode()}

    return write


def bdd100k_2018_beside(layout: Layout) -> Tree:
    """Return what the first release holds beside: coloured labels, and the attributes with the boxes."""
    painted = {f"seg/color_labels/val/{stem}_train_color.png": colours(np.zeros((*SIZE, 3))) for stem in layout.stems}
    return painted | bdd100k_attributes("labels/bdd100k_labels_images_val.json")(layout)


def gta5_split(layout: Layout) -> Tree:
    """Return GTA5's list of splits."""
    file = io.BytesIO()
    ids = {"trainIds": [[99.0]], "valIds": [[float(stem)] for stem in layout.stems], "testIds": [[98.0]]}
    scipy.io.savemat(file, {name: np.array(values) for name, values in ids.items()})
    return {"split.mat": file.getvalue()}


def mapillary_config(taxonomy: str, name: str) -> Callable[[Layout], Tree]:
    """Return the function that writes Vistas' list of classes as `name`, and beside the labels what else is published."""

    def write(layout: Layout) -> Tree:
        labels = [{"name": each, "readable": each, "color": [0, 0, 0]} for each in published_names(taxonomy)]
        config = {"labels": labels, "version": 1.1, "mapping": "public"}
        instances = {
            path.replace("labels", "instances"): png(np.zeros((*SIZE, 1), np.uint16)) for path in layout.labels()
        }
        return {name: json.dumps(config).encode()} | instances

    return write


def frames_csv(layout: Layout) -> Tree:
    """Return the list of frames of a scenes_folder."""
    text = io.StringIO()
    columns = ("frame_id", "drive_id", "timestamp_utc", "camera", "time_of_day", "weather", "scene")
    csv.writer(text, lineterminator="\n").writerows(
        [columns, *((stem, "d0", "", "", "", "", "") for stem in layout.stems)]
    )
    return {"frames.csv": text.getvalue().encode()}


def facts(layout: Layout) -> Tree:
    """Return KEY.json of every frame of a shard."""
    return {f"{stem}.json": json.dumps({"drive_id": "d0", "weather": "rain"}).encode() for stem in layout.stems}


CAMVID = ("0016E5_07959", "0016E5_07961", "0016E5_07963", "0016E5_07965")
CITY = tuple(f"munster_00000{number}_000019" for number in range(4))
BDD = ("0a0a0b1a-7c39d841", "0ce2b4cc-a7cae5a5", "0fb9cc99-1bb8a96b", "7d2f7975-e0c1c5a7")
NUMBERS = ("00001", "00002", "00101", "24966")
KEYS = ("_1Gn_xkw7sa_i9GU4mkxxQ", "__CRyFzoDOXn6unQ6a3DnQ", "aBcD_1xkw7saQi9GU4mkxx", "zzzz_xkw7sa_i9GU4mkxxQ")
DRIVES = ("d0_0000", "d0_0001", "d1_0000", "d1_0001")
_CITYSCAPES = {
    "format": "cityscapes", "part": "val", "codes": IDS, "stems": CITY, "frame_id": "cityscapes_{stem}",
    "image": "leftImg8bit/val/munster/{stem}_leftImg8bit.png", "label": "gtFine/val/munster/{stem}_gtFine_labelIds.png",
}  # fmt: skip
_BDD = {
    "format": "bdd100k", "part": "val", "codes": CLASSES, "stems": BDD, "frame_id": "bdd100k_{stem}", "free_names": True,
    "image": "images/10k/val/{stem}.jpg", "label": "labels/sem_seg/masks/val/{stem}.png",
}  # fmt: skip
_GTA5 = {
    "format": "gta5", "codes": IDS, "stems": NUMBERS, "frame_id": "gta5_{stem}",
    "image": "images/{stem}.png", "label": "labels/{stem}.png",
}  # fmt: skip
_SYNTHIA = {
    "format": "synthia", "part": None, "codes": (3, 8, 1, 0), "stems": ("0000000", "0000001", "0000002", "0009399"),
    "frame_id": "synthia_{stem}", "image": "RGB/{stem}.png", "label": "GT/LABELS/{stem}.png", "encode": synthia_codes,
}  # fmt: skip
_MAPILLARY = {
    "part": "validation", "stems": KEYS, "frame_id": "mapillary_{stem}", "free_names": True,
    "image": "validation/images/{stem}.jpg",
}  # fmt: skip
_SHARD = {
    "format": "webdataset", "codes": CLASSES, "stems": DRIVES, "frame_id": "{stem}", "free_names": True,
    "image": "{stem}.jpg", "label": "{stem}.label.png",
}  # fmt: skip


def _fields(*given: dict[str, Any], **more: Any) -> Layout:
    return Layout(**{name: value for each in (*given, more) for name, value in each.items()})


LAYOUTS = {
    "cityscapes": _fields(_CITYSCAPES, beside=cityscapes_beside),
    "cityscapes by DAFormer": _fields(_CITYSCAPES, beside=lambda each: cityscapes_beside(each) | train_ids(each)),
    "camvid by SegNet": Layout(
        format="camvid", part="val", codes=(3, 8, 0, 11), stems=CAMVID, frame_id="camvid_{stem}", free_names=True,
        image="val/{stem}.jpg", label="valannot/{stem}.png",
    ),
    "camvid by Kaggle": Layout(
        format="camvid", part="val", codes=((128, 64, 128), (64, 0, 128), (128, 128, 128), (0, 0, 0)), stems=CAMVID,
        frame_id="camvid_{stem}", free_names=True, image="val/{stem}.png", label="val_labels/{stem}_L.png",
        encode=colours, beside=camvid_classes,
    ),
    "bdd100k 2020": _fields(_BDD, beside=bdd100k_attributes("labels/sem_seg/polygons/sem_seg_val.json")),
    "bdd100k 2020 with det_20": _fields(_BDD, beside=bdd100k_attributes("labels/det_20/det_val.json")),
    "bdd100k 2018": _fields(
        _BDD, image="seg/images/val/{stem}.jpg", label="seg/labels/val/{stem}_train_id.png", beside=bdd100k_2018_beside
    ),
    "gta5": _fields(_GTA5, part="val", beside=gta5_split),
    "gta5 by DAFormer": _fields(_GTA5, part=None, beside=train_ids),
    "synthia": _fields(_SYNTHIA),
    "synthia by DAFormer": _fields(_SYNTHIA, beside=train_ids),
    "viper": Layout(
        format="viper", part="val", codes=(3, 24, 2, 0), stems=tuple(f"060_0000{number}" for number in range(4)),
        frame_id="viper_{stem}", image="val/img/060/{stem}.jpg", label="val/cls/060/{stem}.png",
    ),
    "mapillary v1.2": _fields(
        _MAPILLARY, format="mapillary_v1_2", codes=(13, 55, 27, 65), label="validation/v1.2/labels/{stem}.png",
        beside=mapillary_config("mapillary_v1_2", "config_v1.2.json"),
    ),
    "mapillary v2.0": _fields(
        _MAPILLARY, format="mapillary_v2_0", codes=(21, 108, 61, 123), label="validation/v2.0/labels/{stem}.png",
        beside=mapillary_config("mapillary_v2_0", "config_v2.0.json"),
    ),
    "mapillary as first published": _fields(
        _MAPILLARY, format="mapillary_v1_2", codes=(13, 55, 27, 65), label="validation/labels/{stem}.png",
        beside=mapillary_config("mapillary_v1_2", "config.json"),
    ),
    "webdataset": _fields(_SHARD, part="val", pack=one_tar("val-000000.tar"), beside=facts),
    "webdataset by tar of a folder": _fields(_SHARD, part=None, pack=one_tar("train.tar", "./")),
    "webdataset with seg.png, a folder a part": _fields(
        _SHARD, part="val", pack=one_tar("val/000000.tar"), label="{stem}.seg.png", image="{stem}.png"
    ),
    "scenes folder": Layout(
        format="scenes_folder", part=None, codes=CLASSES, stems=DRIVES, frame_id="{stem}", image="images/{stem}.jpg",
        label="labels/{stem}.png", beside=frames_csv,
    ),
}  # fmt: skip


def renamed(layout: Layout, stems: Sequence[str]) -> Layout:
    """Return the layout with other names of frames."""
    return Layout(**{**vars(layout), "stems": tuple(stems)})
