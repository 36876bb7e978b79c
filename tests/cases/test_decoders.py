"""Every path that decodes a file gives the same pixels, whatever kind of PNG or JPEG it is, or refuses it by name."""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from perception.data.classification import read_class_folders
from perception.data.decoding import BadFrame, decode_image, decode_label, decode_stored_image, decode_stored_label
from perception.data.folder_frames import FolderFrames
from perception.data.loading import FrameSet, LoadSettings
from perception.data.readers import READERS
from perception.data.readers.label_files import decode_codes
from perception.data.store import FolderStore
from perception.data.taxonomies import apply_lookup, label_lookup, load_taxonomy
from perception.quality.intake import Arrival, IntakeSettings, admit_frames, profile_labels
from tests.perception.data.readers.layouts import png, put, read

SIZE = (16, 24)
VALUES = np.random.default_rng(0).choice(np.array([0, 1, 2, 3, 13, 18, 255], np.uint8), SIZE)
FEW = VALUES % 4 % 2
CITYSCAPES = load_taxonomy("cityscapes19")


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_chunk(data: bytes, kind: bytes, content: bytes, place: int = 33) -> bytes:
    """Put a chunk behind the header of a PNG, or at another place."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data[:place] + chunk + data[place:]


def palette(values: NDArray[np.uint8], bits: int = 8) -> bytes:
    image = Image.frombytes("P", values.shape[::-1], values.tobytes())
    image.putpalette(
        bytes(range(255, -1, -1)) * 3 if bits == 8 else [9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200][: 3 * 2**bits]
    )
    return saved(image, bits=bits)


def grey_bits(values: NDArray[np.uint8], bits: int) -> bytes:
    """Write grey of 1, 2 or 4 bits by hand; Pillow writes 1 and 8."""
    rows = np.stack([values >> (bits - 1 - bit) & 1 for bit in range(bits)], axis=-1).reshape(len(values), -1)
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)
    return with_chunk(
        with_chunk(with_chunk(b"\x89PNG\r\n\x1a\n", b"IHDR", header, 8), b"IDAT", zlib.compress(packed), 33),
        b"IEND",
        b"",
        -1 % 10**9,
    )


def interlaced(values: NDArray[np.uint8]) -> bytes:
    """Write the seven passes of Adam7 by hand; neither Pillow nor OpenCV writes them."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, along in passes for row in values[top::down, left::along]]
    header = struct.pack(">IIBBBBB", *values.shape[::-1], 8, 0, 0, 0, 1)
    data = with_chunk(b"\x89PNG\r\n\x1a\n", b"IHDR", header, 8)
    data = with_chunk(data, b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)), len(data))
    return with_chunk(data, b"IEND", b"", len(data))


def turned(values: NDArray[np.uint8], orientation: int, format: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(values), format, exif=exif)


PLAIN = saved(Image.fromarray(VALUES))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LABELS: dict[str, bytes] = {
    "Pillow": PLAIN,
    "OpenCV": cv2.imencode(".png", VALUES)[1].tobytes(),
    "stored rows": cv2.imencode(".png", VALUES, [cv2.IMWRITE_PNG_STRATEGY, 4, cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes(),
    "palette": palette(VALUES),
    "palette of 4 bits": palette(VALUES % 4, 4),
    "palette of 2 bits": palette(VALUES % 4, 2),
    "palette of 1 bit": palette(FEW, 1),
    "palette with transparency": with_chunk(palette(VALUES), b"tRNS", bytes([0, 128, 255]), palette(VALUES).index(b"IDAT") - 4),
    "interlaced": interlaced(VALUES),
    "gamma": with_chunk(PLAIN, b"gAMA", struct.pack(">I", 100000)),
    "transparent grey": with_chunk(PLAIN, b"tRNS", struct.pack(">H", 3)),
    "transparent grey far behind": with_chunk(with_chunk(PLAIN, b"tRNS", struct.pack(">H", 3)), b"tEXt", b"x\0" + b"y" * 3000),
    "significant bits": with_chunk(PLAIN, b"sBIT", bytes([5])),
    "ICC profile": saved(Image.fromarray(VALUES), icc_profile=PROFILE),
    "orientation 1": turned(VALUES, 1),
    "text behind": with_chunk(PLAIN, b"tEXt", b"a\0b", len(PLAIN) - 12),
}  # fmt: skip
REFUSED: dict[str, tuple[bytes, str]] = {
    "grey of 1 bit": (grey_bits(FEW, 1), "must be an 8-bit single-channel"),
    "grey of 2 bits": (grey_bits(VALUES % 4, 2), "and 2 bits, must be an 8-bit"),
    "grey of 4 bits": (grey_bits(VALUES % 16, 4), "and 4 bits, must be an 8-bit"),
    "grey of 16 bits": (png(VALUES.astype(np.uint16)[..., None]), "must be an 8-bit single-channel"),
    "grey and alpha": (png(np.stack([VALUES, VALUES], -1)), "must be an 8-bit single-channel"),
    "colour": (png(np.stack([VALUES] * 3, -1)), "must be an 8-bit single-channel"),
    "colour of 16 bits": (png(np.stack([VALUES] * 3, -1).astype(np.uint16)), "must be an 8-bit single-channel"),
    "JPEG": (saved(Image.fromarray(VALUES), "JPEG"), "label is JPEG"),
    "animated": (saved(Image.fromarray(VALUES), save_all=True, append_images=[Image.fromarray(VALUES[::-1])]), "animation of 2 pictures"),
    **{f"orientation {way}": (turned(VALUES, way), f"has EXIF orientation {way}") for way in range(2, 9)},
    "orientation behind the pixels": (
        with_chunk(PLAIN, b"eXIf", turned(VALUES, 6)[turned(VALUES, 6).index(b"eXIf") + 4 :][:26], len(PLAIN) - 12), "orientation 6",
    ),
}  # fmt: skip


def image_of(values: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.stack([values, values[::-1], values[:, ::-1]], -1))


def stored(store: FolderStore, label: bytes, image: bytes | None = None) -> pd.DataFrame:
    """Put a frame into a store as it is, not through ingest."""
    picture, blob = store.put(image or saved(image_of(VALUES)), "png"), store.put(label, "png")
    row = {"frame_id": "f", "image_uri": picture.uri, "label_uri": blob.uri, "label_taxonomy": "cityscapes19"}
    return pd.DataFrame([row | {"height_px": SIZE[0], "width_px": SIZE[1]}])


def arrival(label: bytes, image: bytes | None = None) -> Arrival:
    class Facts:
        frame_id = drive_id = "f"

    return Arrival(
        facts=Facts(),
        image=image or saved(image_of(VALUES)),
        image_path="f.png",
        label=label,
        label_path="f",
        label_taxonomy="cityscapes19",
    )


INTAKE = IntakeSettings(source="s", split="train", domain="real", labels="given", taxonomy="cityscapes19")


@pytest.mark.parametrize("kind", LABELS)
def test_every_path_decodes_a_label_to_the_same_array(kind: str, tmp_path: Path) -> None:
    data = LABELS[kind]
    expected = decode_label(data, "label", CITYSCAPES, SIZE)
    assert np.array_equal(
        expected, FEW if "1 bit" in kind else VALUES % 4 if "bits" in kind and "palette" in kind else VALUES
    )
    lookup = label_lookup("cityscapes19", "cityscapes19")
    assert np.array_equal(
        decode_stored_label(data, "label", CITYSCAPES, SIZE, SIZE, "cityscapes19"), apply_lookup(expected, lookup)
    )
    store = FolderStore(tmp_path / "store")
    frames, settings = stored(store, data), LoadSettings(height_px=SIZE[0], width_px=SIZE[1], taxonomy="cityscapes19")
    training = FrameSet(frames, store, settings)
    assert np.array_equal(training.full_label(0), expected) and np.array_equal(training.load(0)[1], expected)
    put(tmp_path / "data/val/0016E5_1.png", saved(image_of(VALUES)))
    put(tmp_path / "data/valannot/0016E5_1.png", data)
    raw = read("camvid", tmp_path / "data")
    evaluation = FolderFrames(
        READERS["camvid"].__class__("camvid", "cityscapes19", READERS["camvid"].frames), raw, settings
    )
    assert np.array_equal(evaluation.full_label(0), expected) and np.array_equal(evaluation.load(0)[1], expected)
    taken = admit_frames([arrival(data)], 1, store, INTAKE)
    counts = {name: int((expected == number).sum()) for number, name in enumerate(CITYSCAPES.classes)}
    for profile in (
        taken.profile,
        profile_labels(frames, taken.profile.assign(label_min=np.nan), store, "cityscapes19"),
    ):
        assert {name: int(profile[f"px_{name}"].iloc[0]) for name in counts} == counts


@pytest.mark.parametrize("kind", REFUSED)
def test_what_decoders_could_take_differently_is_refused_everywhere(kind: str, tmp_path: Path) -> None:
    data, message = REFUSED[kind]
    store = FolderStore(tmp_path)
    with pytest.raises(BadFrame, match=message):
        decode_label(data, "label", CITYSCAPES, SIZE)
    taken = admit_frames([arrival(data)], 1, store, INTAKE)
    assert len(taken.manifest) == 0 and message in taken.rejected.rule.iloc[0]
    if "orientation" in kind or kind == "animated":
        with pytest.raises(BadFrame, match=message):
            decode_codes(data, Path("label"))


IMAGES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: saved(image_of(VALUES), "JPEG"),
    "progressive": lambda: saved(image_of(VALUES), "JPEG", progressive=True),
    "JPEG of full colour": lambda: saved(image_of(VALUES), "JPEG", subsampling=0, quality=100),
    "JPEG stored as RGB": lambda: saved(image_of(VALUES), "JPEG", keep_rgb=True),
    "JPEG with a profile": lambda: saved(image_of(VALUES), "JPEG", icc_profile=PROFILE),
    "grey JPEG": lambda: saved(Image.fromarray(VALUES), "JPEG"),
    "CMYK": lambda: saved(image_of(VALUES).convert("CMYK"), "JPEG"),
    "MPO": lambda: saved(image_of(VALUES), "MPO", save_all=True, append_images=[image_of(VALUES[::-1])]),
    "JPEG of orientation 1": lambda: turned(np.asarray(image_of(VALUES)), 1, "JPEG"),
    "PNG": lambda: saved(image_of(VALUES)),
    "PNG of 16 bits": lambda: png(np.stack([VALUES] * 3, -1).astype(np.uint16) * 257),
    "PNG with gamma": lambda: with_chunk(saved(image_of(VALUES)), b"gAMA", struct.pack(">I", 100000)),
    "PNG with alpha": lambda: saved(image_of(VALUES).convert("RGBA")),
    "palette": lambda: palette(VALUES),
}  # fmt: skip


@pytest.mark.parametrize("kind", IMAGES)
def test_every_path_decodes_an_image_to_the_same_array(kind: str, tmp_path: Path) -> None:
    data = IMAGES[kind]()
    expected = decode_image(data, "image")
    assert expected.shape == (*SIZE, 3)
    assert np.array_equal(decode_stored_image(data, "image"), expected)
    store = FolderStore(tmp_path / "store")
    settings = LoadSettings(height_px=SIZE[0], width_px=SIZE[1], taxonomy="cityscapes19")
    training = FrameSet(stored(store, PLAIN, data), store, settings)
    assert np.array_equal(training.full_image(0), expected)
    assert np.array_equal(training.load(0)[0].transpose(1, 2, 0), expected)


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_turned_image_is_refused_by_its_orientation(orientation: int, tmp_path: Path) -> None:
    data = turned(np.asarray(image_of(VALUES)), orientation, "JPEG")
    with pytest.raises(
        BadFrame,
        match=f"has EXIF orientation {orientation}: viewers show it turned .* turn the pixels and remove the tag",
    ):
        decode_image(data, "image")
    taken = admit_frames([arrival(PLAIN, data)], 1, FolderStore(tmp_path), INTAKE)
    assert (
        len(taken.manifest) == 0 and "EXIF" in taken.rejected.rule.iloc[0] and "turn" in taken.rejected.remedy.iloc[0]
    )


def test_what_a_picture_tells_beside_its_pixels_is_not_stored(tmp_path: Path) -> None:
    data, store = turned(np.asarray(image_of(VALUES)), 1, "JPEG"), FolderStore(tmp_path)
    (row,) = admit_frames([arrival(PLAIN, data)], 1, store, INTAKE).manifest.to_dict("records")
    assert b"Exif" in data and b"Exif" not in store.get(row["image_uri"])
    assert row["source_sha256"] == hashlib.sha256(data).hexdigest(), "it is known by its bytes as they arrived"


def test_a_broken_tag_turns_nothing() -> None:
    data = saved(image_of(VALUES), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert decode_image(data, "image").shape == (*SIZE, 3)


def test_a_class_belongs_to_a_picture_however_it_is_turned(tmp_path: Path) -> None:
    put(tmp_path / "train" / "car" / "a.jpg", turned(np.asarray(image_of(VALUES)), 6, "JPEG"))
    assert read_class_folders(tmp_path, "train", 16).images.shape == (1, 16, 16, 3)
