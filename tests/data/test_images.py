"""Decoding: each odd image either comes out right or says why not."""

import base64
import gzip
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from data.images import ImageError, Status, check_header, decode_image, read_file

LEFT_RED = Image.new("RGB", (40, 20), (0, 0, 255))
LEFT_RED.paste((255, 0, 0), (0, 0, 20, 20))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def make_bomb(side: int) -> bytes:
    """A valid PNG of side x side pixels in a few hundred kilobytes, written row by row."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def test_rgb() -> None:
    image = decode_image(encode(LEFT_RED, "PNG"))
    assert image.mode == "RGB" and image.size == (40, 20)
    assert np.array_equal(np.asarray(image), np.asarray(LEFT_RED))


def test_greyscale_and_cmyk() -> None:
    grey = decode_image(encode(Image.new("L", (8, 8), 77), "JPEG"))
    assert pixel(grey, 4, 4) == (77, 77, 77)
    cmyk = decode_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = pixel(cmyk, 4, 4)
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256).repeat(4, 0)
    image = decode_image(encode(Image.fromarray(ramp), kind))
    row = np.asarray(image)[0, :, 0].astype(int)
    assert np.abs(row - np.arange(256)).max() <= 1


def test_floating_point_tiff() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 256).repeat(4, 0)
    row = np.asarray(decode_image(encode(Image.fromarray(ramp), "TIFF")))[0, :, 1].astype(int)
    assert np.abs(row - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((9, 9, 9, 255), (0, 0, 5, 10))
    decoded = decode_image(encode(image.convert(mode), "PNG"))
    assert pixel(decoded, 8, 5) == (255, 255, 255)
    assert max(pixel(decoded, 2, 5)) < 20


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        red, green, blue = pixel(decode_image(content), 4, 4)
        assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(("orientation", "size"), [(3, (40, 20)), (6, (20, 40)), (8, (20, 40))])
def test_exif_orientation_is_applied(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encode(LEFT_RED, "JPEG", exif=exif, quality=95))
    assert image.size == size
    # 3 turns it over, 6 puts the left side up, 8 puts it down.
    where = {3: (35, 10), 6: (10, 5), 8: (10, 35)}[orientation]
    red, _, blue = pixel(image, *where)
    assert red > 200 and blue < 60


ODD_TAGS = {
    "width is text": (0x0100, 2, 4, b"abcd"),
    "unit too large": (0x0128, 4, 1, struct.pack(">I", 70000)),
    "maker beyond the end": (0x010F, 2, 60_000, struct.pack(">I", 65_000)),
    "no such type": (0x0110, 99, 7, b"\xff\xff\xff\xff"),
    "no count": (0x0100, 3, 0, b"\0\0\0\0"),
    "resolution of zeros": (0x011A, 5, 1, struct.pack(">I", 2)),
}


def make_exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    table = b"".join(
        struct.pack(">HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries
    )
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("odd", ODD_TAGS)
def test_orientation_is_applied_whatever_the_other_tags_are(kind: str, odd: str) -> None:
    for tags in (
        (ODD_TAGS[odd], (0x0112, 3, 1, b"\0\6")),
        ((0x0112, 3, 1, b"\0\6"), ODD_TAGS[odd]),
    ):
        image = decode_image(encode(LEFT_RED, kind, exif=make_exif(*tags)))
        assert image.size == (20, 40)
        assert pixel(image, 10, 5)[0] > 200 and pixel(image, 10, 35)[2] > 200


def test_an_orientation_that_is_none_leaves_the_image_as_it_lies() -> None:
    for value in (b"\0\0", b"\0\x09", b"\xff\xff"):
        content = encode(LEFT_RED, "JPEG", exif=make_exif((0x0112, 3, 1, value)))
        assert decode_image(content).size == (40, 20)


def list_metadata(kind: str, content: bytes) -> list[int]:
    """The places of all bytes that say nothing of the pixels, but for those of the orientation."""
    spans = []
    if kind == "JPEG":
        place = 2
        while content[place + 1] != 0xDA:
            (size,) = struct.unpack_from(">H", content, place + 2)
            if 0xE0 <= content[place + 1] <= 0xED or content[place + 1] == 0xFE:
                spans.append((place + 4, place + 2 + size))
            place += 2 + size
    elif kind == "PNG":
        place = 8
        while place < len(content):
            (size,) = struct.unpack_from(">I", content, place)
            if content[place + 4 : place + 5].islower():
                spans.append((place + 8, place + 12 + size))
            place += 12 + size
    else:
        (start,) = struct.unpack_from("<I", content, 4)
        for entry in range(start + 2, len(content) - 4, 12):
            if struct.unpack_from("<H", content, entry)[0] in (0x011A, 0x0131, 0x8773):
                spans.append((entry + 2, entry + 12))
    exif = content.find(b"MM\0*")
    kept = range(exif - 8, exif + 34) if exif >= 0 else range(0)
    return [place for span in spans for place in range(*span) if place not in kept]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_no_byte_of_the_metadata_costs_the_image(kind: str) -> None:
    """Whatever they are set to, the pixels come out as they were, and upright."""
    exif = make_exif((0x0112, 3, 1, b"\0\6"), (0x0131, 2, 4, b"abc\0"), (0x011A, 5, 1, b"\0\0\0\1"))
    text = PngInfo()
    text.add_text("about", "x" * 99, zip=True)
    text.add_itxt("more", "y" * 99)
    about = {
        "JPEG": {"comment": b"x" * 50, "exif": exif},
        "PNG": {"pnginfo": text, "exif": exif},
        "TIFF": {"software": "x" * 50},
    }
    content = encode(LEFT_RED, kind, icc_profile=b"\0" * 300, dpi=(72, 72), **about[kind])
    expected = decode_image(content).tobytes()
    places, chance = list_metadata(kind, content), random.Random(kind)
    assert len(places) > 20
    for _ in range(150):
        broken = bytearray(content)
        for place in chance.sample(places, chance.choice([1, 3, 20])):
            broken[place] = chance.choice([0, 255, chance.randrange(256)])
        assert decode_image(bytes(broken)).tobytes() == expected


def test_metadata_that_is_huge_or_of_a_wrong_length_does_not_cost_the_image(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("about", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    exif = make_exif((0x0112, 3, 1, b"\0\6"))
    for content in (
        encode(LEFT_RED, "PNG", pnginfo=text, exif=exif),
        encode(LEFT_RED, "JPEG", exif=exif).replace(b"\xff\xe0\0\x10JFIF", b"\xff\xe0\0\x06JFIF"),
    ):
        assert decode_image(content).size == (20, 40)
        (tmp_path / "x").write_bytes(content)
        check_header(tmp_path / "x")


GREY = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64).repeat(4, 0)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (GREY * 1.02, "TIFF"),
        (GREY * 255.4, "TIFF"),
        (np.where(GREY == 0, np.nan, GREY), "TIFF"),
        (np.where(GREY == 1, np.inf, GREY), "TIFF"),
        (np.where(GREY == 0, -0.02, GREY), "TIFF"),
        ((GREY * 1023).astype(np.uint16), "PNG"),
        ((GREY * 4095).astype(np.uint16), "PNG"),
        ((GREY * 4095).astype(np.uint16), "TIFF"),
        ((GREY * 16383).astype(np.uint16), "TIFF"),
        ((GREY * 255).astype(np.int32), "TIFF"),
        ((GREY > 0.5).astype(np.uint16), "PNG"),
    ],
)
def test_greys_of_every_known_range_fill_eight_bits(pixels: np.ndarray, kind: str) -> None:
    row = np.asarray(decode_image(encode(Image.fromarray(pixels), kind)))[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] >= 249 and (np.diff(row) >= 0).all()


@pytest.mark.parametrize(
    "pixels",
    [GREY * np.nan, GREY * 7, GREY * 0.01, GREY - 1, GREY * 3000, (GREY * 1e6).astype(np.int32)],
)
def test_a_range_of_grey_that_nobody_knows_is_said(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="not a known range"):
        decode_image(encode(Image.fromarray(pixels), "TIFF"))


def test_a_negative_of_sixteen_bits_is_turned() -> None:
    content = bytearray(encode(Image.fromarray((GREY * 65535).astype(np.uint16)), "TIFF"))
    entry = content.index(struct.pack("<HHI", 262, 3, 1))
    content[entry + 8] = 0  # white is zero
    row = np.asarray(decode_image(bytes(content)))[0, :, 0]
    assert (row[0], row[-1]) == (255, 0)


def test_colours_that_use_the_lower_of_sixteen_bits_are_not_shown_as_black() -> None:
    """12 bits in 16: Pillow keeps the upper 8."""

    def write(top: int) -> bytes:
        row = np.zeros((1, 13), np.uint8)
        row[0, 1:] = np.array([top] * 6, ">u2").view(np.uint8)
        body = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))]
        body += [(b"IDAT", zlib.compress(row.tobytes())), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c))
            for k, c in body
        )

    assert pixel(decode_image(write(65535)), 0, 0) == (255, 255, 255)
    with pytest.raises(ImageError, match="12 of 16 bits, which is not a known range"):
        decode_image(write(4095))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_of_zeros_is_no_alpha(mode: str) -> None:
    image = LEFT_RED.convert(mode)
    image.putalpha(0)
    shown = decode_image(encode(image, "PNG"))
    assert np.array_equal(np.asarray(shown), np.asarray(LEFT_RED.convert(mode).convert("RGB")))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n\n<HTML><head>", "HTML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\0\0\0\x20ftypisom" + bytes(30), "video"),
        (b"\x1a\x45\xdf\xa3" + bytes(30), "video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "git lfs pull"),
        (b"../.git/annex/objects/aa/bb/SHA256E-s7--0.jpg\n", "git annex get"),
        (gzip.compress(b"x" * 50, mtime=0), "gzip"),
        (b"PK\x03\x04" + bytes(30), "zip"),
        (b"\0\0\0\x18ftypheic" + bytes(30), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(30), "HEIC"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + bytes(30), "HEIC"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG"),
        (b'{"error": "not found"}', "JSON"),
        (bytes(4096), "zeros"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"\xff\xd8\xff\xe0", "header|bytes"),
        (bytes(range(128, 256)), "begins with the bytes 80 81"),
        (base64.b64encode(encode(LEFT_RED, "PNG")), "base64"),
    ],
)
def test_what_bytes_are_is_said_by_name(content: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"not an image.*({name})"):
        decode_image(content)


def test_broken_exif_does_not_cost_the_image() -> None:
    content = encode(LEFT_RED, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert decode_image(content).size == (40, 20)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (encode(LEFT_RED, "JPEG")[:200], "."),
        (encode(LEFT_RED.resize((400, 400)), "PNG")[:300], "damaged"),
        (encode(LEFT_RED.resize((400, 400)), "JPEG", quality=99)[:-800], "damaged"),
    ],
    ids=["text", "eps", "cut-header", "cut-png", "cut-jpeg"],
)
def test_what_is_no_whole_image(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(content)
    assert caught.value.status is Status.DECODE_ERROR


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    content = make_bomb(30_000)
    assert len(content) < 1_000_000
    with pytest.raises(ImageError, match="900,000,000|30,000 x 30,000|bomb") as caught:
        decode_image(content)
    assert caught.value.status is Status.TOO_LARGE


def test_the_limit_on_pixels_is_exact() -> None:
    content = encode(LEFT_RED, "PNG")
    assert decode_image(content, max_pixels=800).size == (40, 20)
    with pytest.raises(ImageError, match="40 x 20 pixels; the limit is 799") as caught:
        decode_image(content, max_pixels=799)
    assert caught.value.status is Status.TOO_LARGE


def test_read_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a") == b"12345"
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "none": "does not exist",
        "empty": "the file is empty",
        "pipe": "not a regular file",
        ".": "cannot be read|not a regular",
        "a/b": "cannot be read",
    }.items():
        with pytest.raises(ImageError, match=reason) as caught:
            read_file(tmp_path / name)
        assert caught.value.status is Status.DECODE_ERROR
    monkeypatch.setattr("data.images.MAX_FILE_BYTES", 4)
    with pytest.raises(ImageError, match="5 bytes; the limit is 4") as caught:
        read_file(tmp_path / "a")
    assert caught.value.status is Status.TOO_LARGE


def test_a_header_alone_tells_an_image_from_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(LEFT_RED, "PNG")[:60])  # the rest is not looked at
    check_header(path)
    with pytest.raises(ImageError) as caught:
        check_header(path, max_pixels=40 * 20 - 1)
    assert caught.value.status == Status.TOO_LARGE
    path.write_bytes(b"not an image")
    os.mkfifo(tmp_path / "pipe")
    for bad in (path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(ImageError) as caught:
            check_header(bad)
        assert caught.value.status == Status.DECODE_ERROR


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_decoded_smaller_for_who_makes_it_small_anyway(mode: str) -> None:
    image = LEFT_RED.resize((640, 320)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    content = encode(image, "JPEG", exif=exif)
    assert decode_image(content).size == (320, 640)
    for side, expected in ((320, (320, 640)), (161, (320, 640)), (160, (160, 320)), (1, (40, 80))):
        small = decode_image(content, side=side)
        assert small.size == expected and small.mode == "RGB"
    # What is too large is told before anything is made smaller.
    with pytest.raises(ImageError, match="640 x 320 pixels; the limit"):
        decode_image(content, side=1, max_pixels=1000)
    assert decode_image(encode(image.convert("RGB"), "PNG"), side=1).size == (640, 320)
