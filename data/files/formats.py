"""File formats: those that are decoded, names for all others, and metadata.

Only Pillow is imported, so that a decoding process starts at once and stays small.
"""

import base64
import binascii
import re
import struct
from collections.abc import Iterator

# The plugins are imported one by one: Image.init() would load every format there is.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# An explicit list, because some of Pillow's formats start other programs (EPS) or contain many
# images.
_ENDINGS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "AVIF": "avif",
}
FORMATS = tuple(name for name in _ENDINGS if name in Image.OPEN)
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif"}
    | {".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
# Offset, bytes, and format.
_OTHERS = (
    (0, b"%PDF", "a PDF file"),
    (0, b"%!PS", "PostScript"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\xfd7zXZ", "xz-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"\0\x05\x16\x07", "an AppleDouble companion (._NAME), not the image itself"),
    (4, b"ftypavi", "a damaged AVIF image"),
    (4, b"ftypqt", "a QuickTime video"),
    (4, b"ftyp", "an MP4 video"),
    (4, b"moov", "a QuickTime video"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a sound (WAV)"),
    (0, b"ID3", "a sound (MP3)"),
    (0, b"OggS", "an Ogg sound or video"),
    (0, b"\0\0\x01\xba", "an MPEG video"),
    (0, b"\x7fELF", "a program"),
)
# One that can be AVIF says so among its brands.
_HEIF = re.compile(rb"(?s)....ftyp(?!.{0,56}avi[fs])(hei[cmsx]|hev[cmsx]|mif1|msf1)")
_TEXTS = (
    (r"\s*version https://git-lfs", "a Git LFS pointer: fetch the file with `git lfs pull`"),
    (r"\s*\S*/annex/objects/", "a git-annex pointer: fetch the file with `git annex get`"),
    (r"(?s)\s*(<\?xml|<!--|<!doctype svg|<svg).*<svg|\s*<svg", "an SVG drawing"),
    (r"(?s)\s*(<!--.*?-->\s*)?(<!doctype html|<html|<head|<body|<title)", "an HTML page"),
    (r"\s*<", "XML"),
    (r"\s*[\[{]", "JSON"),
)
_BASE64 = re.compile(rb"(?:data:[\w.+/-]*;base64,)?([A-Za-z0-9+/_\s-]{64,}=*)\s*", re.IGNORECASE)
# The TIFF tags that describe the layout of the pixels; the others are metadata.
_TIFF_PIXELS = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325}
    | {332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532}
)
_ORIENTATION = 0x0112
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def name_ending(content: bytes) -> str | None:
    """The usual extension of a decodable format (jpg, png, ...), as its decoder detects it."""
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and len(content) > 8 and accept(content[:16]) is True:
            return _ENDINGS[name]
    return None


def name_other(content: bytes) -> str | None:
    """The kind of bytes that are neither text nor an image that is decoded: `gzip-compressed`."""
    if _HEIF.match(content):
        return "a HEIC or HEIF photo"
    found = (name for start, magic, name in _OTHERS if content.startswith(magic, start))
    return next(found, None)


def describe_bytes(content: bytes) -> str:
    """The kind of bytes that no decoder accepts: `an HTML page`."""
    if not content.strip(b"\0"):
        return "nothing but zeros, as of a copy that was never finished"
    if name := name_other(content):
        return name
    ending = name_ending(content)
    if ending is not None:
        return f"it begins like {ending}, but its header is damaged or cut off"
    try:
        text = content[:2048].decode("utf-8-sig").lower()
    except UnicodeDecodeError as error:
        # Later than that, the cut went through a character.
        if error.start < 2045:
            return f"it begins with the bytes {content[:8].hex(' ')}"
        text = content[: error.start].decode("utf-8-sig").lower()
    if decode_base64(content) is not None:
        return "an image as base64 text"
    return next((name for pattern, name in _TEXTS if re.match(pattern, text)), "plain text")


def decode_base64(text: str | bytes) -> bytes | None:
    """The image that a text contains as base64 or as a `data:` URL; None if there is none."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    # The beginning decides: the text may be a path, and matching megabytes would be wasted.
    head = _BASE64.fullmatch(raw[:400].rstrip(b"=\r\n "))
    if head is None or name_ending(_decode(head[1][:64])) is None:
        return None
    whole = _BASE64.fullmatch(raw)
    return None if whole is None else _decode(whole[1])


def _decode(text: bytes) -> bytes:
    plain = b"".join(text.split()).rstrip(b"=").translate(_URL_SAFE)
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4))
    except binascii.Error:
        return b""


def read_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF bytes, 1 to 8, even if other tags are broken; else None."""
    start = next((p for p in map(exif.find, (b"II*\0", b"MM\0*")) if 0 <= p <= 32), None)
    if start is None:
        return None
    order = "<" if exif[start : start + 1] == b"I" else ">"
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start + offset)
        for number in range(count):
            place = start + offset + 2 + 12 * number
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                letter = {1: "B", 4: "I"}.get(kind, "H")
                (value,) = struct.unpack_from(f"{order}{letter}", exif, place + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:
        return None
    return None


def find_orientation(content: bytes) -> int | None:
    """The orientation in a JPEG's EXIF, even after a segment with a wrong length."""
    start = content.find(b"Exif\0\0", 0, 1 << 17)
    return None if start < 0 else read_orientation(content[start : start + (1 << 16)])


def drop_metadata(content: bytes) -> tuple[bytes, int | None] | None:
    """Reduce a file to what its pixels need, and return the orientation that it had.

    For images whose metadata prevent decoding; None if there is nothing to drop.
    """
    drop = {"jpg": _drop_jpeg, "png": _drop_png, "webp": _drop_webp, "tif": _drop_tiff}
    try:
        ending = name_ending(content)
        if ending == "avif":
            # The item keeps its place, with a type that no decoder reads.
            return re.sub(rb"(?s)(infe.{8})Exif", rb"\1skip", content), None
        return drop[ending](content) if ending in drop else None
    except (struct.error, IndexError):
        return None


def _drop_jpeg(content: bytes) -> tuple[bytes, int | None]:
    kept, place = [content[:2]], 2
    while (place := content.find(b"\xff", place)) >= 0 and content[place + 1] != 0xDA:
        marker = content[place + 1]
        if not (0xC0 <= marker <= 0xFE and marker != 0xFF) or 0xD0 <= marker <= 0xD9:
            place += 1
            continue
        (size,) = struct.unpack_from(">H", content, place + 2)
        segment = content[place : place + 2 + size]
        told = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if told and content[place + 2 + size : place + 3 + size] != b"\xff":
            # Its length is wrong: continue where the tables begin.
            size = max(content.find(b"\xff\xdb", place) - place - 2, 2)
        # Adobe's says how colours are stored.
        if not told or marker == 0xEE:
            kept.append(segment)
        place += 2 + size
    return b"".join(kept) + content[max(place, 0) :], find_orientation(content)


def _drop_png(content: bytes) -> tuple[bytes, int | None]:
    kept, exif, place = [content[:8]], b"", 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunk = content[place : place + 12 + size]
        if chunk[4:8] == b"eXIf":
            exif = chunk[8:-4]
        # Chunks whose name begins with a capital letter are critical for decoding.
        if chunk[4:5].isupper() or chunk[4:8] == b"tRNS":
            kept.append(chunk)
        place += 12 + size
    return b"".join(kept), read_orientation(exif)


def _drop_webp(content: bytes) -> tuple[bytes, int | None]:
    kept, exif, place = [], b"", 12
    while place + 8 <= len(content):
        (size,) = struct.unpack_from("<I", content, place + 4)
        chunk = content[place : place + 8 + size + size % 2]
        if chunk[:4] == b"EXIF":
            exif = chunk[8:]
        elif chunk[:4] == b"VP8X":
            # Keep only the flags for alpha and animation.
            kept.append(chunk[:8] + bytes([chunk[8] & 0x12]) + chunk[9:])
        elif chunk[:4] in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.append(chunk)
        place += len(chunk)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body, read_orientation(exif)


def _drop_tiff(content: bytes) -> tuple[bytes, int | None] | None:
    order = "<" if content[:1] == b"I" else ">"
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return None
    (offset,) = struct.unpack_from(f"{order}I", content, 4)
    entries = [e for e in _iterate_entries(content, order, offset) if _is_of_pixels(e, order)]
    table = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    # Pillow already applies the orientation of a TIFF.
    return content[:offset] + table + content[offset + len(table) :], None


def _iterate_entries(content: bytes, order: str, offset: int) -> Iterator[bytes]:
    (count,) = struct.unpack_from(f"{order}H", content, offset)
    for number in range(count):
        yield content[offset + 2 + 12 * number : offset + 14 + 12 * number]


def _is_of_pixels(entry: bytes, order: str) -> bool:
    return struct.unpack_from(f"{order}H", entry)[0] in _TIFF_PIXELS
