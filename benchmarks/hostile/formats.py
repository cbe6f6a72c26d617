"""Images whose parts can be spoiled one by one: chunks of PNG, segments of JPEG, fields of NIfTI, elements of DICOM."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from spoil import NUMBERS, Chance, spoil_bytes, text

Array = NDArray[Any]
LENGTHS = [0, 1, 3, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def zeros_deflated(size: int, wbits: int = 15) -> bytes:
    """So many zeros, compressed, without ever being there."""
    block = 2**20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    body = one * (size // block) + end
    if wbits == 31:
        return b"\x1f\x8b\x08" + bytes(7) + body + struct.pack("<II", 0, size % 2**32)
    return (b"\x78\x9c" + body + struct.pack(">I", 1)) if wbits == 15 else body


# PNG


def png(pixels: Array, mode: str = "L") -> bytes:
    """Encode; `pixels` are (rows, columns[, channels])."""
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    elif mode != image.mode and mode != "I;16":
        image = image.convert(mode)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def spoil_png(content: bytes, chance: Chance, what: list[str]) -> bytes:
    """Return a chunk with another length, type, sum, content or place."""
    chunks, position = [], 8
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunks.append([content[position + 4 : position + 8], content[position + 8 : position + 8 + length], None, None])
        position += 12 + length
    k, way = chance.randrange(len(chunks)), chance.randrange(9)
    what.append(f"PNG: way {way} at {chunks[k][0]!r}")
    if way == 0:
        chunks[k][2] = chance.choice([*LENGTHS, len(chunks[k][1]) + 1, max(0, len(chunks[k][1]) - 1)])
    elif way == 1:
        chunks[k][3] = 0
    elif way == 2:
        del chunks[k]
    elif way == 3:
        chunks.insert(chance.randrange(len(chunks)), list(chunks[k]))
    elif way == 4:
        chunks[k][0] = chance.choice([b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"iCCP", b"\0\0\0\0"])
    elif way == 5:
        chunks[k][1] = spoil_bytes(chunks[k][1], chance, what)
    elif way == 6:  # size, depth, colour, compression, filter, interlace
        head = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = chance.randrange(7)
        head[field] = chance.choice(
            [0, 1, 2, 3, 16, 255] if field > 1 else [0, 1, 9, 30_000, 100_000, 2**31 - 1, 2**32 - 1]
        )
        chunks[0][1] = struct.pack(">IIBBBBB", *head)
    elif way == 7:
        side = chance.choice([25_000, 100_000])
        chunks[0][1] = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = zeros_deflated(2**28)
        chunks = [chunks[0], [b"IDAT", data, None, None], [b"IEND", b"", None, None]]
    else:
        bomb = b"Comment\0\0" + zeros_deflated(2**28)
        chunks.insert(1, [chance.choice([b"zTXt", b"iCCP"]), bomb, None, None])
    return content[:8] + b"".join(
        struct.pack(">I", len(data) if length is None else length)
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
        for kind, data, length, crc in chunks
    )


# JPEG


def jpeg(pixels: Array, mode: str = "L", orientation: int = 1, **how: Any) -> bytes:
    """Encode, with an EXIF orientation."""
    image = Image.fromarray(pixels)
    image = image if image.mode == mode else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95, exif=exif, **how)
    return content.getvalue()


def spoil_jpeg(content: bytes, chance: Chance, what: list[str]) -> bytes:
    """Return a segment with another length, marker, content or place; sizes."""
    segments, position = [], 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker, (length,) = content[position + 1], struct.unpack(">H", content[position + 2 : position + 4])
        segments.append([marker, content[position + 4 : position + 2 + length], None])
        position += 2 + length
        if marker == 0xDA:
            break
    k, way = chance.randrange(len(segments)), chance.randrange(6)
    what.append(f"JPEG: way {way} at marker {segments[k][0]:#x}")
    if way == 0:
        segments[k][2] = chance.choice([0, 1, 2, 65535, len(segments[k][1])])
    elif way == 1:
        del segments[k]
    elif way == 2:
        segments.insert(chance.randrange(len(segments)), list(segments[k]))
    elif way == 3:
        segments[k][0] = chance.choice([0xC0, 0xC2, 0xC4, 0xDB, 0xDD, 0xE1, 0xFE, 0xC9])
    elif way == 4:
        segments[k][1] = spoil_bytes(segments[k][1], chance, what)
    else:
        for segment in segments:
            if segment[0] in (0xC0, 0xC2):
                sides = [chance.choice([0, 1, 7, 255, 30_000, 65_535]) for _ in range(2)]
                segment[1] = segment[1][:1] + struct.pack(">HH", *sides) + segment[1][5:]
    return (
        content[:2]
        + b"".join(
            bytes([0xFF, marker]) + struct.pack(">H", (len(data) + 2 if length is None else length) % 65536) + data
            for marker, data, length in segments
        )
        + content[position:]
    )


# NIfTI

NIFTI = {
    **{"sizeof_hdr": (0, "<i"), "dim": (40, "<8h"), "datatype": (70, "<h"), "bitpix": (72, "<h")},
    **{"pixdim": (76, "<8f"), "vox_offset": (108, "<f"), "scl_slope": (112, "<f"), "scl_inter": (116, "<f")},
    **{"qform_code": (252, "<h"), "sform_code": (254, "<h"), "quatern": (256, "<6f"), "srow_x": (280, "<4f")},
    **{"srow_y": (296, "<4f"), "srow_z": (312, "<4f"), "magic": (344, "<4b"), "extension": (348, "<4b")},
}
"""Where fields stand, and of what they are."""


def nifti(voxels: Array, affine: Array, packed: bool) -> bytes:
    """Return a file, compressed or not."""
    import nibabel as nib

    content: bytes = nib.Nifti1Image(voxels, affine).to_bytes()
    return gzip.compress(content, 1, mtime=0) if packed else content


def spoil_nifti(content: bytes, chance: Chance, what: list[str]) -> bytes:
    """Fields of the header; how it is compressed."""
    packed = content.startswith(b"\x1f\x8b")
    if packed:
        way = chance.randrange(6)
        if way < 3:
            what.append(f"gzip: way {way}")
            half = len(content) // 2
            body = gzip.decompress(content)
            if way == 0:
                return content[: -chance.choice([1, 4, 8])] + bytes(chance.choice([0, 4, 8]))
            if way == 1:
                return gzip.compress(body[:half], mtime=0) + gzip.compress(body[half:], mtime=0)[: chance.randrange(40)]
            head = bytearray(body[:352])
            struct.pack_into("<8h", head, 40, 3, 2048, 1024, 1024, 1, 1, 1, 1)
            struct.pack_into("<hh", head, 70, 2, 8)
            return gzip.compress(bytes(head), mtime=0) + zeros_deflated(2**31, 31)
        content = gzip.decompress(content)
    spoiled = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 4])):
        name = chance.choice(list(NIFTI))
        offset, form = NIFTI[name]
        values = list(struct.unpack_from(form, spoiled, offset))
        k = chance.randrange(len(values))
        if form[-1] == "f":
            values[k] = chance.choice([0, -1, 1e-30, 1e30, -0.0, float("nan"), float("inf"), 352, 1e9, values[k]])
        else:
            most = {"h": 2**15 - 1, "i": 2**31 - 1, "b": 127}[form[-1]]
            values[k] = chance.choice([0, -1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2304, most, -most]) % (
                most + 1
            )
            values[k] *= chance.choice([1, 1, 1, -1])
        struct.pack_into(form, spoiled, offset, *values)
        what.append(f"NIfTI: {name}[{k}] = {values[k]}")
    if chance.random() < 0.2:
        struct.pack_into(
            "<hh", spoiled, 70, *chance.choice([(128, 24), (2304, 32), (32, 64), (1, 1), (1536, 128), (768, 32)])
        )
        what.append("NIfTI: another type")
    return gzip.compress(bytes(spoiled), 1, mtime=0) if packed else bytes(spoiled)


# DICOM

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG_BASELINE, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"
LONG = {"OB", "OW", "OF", "SQ", "UT", "UN", "OD"}
NUMBER = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d"}


@dataclass(frozen=True)
class Element:
    """Of a DICOM file; a length may be lied about."""

    tag: tuple[int, int]
    vr: str
    value: bytes
    length: int | None = None

    def encode(self, implicit: bool = False) -> bytes:
        """As it stands in the file."""
        length = len(self.value) if self.length is None else self.length
        head = struct.pack("<HH", *self.tag)
        if implicit:
            return head + struct.pack("<I", length % 2**32) + self.value
        if self.vr in LONG:
            return head + self.vr.encode() + bytes(2) + struct.pack("<I", length % 2**32) + self.value
        return head + self.vr.encode() + struct.pack("<H", length % 65536) + self.value


def element(tag: int, vr: str, value: Any) -> Element:
    """From plain values."""
    if isinstance(value, bytes):
        content = value
    elif vr in NUMBER:
        content = struct.pack(NUMBER[vr], value)
    else:
        content = "\\".join(map(str, value if isinstance(value, list) else [value])).encode()
    content += (b"\0" if vr in ("UI", "OB") else b" ") * (len(content) % 2)
    return Element((tag >> 16, tag & 0xFFFF), vr, content)


def dicom(elements: Sequence[Element], syntax: str = EXPLICIT, preamble: bool = True) -> bytes:
    """Return a file of elements in any order."""
    meta = [element(0x00020001, "OB", b"\0\1"), element(0x00020010, "UI", syntax)]
    head = b"".join(one.encode() for one in meta)
    group = element(0x00020000, "UL", len(head)).encode()
    body = b"".join(one.encode(syntax == IMPLICIT) for one in elements)
    return (bytes(128) + b"DICM" if preamble else b"") + group + head + body


def picture(pixels: Array, number: int = 1, frames: int = 1, **own: Any) -> list[Element]:
    """Elements of one image; `pixels` are ([frames, ]rows, columns[, 3]), 8 or 16 bits."""
    colour = pixels.ndim == 3 + (frames > 1)
    rows, columns = pixels.shape[1:3] if frames > 1 else pixels.shape[:2]
    bits = 8 * pixels.itemsize
    values: dict[int, tuple[str, Any]] = {
        0x00080008: ("CS", ["ORIGINAL", "PRIMARY", "AXIAL"]),
        0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.2" if frames == 1 else "1.2.840.10008.5.1.4.1.1.7.2"),
        0x00080018: ("UI", f"1.2.3.4.{number}"),
        0x00080060: ("CS", "CT"),
        0x00100010: ("PN", "Doe^Jane"),
        0x00100020: ("LO", "P1"),
        0x0020000D: ("UI", "1.2.3"),
        0x0020000E: ("UI", "1.2.3.4"),
        0x00200013: ("IS", number),
        **({0x00280008: ("IS", frames)} if frames > 1 else {}),
        **(
            {}
            if frames > 1
            else {0x00200032: ("DS", [-10.5, 4.0, 2.5 * number]), 0x00200037: ("DS", [1, 0, 0, 0, 1, 0])}
        ),
        0x00280002: ("US", 3 if colour else 1),
        0x00280004: ("CS", "RGB" if colour else "MONOCHROME2"),
        **({0x00280006: ("US", 0)} if colour else {}),
        0x00280010: ("US", rows),
        0x00280011: ("US", columns),
        0x00280030: ("DS", [0.5, 0.75]),
        0x00280100: ("US", bits),
        0x00280101: ("US", bits),
        0x00280102: ("US", bits - 1),
        0x00280103: ("US", int(pixels.dtype.kind == "i")),
        0x00281052: ("DS", -5),
        0x00281053: ("DS", 2),
        0x7FE00010: ("OB" if bits == 8 else "OW", pixels.tobytes()),
    }
    if colour:
        del values[0x00281052], values[0x00281053]
    values |= {int(tag[1:], 16): value for tag, value in own.items()}
    return [element(tag, *value) for tag, value in sorted(values.items())]


def encapsulated(frames: Sequence[bytes]) -> Element:
    """Compressed frames as pixel data."""
    items = [b"", *frames]
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(f) + len(f) % 2) + f + bytes(len(f) % 2) for f in items)
    return Element((0x7FE0, 0x0010), "OB", body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), 2**32 - 1)


def spoil_elements(elements: Sequence[Element], chance: Chance, what: list[str]) -> list[Element]:
    """Elements with other values, VRs and lengths, gone, twice, in another order, nested."""
    elements = list(elements)
    for _ in range(chance.choice([1, 1, 2, 3])):
        k, way = chance.randrange(len(elements)), chance.randrange(10)
        one = elements[k]
        what.append(f"DICOM: way {way} at {one.tag[0]:04x},{one.tag[1]:04x}")
        if way < 3 and one.vr in NUMBER:
            number = chance.choice([0, 1, 2, 3, 7, 8, 12, 16, 17, 32, 64, 255, 256, 4096, 65535])
            elements[k] = replace(one, value=struct.pack(NUMBER[one.vr], number))
        elif way < 3:
            values = [
                chance.choice([*map(str, NUMBERS), text(chance)[:1000]]) for _ in range(chance.choice([1, 1, 2, 6]))
            ]
            encoded = "\\".join(values).encode(chance.choice(["utf-8", "utf-16-le"]), errors="replace")[:60_000]
            elements[k] = replace(one, value=encoded + b" " * (len(encoded) % 2))
        elif way == 3:
            elements[k] = replace(
                one, vr=chance.choice(["US", "DS", "UI", "SQ", "OB", "OW", "UN", "PN", "FL", "XX", "\0\0"])
            )
        elif way == 4:
            elements[k] = replace(
                one, length=chance.choice([0, 1, len(one.value) + 2, 65535, 2**31, 2**32 - 2, 2**32 - 1])
            )
        elif way == 5:
            del elements[k]
        elif way == 6:
            elements.insert(chance.randrange(len(elements)), one)
        elif way == 7:
            elements[k] = replace(one, value=spoil_bytes(one.value, chance, what))
        elif way == 8:
            chance.shuffle(elements)
        else:
            item = struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1)
            elements[k] = replace(
                one, vr="SQ", value=(item + struct.pack("<HH", *one.tag) + b"SQ\0\0\xff\xff\xff\xff") * 2000
            )
        if not elements:
            break
    return elements


def voxels(array: Array) -> dict[str, Any]:
    """Return what tells arrays apart: shape and values, whatever the type of number, of small ones."""
    values = np.asarray(array, dtype=np.float64) if array.size < 10**7 else array
    return {"shape": list(values.shape), "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}
