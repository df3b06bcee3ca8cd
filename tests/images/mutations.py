"""A folder of good photos with damaged and hostile files among them.

``python -m tests.images.mutations DIR --count 1000 --seed 0`` writes ``count`` files and ``DIR/truth.json``:
``{"good": {name: [height, width]}, "bad": {name: kind}, "mutated": {name: kind}}``. Good ones must come out in this
size, bad ones cannot be decoded, mutated ones may go either way (a flipped bit can spare a photo).
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.images.samples import SUFFIXES, encode, flat, png, textured, tiff, write

#: Shares of the kinds of files.
SHARES = {
    "good": 0.25,
    "truncated": 0.2,
    "flipped": 0.2,
    "overwritten": 0.1,
    "disguised": 0.1,
    "bomb": 0.1,
    "odd": 0.05,
}
#: Modes that each format can hold.
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "LAB", "1", "P", "I;16", "F"),
}


def good_file(rng: np.random.Generator) -> tuple[bytes, str, tuple[int, int]]:
    """Bytes, suffix and upright (height, width) of a photo in any format and mode."""
    height, width = (int(v) for v in rng.integers(20, 90, 2))
    kind = str(rng.choice(list(SUFFIXES)))
    image = textured(height, width, int(rng.integers(1 << 30)))
    options: dict[str, Any] = {}
    if kind == "TIFF":
        options["compression"] = str(rng.choice(["raw", "tiff_lzw", "tiff_deflate", "packbits"]))
    if kind == "JPEG":
        options["progressive"] = bool(rng.integers(2))
    size = (height, width)
    if kind in ("JPEG", "PNG", "WEBP") and rng.integers(3) == 0:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation = int(rng.integers(1, 9))
        size = (width, height) if orientation >= 5 else size
    converted = _convert(image, str(rng.choice(MODES[kind])))
    return encode(converted, kind, **options), SUFFIXES[kind], size


def truncated(data: bytes, rng: np.random.Generator) -> bytes:
    """The first part of a file."""
    return data[: int(rng.integers(0, len(data)))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """One to thirty bits turned, half of the time all of them near the start, where the headers are."""
    changed = bytearray(data)
    end = len(data) if rng.integers(2) else min(len(data), 120)
    for place in rng.integers(0, end, int(rng.integers(1, 30))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwritten(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of noise, zeros or ones over a part of the file, or cut out, or put in."""
    start = int(rng.integers(0, len(data)))
    length = int(rng.integers(1, 64))
    patch = [rng.bytes(length), b"\0" * length, b"\xff" * length, b""][int(rng.integers(4))]
    return data[:start] + patch + data[start + length * int(rng.integers(2)) :]


def disguises() -> dict[str, bytes]:
    """Files of other kinds, which get an image's name."""
    return {
        "gif": flat("GIF", mode="P", colour=0),
        "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF",
        "text": b"this is no photo\n" * 20,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "zip": b"PK\3\4" + bytes(60),
        "ico": flat("ICO", (16, 16)),
        "ppm": flat("PPM"),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\nshowpage\n",
        "empty": b"",
        "zeros": bytes(500),
    }


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that announce billions of pixels, with their suffixes."""
    jpeg = bytearray(flat("JPEG", (16, 16)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    bmp = bytearray(flat("BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    lossless = bytearray(encode(Image.new("RGB", (4, 2)), "WEBP", lossless=True))
    lossless[21:25] = struct.pack("<I", 16383 | 16383 << 14)
    lossy = bytearray(flat("WEBP"))
    lossy[26:30] = struct.pack("<HH", 16383, 16383)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16777214).to_bytes(3, "little") * 2
    rest = bytes(lossy)[12:]
    extended = b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(rest)) + b"WEBP" + canvas + rest
    grey = {262: 1, 258: 8, 277: 1, 259: 1}
    return {
        "jpeg": (bytes(jpeg), ".jpg"),
        "png": (png(60000, 60000, bytes(100)), ".png"),
        "png_honest": (png(40000, 40000, bytes(5001 * 2000), bits=1, colour=0), ".png"),
        "bmp": (bytes(bmp), ".bmp"),
        "webp_lossless": (bytes(lossless), ".webp"),
        "webp_lossy": (bytes(lossy), ".webp"),
        "webp_extended": (extended, ".webp"),
        "tiff": (tiff({256: 60000, 257: 60000, 278: 60000, **grey}, bytes(64)), ".tif"),
        "tiff_tile": (
            tiff({256: 8, 257: 8, 322: 65536, 323: 65536, 324: 8, 325: 64, **grey, 259: 5}, bytes(64)),
            ".tif",
        ),
    }


def write_folder(folder: Path, count: int, seed: int) -> dict[str, dict[str, Any]]:
    """Write ``count`` files of all kinds, some in subfolders.

    Returns:
        What ``truth.json`` holds, which is written too.
    """
    rng = np.random.default_rng(seed)
    truth: dict[str, dict[str, Any]] = {"good": {}, "bad": {}, "mutated": {}}
    mutations: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
        "truncated": truncated, "flipped": flipped, "overwritten": overwritten,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(rng.choice(list(SHARES), count, p=list(SHARES.values()))):
        stem = f"{number % 7}/{number:05d}"
        if kind == "good":
            data, suffix, size = good_file(rng)
            suffix = str(rng.choice(list(SUFFIXES.values()))) if rng.integers(4) == 0 else suffix  # names may lie
            truth["good"][stem + suffix] = list(size)
        elif kind in mutations:
            data, suffix, _ = good_file(rng)
            data = mutations[kind](data, rng)
            truth["mutated"][stem + suffix] = str(kind)
        elif kind == "odd":
            suffix = ".jpg"
            truth["bad"][stem + suffix] = _write_odd(folder / (stem + suffix), number)
            continue
        else:
            files = bombs() if kind == "bomb" else {k: (v, ".png") for k, v in disguises().items()}
            name = str(rng.choice(list(files)))
            data, suffix = files[name]
            truth["bad"][stem + suffix] = f"{kind} {name}"
        write(folder / (stem + suffix), data)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return truth


def _write_odd(path: Path, number: int) -> str:
    """Something that is no regular file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = ("folder", "pipe", "dangling link", "link to itself")[number % 4]
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(f"nowhere {number}" if kind == "dangling link" else path.name)
    return kind


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    return image.convert(mode)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    written = write_folder(given.folder, given.count, given.seed)
    print({kind: len(files) for kind, files in written.items()})
