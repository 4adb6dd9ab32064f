"""Decoding: each odd image either comes out right or says why not."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(ImageError, match="40 x 20 pixels, over the 799 allowed") as caught:
        decode_image(content, max_pixels=799)
    assert caught.value.status is Status.TOO_LARGE


def test_read_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a") == b"12345"
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in {
        "none": "not there",
        "empty": "the file is empty",
        "pipe": "not a regular file",
        ".": "cannot be read|not a regular",
        "a/b": "cannot be read",
    }.items():
        with pytest.raises(ImageError, match=reason) as caught:
            read_file(tmp_path / name)
        assert caught.value.status is Status.DECODE_ERROR
    monkeypatch.setattr("data.images.MAX_FILE_BYTES", 4)
    with pytest.raises(ImageError, match="5 bytes, over the 4 allowed") as caught:
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
    with pytest.raises(ImageError, match="640 x 320 pixels, over"):
        decode_image(content, side=1, max_pixels=1000)
    assert decode_image(encode(image.convert("RGB"), "PNG"), side=1).size == (640, 320)
