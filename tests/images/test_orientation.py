"""Photos are turned as their EXIF orientation says, and broken metadata costs no photo."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.images import read_photo
from tests.images.samples import encode, png_chunk, textured, tiff, turned

#: A 2 x 3 picture whose pixels are numbered 1 2 3 / 4 5 6, seen upright after each orientation.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def _numbered(factor: int = 1) -> Image.Image:
    numbers = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40
    return Image.fromarray(np.kron(numbers, np.ones((factor, factor), np.uint8))).convert("RGB")


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = read_photo(encode(_numbered(16), kind, exif=turned(orientation), **options))
    seen = (torch.as_tensor(photo.pixels)[0, 8::16, 8::16].float() / 40).round().int().tolist()
    assert seen == UPRIGHT[orientation]
    assert photo.size == (16 * len(seen), 16 * len(seen[0]))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_do_not_exist_are_ignored(orientation: int) -> None:
    assert read_photo(encode(_numbered(), "PNG", exif=turned(orientation))).size == (2, 3)


def test_orientation_of_a_scaled_photo() -> None:
    photo = read_photo(encode(textured(64, 160), "JPEG", exif=turned(6)), side=20)
    assert photo.size == (160, 64)
    assert photo.pixels.shape == (3, 40, 16)
    assert photo.scale == (0.25, 0.25)


def test_orientation_behind_the_pixels_of_a_png() -> None:
    data = encode(_numbered(), "PNG")
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"eXIf", turned(6).tobytes()[6:]) + data[end:]
    assert read_photo(late).size == (3, 2)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
        turned(6).tobytes()[:-8],
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_leaves_the_photo_as_it_lies(kind: str, exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(encode(_numbered(8), kind, exif=exif)).size in ((16, 24), (24, 16))


def _exif_entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", tag, kind, count, value) + b"\0\0\0\0"


@pytest.mark.parametrize("tag", [0x0112, 0x011A, 0x0128])
@pytest.mark.parametrize("kind", [0, 2, 3, 5, 7, 13])
@pytest.mark.parametrize("count", [0, 1, 2**32 - 1])
def test_exif_values_of_any_kind_leave_the_photo_readable(tag: int, kind: int, count: int) -> None:
    assert read_photo(encode(_numbered(8), "JPEG", exif=_exif_entry(tag, kind, count, 2**31))).size == (16, 24)


@pytest.mark.parametrize("tag", [330, 700, 34665, 34853])
@pytest.mark.parametrize("value", [0, 8, 2**32 - 1])
def test_broken_metadata_of_tiff_leaves_the_photo_readable(tag: int, value: int) -> None:
    assert read_photo(tiff({256: 4, 257: 2, 258: 8, 262: 1, 277: 1, tag: value}, bytes(8))).size == (2, 4)
