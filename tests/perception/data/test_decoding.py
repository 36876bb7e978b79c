"""Decoding: exact pixels of good files, and a named rule for every kind of bad one."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from perception.data.decoding import (
    BadFrame,
    check_picture,
    decode_image,
    decode_label,
    decode_stored_image,
    decode_stored_label,
    image_size,
)
from perception.data.taxonomies import UNKNOWN, label_lookup, load_taxonomy

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
LABEL = RNG.integers(0, 12, (12, 20), dtype=np.uint8)
CAMVID = load_taxonomy("camvid11")
PATH = Path("a/b.png")


def encoded(pixels: NDArray[np.generic] | Image.Image, format: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Build a PNG that promises more pixels than it holds."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"")


def png(header: bytes, rows: bytes) -> bytes:
    chunks = b""
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_image_png_is_exact() -> None:
    image = decode_image(encoded(PIXELS), PATH)
    assert image.dtype == np.uint8 and np.array_equal(image, PIXELS)
    image[0, 0] = 0  # the caller owns it


def test_image_size_reads_the_header_alone() -> None:
    assert image_size(encoded(PIXELS), PATH) == (12, 20)
    assert image_size(png_header(700, 300), PATH) == (300, 700), "no pixel is decoded"
    with pytest.raises(BadFrame, match="more than 64000000 pixels"):
        image_size(png_header(9000, 9000), PATH)


def test_image_jpeg_equals_another_decoder() -> None:
    cv2 = pytest.importorskip("cv2")
    smooth = np.asarray(Image.fromarray(PIXELS).resize((200, 120)))
    data = encoded(smooth, "JPEG", quality=95)
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(data, PATH).astype(int) - other).max() <= 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert np.array_equal(decode_image(encoded(image), PATH), np.asarray(image.convert("RGB")))


def test_label_is_exact() -> None:
    label = decode_label(encoded(LABEL), PATH, CAMVID, (12, 20))
    assert label.dtype == np.uint8 and np.array_equal(label, LABEL)


def test_palette_label_gives_its_indices() -> None:
    image = Image.fromarray(LABEL).convert("P")
    image.putdata(LABEL.ravel().tolist())
    image.putpalette([value for index in range(256) for value in (index, 7, 255 - index)])
    for bits in (8, 4):
        data = encoded(image, bits=bits)
        assert data[24] == bits
        assert np.array_equal(decode_label(data, PATH, CAMVID, (12, 20)), LABEL)


def bad_label(data: bytes, size: tuple[int, int] = (12, 20)) -> str:
    with pytest.raises(BadFrame) as caught:
        decode_label(data, PATH, CAMVID, size)
    error = caught.value
    assert error.path == PATH and error.rule and error.remedy
    assert str(error) == f"{error.path}: {error.rule}; {error.remedy}" and "\n" not in str(error)
    return str(error)


def bad_image(data: bytes) -> str:
    with pytest.raises(BadFrame) as caught:
        decode_image(data, PATH)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("a/b.png: ")
    return str(caught.value)


def test_label_of_another_size_prints_both() -> None:
    assert "label is 20x12 px, its image 20x13 px, must be equal" in bad_label(encoded(LABEL), (13, 20))


def test_unknown_label_values_print_value_and_count() -> None:
    label = LABEL.copy()
    label[0, :3], label[1, 0] = 77, 200
    assert "label holds values outside taxonomy camvid11: 77 (3 px), 200 (1 px); correct it" in bad_label(
        encoded(label)
    )
    many = np.arange(240, dtype=np.uint8).reshape(12, 20)
    assert "16 (1 px) and 223 more values" in bad_label(encoded(many))


def test_labels_that_are_not_8_bit_single_channel() -> None:
    assert "label is PNG with mode RGB, must be an 8-bit single-channel" in bad_label(encoded(PIXELS))
    assert "label is PNG with mode I;16" in bad_label(encoded(LABEL.astype(np.uint16)))
    assert "label is PNG with mode 1" in bad_label(encoded(Image.fromarray(LABEL > 3)))
    assert "label is JPEG with mode L" in bad_label(encoded(LABEL, "JPEG"))


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_label_of_few_bits_is_refused(bits: int) -> None:
    """Pillow stretches such values to 0..255, so that class 1 of 4 bits would become 17."""
    data = png(struct.pack(">IIBBBBB", 20, 12, bits, 0, 0, 0, 0), 12 * bytes(1 + 20 * bits // 8))
    assert f"mode L and {bits} bits" in bad_label(data)


def test_16_bit_image_is_refused() -> None:
    assert "image has mode I;16" in bad_image(encoded(LABEL.astype(np.uint16)))


def test_empty_file() -> None:
    assert bad_image(b"") == "a/b.png: file is empty; copy it again"
    assert "file is empty" in bad_label(b"")


@pytest.mark.parametrize("data", [b"\x00" * 100, b"GIF89a" + b"\x00" * 50, b"\xff\xd8", b"<html>no</html>"])
def test_what_is_no_image(data: bytes) -> None:
    assert "not a readable JPEG or PNG" in bad_image(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_image(format: str, keep: float) -> None:
    data = encoded(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8), format)
    assert "truncated" in bad_image(data[: int(keep * len(data))]) or (format == "JPEG" and keep == 0.1)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_truncated_label(keep: float) -> None:
    data = encoded(LABEL)
    assert "PNG file is truncated" in bad_label(data[: int(keep * len(data))])


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_no_beginning_of_a_file_passes_for_the_file(format: str) -> None:
    data = encoded(PIXELS, format)
    for length in range(len(data)):
        bad_image(data[:length])
    decode_image(data, PATH)


def test_decompression_bombs() -> None:
    assert "image is 9000x9000 px, more than 64000000 pixels" in bad_image(png_header(9000, 9000))
    assert "more than 64000000 pixels" in bad_image(png_header(60_000, 60_000))


def test_damaged_pixels() -> None:
    data = bytearray(encoded(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)))
    data[200:2000] = bytes(1800)
    assert "damaged" in bad_image(bytes(data))


UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1  # orientation: as stored


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95, "progressive": True}, {"exif": UPRIGHT}])
def test_stored_jpegs_decode_to_the_same_pixels(subsampling: int, options: dict[str, object]) -> None:
    smooth = np.asarray(Image.fromarray(PIXELS).resize((53, 37), Image.Resampling.BICUBIC))
    for pixels in (PIXELS, smooth):
        data = encoded(pixels, "JPEG", subsampling=subsampling, **options)
        assert np.array_equal(decode_stored_image(data, PATH), decode_image(data, PATH))


def test_stored_images_of_other_kinds_and_bad_ones_are_treated_as_new_ones() -> None:
    for image in (Image.fromarray(PIXELS).convert(mode) for mode in ("L", "CMYK", "RGB")):
        for format in ("JPEG", "PNG"):
            if (image.mode, format) != ("CMYK", "PNG"):
                data = encoded(image, format)
                assert np.array_equal(decode_stored_image(data, PATH), decode_image(data, PATH))
    whole = encoded(PIXELS, "JPEG")
    for data in (b"", whole[:-30], b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc0\xff\xd9", whole[:20] + b"\xff\xd9"):
        with pytest.raises(BadFrame):
            decode_stored_image(data, PATH)


@pytest.mark.parametrize(
    ("at_least", "size"),
    [((40, 56), (40, 56)), ((21, 28), (40, 56)), ((20, 28), (20, 28)), ((5, 7), (5, 7)), ((1, 1), (5, 7))],
)
def test_stored_jpegs_are_decoded_smaller_where_that_is_enough(
    at_least: tuple[int, int], size: tuple[int, int]
) -> None:
    smooth = Image.fromarray(PIXELS).resize((56, 40), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95, subsampling=0)
    small = decode_stored_image(data, PATH, at_least)
    assert small.shape == (*size, 3)
    factor = 40 // size[0]
    blocks = decode_image(data, PATH).reshape(size[0], factor, size[1], factor, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).mean() < 1 and np.abs(small - blocks).max() < 10


def test_stored_images_whose_size_cannot_be_halved_are_decoded_whole() -> None:
    odd = Image.fromarray(PIXELS).resize((57, 40), Image.Resampling.BICUBIC)
    for data in (encoded(odd, "JPEG"), encoded(odd)):
        assert np.array_equal(decode_stored_image(data, PATH, (4, 4)), decode_image(data, PATH))


@pytest.mark.parametrize("palette", [False, True])
def test_stored_labels_are_resized_mapped_and_checked(palette: bool) -> None:
    image = Image.fromarray(LABEL)
    if palette:
        image = Image.frombytes("P", (20, 12), LABEL.tobytes())
        image.putpalette(bytes(range(256)) * 3)
    data = encoded(image)
    lookup = label_lookup("camvid11", "cityscapes19")
    for shown in ((12, 20), (6, 10), (5, 7), (24, 31)):
        nearest = np.asarray(Image.fromarray(LABEL).resize(shown[::-1], Image.Resampling.NEAREST))
        ours = decode_stored_label(data, PATH, CAMVID, (12, 20), shown, "cityscapes19")
        assert ours.dtype == np.uint8 and np.array_equal(ours, lookup[nearest])
    with pytest.raises(BadFrame, match="its image 21x12 px"):
        decode_stored_label(data, PATH, CAMVID, (12, 21), (12, 21), "camvid11")
    changed = LABEL.copy()
    changed[3, 4] = 99
    with pytest.raises(BadFrame, match=r"outside taxonomy camvid11: 99 \(1 px\)"):
        decode_stored_label(encoded(changed), PATH, CAMVID, (12, 20), (12, 20), "gta5")


@pytest.mark.parametrize(("source", "target"), [("cityscapes19",) * 2, ("camvid11",) * 2, ("bdd100k", "cityscapes19")])
def test_stored_labels_that_need_no_mapping_are_checked_all_the_same(source: str, target: str) -> None:
    taxonomy = load_taxonomy(source)
    for value in range(256):
        label = np.full((2, 3), 255, np.uint8)
        label[1] = value
        data = encoded(label)
        if taxonomy.raw[value] == UNKNOWN:
            with pytest.raises(BadFrame, match=rf"outside taxonomy {source}: {value} "):
                decode_stored_label(data, PATH, taxonomy, (2, 3), (2, 3), target)
            continue
        ours = decode_stored_label(data, PATH, taxonomy, (2, 3), (2, 3), target)
        assert np.array_equal(ours, label_lookup(source, target)[label])
        ours[:] = 0  # nobody else's memory


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(rows: bytes, cut: int = 7, interlaced: int = 0, packed: bytes | None = None) -> bytes:
    """Write LABEL's rows, each with its filter's number before it, as the PNG standard says, in chunks of `cut` bytes."""
    whole = zlib.compress(rows) if packed is None else packed
    header = struct.pack(">IIBBBBB", LABEL.shape[1], LABEL.shape[0], 8, 0, 0, 0, interlaced)
    parts = b"".join(chunk(b"IDAT", whole[start : start + cut]) for start in range(0, len(whole), cut))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + parts + chunk(b"IEND", b"")


def with_filters(first: int, others: int) -> bytes:
    """Filter rows as the standard says: 0 none, 1 differences to the left, 2 differences to the row above."""
    left = np.pad(LABEL, ((0, 0), (1, 0)))[:, :-1]
    above = np.pad(LABEL, ((1, 0), (0, 0)))[:-1]
    kinds = [first] + [others] * (len(LABEL) - 1)
    filtered = [(LABEL, LABEL - left, LABEL - above)[kind][row] for row, kind in enumerate(kinds)]
    return b"".join(bytes([kind]) + row.tobytes() for kind, row in zip(kinds, filtered, strict=True))


@pytest.mark.parametrize("filters", [(0, 0), (0, 1), (0, 2), (1, 0), (2, 2)])
def test_stored_labels_are_the_same_however_their_rows_are_filtered(filters: tuple[int, int]) -> None:
    data = grey_png(with_filters(*filters))
    assert np.array_equal(decode_label(data, PATH, CAMVID, (12, 20)), LABEL)
    expected = label_lookup("camvid11", "camvid11")[LABEL]
    assert np.array_equal(decode_stored_label(data, PATH, CAMVID, (12, 20), (12, 20), "camvid11"), expected)
    halved = decode_stored_label(data, PATH, CAMVID, (12, 20), (6, 10), "camvid11")
    assert np.array_equal(halved, expected[1::2, 1::2])


def test_damaged_stored_labels_are_refused() -> None:
    rows = with_filters(0, 0)
    whole = zlib.compress(rows)
    for data in (
        grey_png(rows[:-5]),
        grey_png(rows, packed=whole[:-9]),
        grey_png(rows, packed=b"none"),
        grey_png(b""),
    ):
        with pytest.raises(BadFrame, match=r"PNG file is|label holds"):
            decode_stored_label(data, PATH, CAMVID, (12, 20), (12, 20), "camvid11")


def test_a_label_that_unpacks_to_far_more_than_its_pixels_takes_no_memory() -> None:
    height, width = 12, 20
    bomb = png(struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), bytes(height * (width + 1)) + bytes(64 << 20))
    tracemalloc.start()
    try:
        label = decode_stored_label(bomb, PATH, CAMVID, (height, width), (height, width), "camvid11")
        decode_label(bomb, PATH, CAMVID, (height, width))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert label.shape == (height, width) and not label.any()
    assert peak_bytes < 4 << 20, "what lies behind the last row was unpacked"


def test_a_jpeg_of_many_scans_is_refused_before_any_is_decoded() -> None:
    whole = encoded(PIXELS, "JPEG", progressive=True)
    assert decode_image(whole, PATH).shape == PIXELS.shape
    start = whole.rindex(b"\xff\xda")
    bomb = whole[:start] + whole[start:-2] * 200 + whole[-2:]
    for decode in (decode_image, check_picture):
        with pytest.raises(BadFrame, match=r"JPEG file has 2\d\d scans, more than 100"):
            decode(bomb, PATH)
