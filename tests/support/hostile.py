"""Files that people, broken devices and attackers send: each must get the right answer or a clear refusal."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin

DAMAGED = frozenset({"truncated", "not_an_image"})
# Every code that a file may get; see `ImageError.reason`.
CODES = DAMAGED | {
    "empty", "too_large", "format", "too_small", "too_many_pixels", "mode", "values", "unreadable",
}  # fmt: skip
NAMES = (
    "../../etc/passwd", "..\\..\\windows\\system32\\a.png", "/etc/shadow", "C:\\boot.ini", "~root/.ssh/id_rsa",
    "nul\x00byte.png", "two\nlines.png", "\x1b[31mred.png", "\u202egnp.exe", "x" * 5000 + ".png", ".", "..", "",
    "<script>alert(1)</script>.png", "'; DROP TABLE images;--.png", "%2e%2e%2fetc%2fpasswd", "CON.png", "{{7*7}}.png",
    "=cmd|' /C calc'!A0.png", "$(reboot).png", "Schraube-Ø-🔩.png", 'quote".png', "trailing/", "\ufeffmark.png",
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """A file and what must come of it.

    Attributes:
        name: what is odd about it, as a file name.
        data: its bytes.
        codes: of the error that it must get; empty where it must be classified.
        is_same: of a good file, whether it shows the plain picture in colour: its label must be the same then.
    """

    name: str
    data: bytes
    codes: frozenset[str] = frozenset()
    is_same: bool = True


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as the bytes of a file."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def picture(side: int = 96, seed: int = 5) -> Image.Image:
    """What the good files of the corpus show: reddish blotches, with the top left corner darker."""
    random = np.random.default_rng(seed)
    blotches = np.kron(random.integers(0, 120, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
    blotches[..., 0] += 120
    blotches[: side // 2, : side // 2] //= 2
    return Image.fromarray(blotches.astype(np.uint8))


def corpus() -> list[Hostile]:
    """The same files each time, with names that differ."""
    return [*_odd_but_good(), *_damaged(), *_not_images(), *_bombs(), *_nonsense_values()]


def mutants(count: int, parents: Sequence[bytes] | None = None, seed: int = 11) -> Iterator[bytes]:
    """Files with a few bytes changed, cut, repeated or taken from another: of `parents`, else of good images."""
    random = np.random.default_rng(seed)
    parents = parents or _small_images()
    for index in range(count):
        child = bytearray(parents[index % len(parents)])
        for _ in range(random.integers(1, 6)):
            start, length = int(random.integers(0, len(child))), int(random.integers(1, 40))
            other = parents[random.integers(0, len(parents))]
            match int(random.integers(0, 5)):
                case 0:
                    child[start] = int(random.integers(0, 256))
                case 1:
                    child[start] ^= 1 << int(random.integers(0, 8))
                case 2:
                    del child[start : start + length]
                case 3:
                    child[start:start] = child[start : start + length] * 3
                case 4:
                    child[start : start + length] = other[start : start + length]
            child = child or bytearray(b"\0")
        yield bytes(child)


def _small_images() -> list[bytes]:
    small = picture(48)
    files = [encode(small, kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")]
    return [*files, encode(small, "TIFF", compression="tiff_lzw"), encode(small.convert("P"), "PNG")]


def _odd_but_good() -> Iterator[Hostile]:
    plain = picture()
    yield Hostile("plain.png", encode(plain, "PNG"))
    yield Hostile("png-called.jpg", encode(plain, "PNG"))
    yield Hostile("plain.bmp", encode(plain, "BMP"))
    yield Hostile("progressive.jpg", encode(plain, "JPEG", progressive=True, quality=95))
    yield Hostile("cmyk.jpg", encode(plain.convert("CMYK"), "JPEG", quality=95))
    yield Hostile("cmyk.tif", encode(plain.convert("CMYK"), "TIFF"))
    yield Hostile("ycbcr.tif", encode(plain.convert("YCbCr"), "TIFF"))
    palette = plain.convert("P", palette=Image.Palette.ADAPTIVE)
    yield Hostile("palette.png", encode(palette, "PNG"))
    yield Hostile("palette-alpha.png", encode(palette, "PNG", transparency=bytes(range(128, 256))))
    opaque = plain.copy()
    opaque.putalpha(200)
    yield Hostile("rgba.png", encode(opaque, "PNG"))
    yield Hostile("animated.gif", encode(plain, "GIF", save_all=True, append_images=[Image.new("RGB", plain.size)] * 9))
    yield Hostile("animated.webp", encode(plain, "WEBP", save_all=True, append_images=[Image.new("RGB", plain.size)]))
    yield Hostile("animated.png", encode(plain, "PNG", save_all=True, append_images=[Image.new("RGB", plain.size)]))
    yield Hostile("pages.tif", encode(plain, "TIFF", save_all=True, append_images=[Image.new("RGB", plain.size)]))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Hostile(f"exif-{orientation}.jpg", encode(plain, "JPEG", exif=exif, quality=95))
    yield Hostile("exif-damaged.png", encode(plain, "PNG", exif=b"Exif\0\0XX*\0rubbish"))
    yield Hostile("colour-profile-damaged.jpg", encode(plain, "JPEG", icc_profile=b"rubbish" * 40, quality=95))
    yield Hostile("png-then-zip.png", encode(plain, "PNG") + b"PK\3\4" + bytes(60) + b"PK\5\6" + bytes(18))
    yield Hostile("jpeg-then-script.jpg", encode(plain, "JPEG", quality=95) + b"<script>alert(1)</script><?php ?>")
    comments = PngImagePlugin.PngInfo()
    comments.add_text("Comment", "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>")
    yield Hostile("entity-in-comment.png", encode(plain, "PNG", pnginfo=comments))
    grey = np.asarray(plain.convert("L"))
    yield Hostile("grey.png", encode(plain.convert("L"), "PNG"), is_same=False)
    yield Hostile("grey-alpha.png", encode(plain.convert("LA"), "PNG"), is_same=False)
    yield Hostile("1-bit.tif", encode(plain.convert("1"), "TIFF"), is_same=False)
    yield Hostile("16-bit.png", encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"), is_same=False)
    yield Hostile("12-bit.tif", encode(Image.fromarray(grey.astype(np.uint16) * 16), "TIFF"), is_same=False)
    yield Hostile("32-bit.tif", encode(Image.fromarray(grey.astype(np.int32)), "TIFF"), is_same=False)
    yield Hostile("float.tif", encode(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), is_same=False)
    deep = (np.asarray(plain).astype(">u2") * 257).tobytes()
    yield Hostile("16-bit-rgb.png", _png(*plain.size, 16, 2, deep))


def _damaged() -> Iterator[Hostile]:
    plain = picture()
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"):
        data = encode(plain, kind)
        for tenths in (1, 5, 9):
            yield Hostile(f"cut-at-{tenths}.{kind.lower()}", data[: len(data) * tenths // 10], DAMAGED)
    yield Hostile("no-pixels.png", _png(96, 96, 8, 2, b""), DAMAGED)
    loop = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    yield Hostile("directory-points-to-itself.tif", loop, DAMAGED)


def _not_images() -> Iterator[Hostile]:
    yield Hostile("empty.png", b"", frozenset({"empty"}))
    for name, data in {
        "zero.png": b"\0",
        "text.png": b"this is not an image",
        "page.html": b"<!doctype html><title>no</title>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "paper.pdf": b"%PDF-1.7\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF",
        "archive.zip": b"PK\3\4" + bytes(100),
        "program.png": b"\x7fELF" + bytes(200),
        "noise.png": np.random.default_rng(3).bytes(5000),
        "magic-alone.png": b"\x89PNG\r\n\x1a\n",
        "magic-then-noise.jpg": b"\xff\xd8\xff\xe0" + np.random.default_rng(4).bytes(3000),
        "script-as-gif.gif": b"GIF89a/*" + b"a" * 300 + b"*/=1;alert(1)",
    }.items():
        yield Hostile(name, data, DAMAGED | {"too_many_pixels"})
    yield Hostile("pixmap.ppm", encode(picture(), "PPM"), frozenset({"format"}))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) (r) file\nshowpage\n"
    yield Hostile("script.eps", script, frozenset({"format"}) | DAMAGED)


def _bombs() -> Iterator[Hostile]:
    too_many = frozenset({"too_many_pixels"})
    for side in (6_000, 20_000, 2**31 - 1):
        codes = too_many if side < 2**31 - 1 else too_many | DAMAGED
        yield Hostile(f"header-{side}.png", _png(side, side, 8, 2, bytes(100)), codes)
    yield Hostile("bomb.png", encode(Image.new("1", (20_000, 20_000)), "PNG", compress_level=1), too_many)
    yield Hostile("ribbon.png", _png(100_000, 40, 8, 0, bytes(100)), too_many)
    jpeg = bytearray(encode(picture(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = b"\xff\xff\xff\xff"
    yield Hostile("header-65535.jpg", bytes(jpeg), too_many)
    text = zlib.compress(bytes(100_000_000), 1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 96, 96, 8, 2, 0, 0, 0)), (b"zTXt", b"Comment\0\0" + text)]
    yield Hostile("comment-bomb.png", _chunks(chunks), DAMAGED)
    yield Hostile("pixels-for-more-rows.png", _png(96, 96, 8, 0, bytes(97 * 96) + bytes(50_000_000)), is_same=False)
    yield Hostile("1x1.png", encode(Image.new("RGB", (1, 1)), "PNG"), frozenset({"too_small"}))
    yield Hostile("0x0.png", _png(0, 0, 8, 2, b""), DAMAGED | {"too_small"})


def _nonsense_values() -> Iterator[Hostile]:
    for bad in (np.nan, np.inf, -np.inf, -1e30):
        values = np.full((96, 96), 0.5, np.float32)
        values[3, 5] = bad
        yield Hostile(f"{bad}.tif", encode(Image.fromarray(values), "TIFF"), frozenset({"values"}))


def _png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    """A PNG file whose header may lie; `pixels` of depth 16 are cut into rows, others are taken as they are."""
    if depth == 16:
        length = len(pixels) // height
        pixels = b"".join(b"\0" + pixels[row * length : (row + 1) * length] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return _chunks([(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 1))])


def _chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in [*chunks, (b"IEND", b"")]
    )
