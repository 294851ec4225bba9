"""The bytes of a picture's file without what is not the picture: texts, colour profiles, times, thumbnails.

Decoders refuse a file whose metadata are broken or large, though its pixels are good. Nothing is decoded or unpacked
here: pieces of the file are copied or left out, so that there is never more than a second copy of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from zlib import crc32

PNG = b"\x89PNG\r\n\x1a\n"
MOST_ORIENTING = 2**20
"""Bytes of the largest piece of metadata that is kept because it may say how the picture is to be turned."""

_TIFF_METADATA = {270, 305, 306, 315, 316, 700, 33432, 33550, 33723, 34377, 34665, 34675, 34853, 37724, 40965}
"""Tags of descriptions, XMP, IPTC, Photoshop, EXIF, ICC, GPS and the like."""
_WEBP_ALPHA_AND_ANIMATION, _WEBP_EXIF = 0x12, 0x08
"""Bits of the first byte of VP8X: which chunks there are."""


class _Cut(Exception):
    """The pixels themselves are not whole, or the file is of no known structure."""


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the file with nothing but its pixels and what may say how to turn them, then with its pixels alone.

    data: the bytes of a PNG, JPEG, WebP or TIFF file.  Yields nothing for others, and where the pixels are cut.
    """
    bare = _format(data)
    for orienting in (True, False):
        try:
            if bare is not None:
                yield bare(data, orienting)
        except (_Cut, struct.error, IndexError):
            return


def _format(data: bytes) -> Callable[[bytes, bool], bytes] | None:
    if data.startswith(PNG):
        return _bare_png
    if data.startswith(b"\xff\xd8\xff"):
        return _bare_jpeg
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _bare_webp
    return _bare_tiff if data.startswith((b"II*\0", b"MM\0*")) else None


def _bare_png(data: bytes, orienting: bool) -> bytes:
    """https://www.w3.org/TR/png-3: a small first letter of a chunk's name says that a picture can do without it."""
    kept, position, has_pixels = [PNG], len(PNG), False
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        chunk = data[position:end] if not kind[0] & 0x20 or length <= MOST_ORIENTING else b""
        whole = kind.isalpha() and end <= len(data)
        if not whole and not has_pixels:
            raise _Cut
        if not whole or kind == b"IEND":
            break  # what is cut after pixels is left out; if it is more pixels, the decoder says so
        sound = crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
        if not kind[0] & 0x20 or (
            sound and (_is_transparency(kind, chunk, data) or (orienting and _turns(kind, chunk)))
        ):
            kept.append(chunk)
        has_pixels |= kind == b"IDAT"
        position = end
    return b"".join([*kept, struct.pack(">I4sI", 0, b"IEND", crc32(b"IEND"))])


def _is_transparency(kind: bytes, chunk: bytes, data: bytes) -> bool:
    """Whether a chunk is of transparency, and as long as the type of colours in the header needs it."""
    return kind == b"tRNS" and len(chunk) - 12 >= {0: 2, 2: 6}.get(data[25], 0)


def _turns(kind: bytes, chunk: bytes) -> bool:
    return kind == b"eXIf" or chunk[8:].startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"))


def _bare_jpeg(data: bytes, orienting: bool) -> bytes:
    """ITU-T T.81, B.1: segments of a marker, a length and so many bytes, up to the pixels."""
    kept, position = [data[:2]], 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a byte to fill up with
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            return b"".join([*kept, data[position:]])
        body = data[position + 4 : end]
        colours = marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12  # how they were transformed
        turns = orienting and marker == 0xE1 and body.startswith(b"Exif\0\0")
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or colours or turns:
            kept.append(data[position:end])
        position = end
    raise _Cut


def _bare_webp(data: bytes, orienting: bool) -> bytes:
    """https://developers.google.com/speed/webp/docs/riff_container."""
    kept, position, has_pixels = [b"WEBP"], 12, False
    while position + 8 <= len(data):
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length + length % 2
        if end > len(data):
            break
        if kind in (b"ALPH", b"ANIM", b"ANMF", b"VP8 ", b"VP8L", b"VP8X") or (orienting and kind == b"EXIF"):
            kept.append(data[position:end])
        has_pixels |= kind in (b"ANMF", b"VP8 ", b"VP8L")
        position = end
    if not has_pixels:
        raise _Cut
    if kept[1].startswith(b"VP8X"):
        has_exif = kept[-1].startswith(b"EXIF")
        flags = kept[1][8] & _WEBP_ALPHA_AND_ANIMATION | has_exif * _WEBP_EXIF
        kept[1] = kept[1][:8] + bytes([flags]) + kept[1][9:]
    return b"".join([b"RIFF", sum(map(len, kept)).to_bytes(4, "little"), *kept])


def _bare_tiff(data: bytes, orienting: bool) -> bytes:
    """TIFF 6.0, section 2: a list of tags of 12 bytes each, wherever the header says; a shorter one is put at the end.

    The tag of the orientation is a plain number, and always kept.
    """
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    tags = [data[start + 2 + 12 * n : start + 14 + 12 * n] for n in range(count)]
    kept = [tag for tag in tags if struct.unpack_from(f"{order}H", tag)[0] not in _TIFF_METADATA]
    even = data + b"\0" * (len(data) % 2)
    header = even[:4] + struct.pack(f"{order}I", len(even))
    return b"".join([header, even[8:], struct.pack(f"{order}H", len(kept)), *kept, bytes(4)])
