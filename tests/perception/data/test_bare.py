"""What a picture tells beside its pixels is left out, and no pixel changes."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from perception.data.bare import bare_picture
from perception.data.decoding import BadFrame, decode_image, decode_stored_image

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
PLANTED = b"PLANTED-57.7N-11.9E"


def saved(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format, **options)
    return file.getvalue()


def jpeg(**options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = PLANTED.decode()
    exif[ExifTags.Base.DateTime] = "2026:11:30 12:00:00"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSMapDatum] = PLANTED.decode()
    data = saved("JPEG", exif=exif, comment=PLANTED, icc_profile=b"profile" * 40, **options)
    for marker, begins in (
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        (0xE2, b"MPF\0"),
        (0xED, b"Photoshop 3.0\0"),
        (0xE0, b"JFXX\0"),
    ):
        body = begins + PLANTED
        data = data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]
    return data + PLANTED


def png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", PLANTED.decode())
    info.add_itxt("XML:com.adobe.xmp", PLANTED.decode())
    info.add(b"prVt", PLANTED)
    info.add(b"tIME", struct.pack(">HBBBBB", 2026, 11, 30, 12, 0, 0))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = PLANTED.decode()
    return saved("PNG", pnginfo=info, exif=exif, icc_profile=b"profile" * 40) + PLANTED


CASES = {
    "jpeg": jpeg(),
    "progressive": jpeg(progressive=True),
    "optimised, grey chroma": jpeg(subsampling=0, optimize=True),
    "png": png(),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_told_beside_the_pixels(name: str) -> None:
    data = CASES[name]
    bare = bare_picture(data, name)
    assert PLANTED in data and PLANTED not in bare
    assert not any(
        each in bare for each in (b"Exif", b"tIME", b"eXIf", b"prVt", b"MPF", b"Photoshop", b"JFXX", b"ns.adobe.com")
    )
    assert (decode_image(bare, name) == decode_image(data, name)).all()
    assert (decode_stored_image(bare, name) == decode_stored_image(data, name)).all()
    assert len(dict(Image.open(io.BytesIO(bare)).getexif())) == 0
    assert "icc_profile" in Image.open(io.BytesIO(bare)).info, "colours stay what they are"
    assert bare_picture(bare, name) == bare


@pytest.mark.parametrize("data", [saved("JPEG"), saved("JPEG", progressive=True, restart_marker_rows=1), saved("PNG")])
def test_what_tells_nothing_stays_as_it_is(data: bytes) -> None:
    assert bare_picture(data, "x") == data


@pytest.mark.parametrize("data", [saved("JPEG")[:30], saved("PNG")[:40], saved("JPEG")[:-2]])
def test_parts_that_cannot_be_told_apart_are_refused(data: bytes) -> None:
    with pytest.raises(BadFrame, match="cannot be told apart"):
        bare_picture(data, "x")


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_bit_hides_nothing_and_hangs_nothing(name: str, place: int, bits: int) -> None:
    data = bytearray(CASES[name])
    data[place % len(data)] ^= bits
    with contextlib.suppress(BadFrame):
        bare_picture(bytes(data), name)


def test_a_checksum_of_what_stays_is_its_own() -> None:
    bare = bare_picture(CASES["png"], "x")
    place = 8
    while place < len(bare):
        (length,) = struct.unpack_from(">I", bare, place)
        assert struct.unpack_from(">I", bare, place + 8 + length)[0] == zlib.crc32(bare[place + 4 : place + 8 + length])
        place += 12 + length
