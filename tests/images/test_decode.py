from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from objemb.checks import ObjembError
from objemb.images import UnreadableImageError, read_photo
from objemb.images import decode as decode_module
from objemb.images import decoders as decoders_module
from tests.images.samples import SUFFIXES, encode, flat, png, png_chunk, textured, tiff, write


def pixel(data: bytes, row: int = 0, column: int = 0) -> list[int]:
    return read_photo(data).pixels[:, row, column].tolist()


def grey_row(data: bytes) -> list[int]:
    """The first row of an image that must be grey."""
    pixels = torch.as_tensor(read_photo(data).pixels)
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    return pixels[0, 0].tolist()


# --- what a photo is ---


@pytest.mark.parametrize("kind", SUFFIXES)
def test_every_format_gives_rgb_bytes_of_its_own(kind: str, tmp_path: Path) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    path = write(tmp_path / f"a{SUFFIXES[kind]}", encode(Image.new("RGB", (4, 2), (10, 20, 30)), kind, **options))
    photo = read_photo(path, metadata={"price": 3})
    assert (photo.size, photo.scale, photo.id) == ((2, 4), (1.0, 1.0), path.as_posix())
    assert photo.metadata == {"price": 3}
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert photo.pixels[:, 1, 3].tolist() == [10, 20, 30]
    photo.pixels[:] = 1  # writable
    assert read_photo(str(path), id="front").id == "front"


def test_pixels_are_those_of_pillow() -> None:
    image = textured(37, 53)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(torch.as_tensor(read_photo(encode(image, "PNG")).pixels), expected)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    assert read_photo(write(tmp_path / "a.jpg", flat("PNG"))).size == (2, 4)
    assert read_photo(write(tmp_path / "b.gif", flat("BMP"))).size == (2, 4)
    for name in ("c.jpg", "c.png", "c"):
        with pytest.raises(UnreadableImageError, match="expected one of JPEG, PNG, WebP, BMP, TIFF, found GIF"):
            read_photo(write(tmp_path / name, flat("GIF", mode="P", colour=0)))


# --- pixel modes, by hand ---


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(kind: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (0, 100, 255, 0), (10, 110, 210, 51)])
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = torch.as_tensor(read_photo(encode(image, kind, **options)).pixels)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels[:, 0, 1].tolist() == [255, 255, 255]
    # a fifth of the colour and four fifths of white: 2 + 204, 22 + 204, 42 + 204
    assert pixels[:, 0, 2].tolist() == [206, 226, 246]


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(100, 255), (100, 51)])
    assert grey_row(encode(image, "PNG")) == [100, 224]
    assert grey_row(encode(image, "TIFF")) == [100, 224]


def test_premultiplied_alpha_of_tiff() -> None:
    # RGBa (10, 20, 30) with alpha 51 is the colour (50, 100, 150), of which a fifth stays
    tags = {256: 1, 257: 1, 258: 8, 262: 2, 277: 4, 338: 1}
    assert pixel(_with_bits(tiff(tags, bytes([10, 20, 30, 51])), (8, 8, 8, 8))) == [214, 224, 234]


def test_palette() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([1, 2, 3, 40, 50, 60, 0, 100, 200])
    image.putdata([0, 1, 2])
    for data in (encode(image, "PNG"), encode(image, "TIFF"), encode(image, "BMP")):
        assert read_photo(data).pixels[:, 0].T.tolist() == [[1, 2, 3], [40, 50, 60], [0, 100, 200]]
    one_colour = read_photo(encode(image, "PNG", transparency=1)).pixels
    assert one_colour[:, 0].T.tolist() == [[1, 2, 3], [255, 255, 255], [0, 100, 200]]
    each = read_photo(encode(image, "PNG", transparency=bytes([255, 0, 51]))).pixels
    assert each[:, 0].T.tolist() == [[1, 2, 3], [255, 255, 255], [204, 224, 244]]


def test_palette_with_alpha_channel_of_tiff() -> None:
    colours = [0] * 768
    for channel, value in enumerate((10, 110, 210)):
        colours[256 * channel + 1] = value * 257
    data = _with_palette(tiff({256: 2, 257: 1, 258: 8, 262: 3, 277: 2, 338: 2}, bytes([1, 255, 1, 51])), colours)
    assert read_photo(data).pixels[:, 0].T.tolist() == [[10, 110, 210], [206, 226, 246]]


def test_transparent_colours_of_png() -> None:
    assert grey_row(encode(_grey8([7, 9]), "PNG", transparency=9)) == [7, 255]
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (1, 2, 4))
    assert pixel(encode(image, "PNG", transparency=(1, 2, 3)), 0, 0) == [255, 255, 255]
    assert pixel(encode(image, "PNG", transparency=(1, 2, 3)), 0, 1) == [1, 2, 4]
    assert grey_row(encode(_grey16([1000, 65535]), "PNG", transparency=65535)) == [4, 255]
    assert grey_row(encode(_grey16([1000, 40000]), "PNG", transparency=1000)) == [255, 156]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_grey(kind: str) -> None:
    assert grey_row(flat(kind, mode="L", colour=77)) == [77] * 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit(kind: str) -> None:
    image = Image.new("1", (3, 1))
    image.putdata([0, 255, 0])
    assert grey_row(encode(image, kind)) == [0, 255, 0]


@pytest.mark.parametrize(("bits", "byte", "expected"), [(2, 0b00011011, [0, 85, 170, 255]), (4, 0x0F, [0, 255])])
def test_grey_of_less_than_eight_bits(bits: int, byte: int, expected: list[int]) -> None:
    assert grey_row(png(len(expected), 1, bytes([0, byte]), bits=bits, colour=0)) == expected


def test_cmyk() -> None:
    # no ink is white; all magenta takes all green; half black leaves half of the light
    for colour, rgb in [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 0, 0), (255, 0, 255)), ((0, 0, 0, 128), (127,) * 3)]:
        ink = Image.new("CMYK", (16, 16), colour)
        assert pixel(encode(ink, "TIFF")) == list(rgb)
        inverted = encode(ink, "JPEG", quality=100)
        assert b"Adobe" in inverted
        assert pixel(inverted) == pytest.approx(rgb, abs=1)


def test_ycbcr_and_lab() -> None:
    assert pixel(flat("TIFF", mode="YCbCr", colour=(76, 85, 255))) == pytest.approx([255, 0, 0], abs=2)
    # under D50, L, a, b of pure red are 54.3, 80.8, 69.9; the file holds L * 2.55, a + 128, b + 128
    assert pixel(flat("TIFF", mode="LAB", colour=(138, 209, 198))) == pytest.approx([255, 0, 0], abs=6)


SIXTEEN = [0, 128, 129, 1000, 32768, 65535]
SIXTEEN_EXPECTED = [0, 0, 1, 4, 128, 255]  # v / 257, rounded


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    assert grey_row(encode(_grey16(SIXTEEN), "PNG")) == SIXTEEN_EXPECTED
    for compression in ("raw", "tiff_lzw"):
        assert grey_row(encode(_grey16(SIXTEEN), "TIFF", compression=compression)) == SIXTEEN_EXPECTED
    assert grey_row(encode(Image.fromarray(np.array([SIXTEEN], ">u2")), "TIFF")) == SIXTEEN_EXPECTED
    assert grey_row(encode(Image.fromarray(np.array([SIXTEEN], np.int32)), "TIFF")) == SIXTEEN_EXPECTED


def test_sixteen_bit_colour_and_alpha_of_png() -> None:
    assert pixel(png(1, 1, b"\0" + struct.pack(">HHH", 0, 0x8000, 0xFFFF), bits=16, colour=2)) == [0, 128, 255]
    grey_alpha = png(1, 1, b"\0" + struct.pack(">HH", 100 * 257, 51 * 257), bits=16, colour=4)
    assert grey_row(grey_alpha) == [224]


def test_white_is_zero_and_twelve_bits_of_tiff() -> None:
    sixteen = {256: 3, 257: 1, 258: 16, 277: 1}
    row = struct.pack("<HHH", 0, 1000, 65535)
    assert grey_row(tiff({**sixteen, 262: 1}, row)) == [0, 4, 255]
    assert grey_row(tiff({**sixteen, 262: 0}, row)) == [255, 251, 0]
    assert grey_row(tiff({**sixteen, 258: 8, 262: 0}, bytes([0, 4, 255]))) == [255, 251, 0]
    # two values of 12 bits in three bytes: 0x000, 0xFFF
    assert grey_row(tiff({**sixteen, 256: 2, 258: 12, 262: 1}, bytes([0x00, 0x0F, 0xFF]))) == [0, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # of 1
        ([0.0, 2.0, 250.0], [0, 2, 250]),  # of 255
        ([0.0, 2570.0, 65535.0], [0, 10, 255]),  # of 65535
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # from least to greatest
        ([1e6, 3e6, 2e6], [0, 255, 128]),
        ([1e6, 1e6, 1e6], [0, 0, 0]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.nan, 3.0, -1.0], [0, 255, 0]),
        ([0.0, 1.0, np.inf], [0, 255, 255]),
        ([-np.inf, 7.0, np.inf], [0, 7, 255]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_by_their_range(values: list[float], expected: list[int]) -> None:
    assert grey_row(encode(Image.fromarray(np.array([values], np.float32)), "TIFF")) == expected


def test_floats_without_a_finite_value_are_refused() -> None:
    data = encode(Image.fromarray(np.full((1, 3), np.nan, np.float32)), "TIFF")
    with pytest.raises(UnreadableImageError, match="expected finite pixel values, found none"):
        read_photo(data)


def test_large_integers_are_scaled_from_least_to_greatest() -> None:
    values = np.array([[-(2**31), 0, 2**31 - 1]], np.int64).astype(np.int32)
    assert grey_row(encode(Image.fromarray(values), "TIFF")) == [0, 128, 255]


def test_the_first_frame_of_many() -> None:
    first, second = Image.new("RGB", (4, 2), (1, 2, 3)), Image.new("RGB", (4, 2), (9, 9, 9))
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("MPO", {"quality": 100})):
        data = encode(first, kind, save_all=True, append_images=[second], **options)
        assert pixel(data) == pytest.approx([1, 2, 3], abs=1)


# --- what Pillow reads wrongly ---


def _bmp(header: int, alpha_mask: int, rows: bytes) -> bytes:
    """A BMP of 2 x 1 pixels in 32 bits with bit fields, blue first."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha_mask)
    size = len(rows)
    body = struct.pack("<IiiHHIIiiII", header, 2, 1, 1, 32, 3, size, 0, 0, 0, 0)
    body += (masks[:12] if header == 40 else masks).ljust(header - 40, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(body) + size, 0, 0, 14 + len(body)) + body + rows


@pytest.mark.parametrize(("header", "mask"), [(40, 0), (56, 0xFF000000), (108, 0xFF000000), (124, 0xFF000000)])
def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque(header: int, mask: int) -> None:
    pixels = torch.as_tensor(read_photo(_bmp(header, mask, bytes([30, 20, 10, 0, 3, 2, 1, 0]))).pixels)
    assert pixels[:, 0].T.tolist() == [[10, 20, 30], [1, 2, 3]]


def test_a_bmp_with_alpha_is_laid_on_white() -> None:
    pixels = torch.as_tensor(read_photo(_bmp(124, 0xFF000000, bytes([30, 20, 10, 0, 210, 110, 10, 51]))).pixels)
    assert pixels[:, 0].T.tolist() == [[255, 255, 255], [206, 226, 246]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("samples", [3, 4])
def test_planes_of_sixteen_bits_of_tiff(order: str, samples: int) -> None:
    planes = np.array([[[0, 65535]], [[257, 32768]], [[65535, 257 * 7]], [[65535, 65535]]], np.uint16)[:samples]
    tags: dict[int, tuple[int, ...]] = {
        256: (2,), 257: (1,), 258: (16,) * samples, 262: (2,), 277: (samples,), 278: (1,), 284: (2,),
    }  # fmt: skip
    if samples == 4:
        tags[338] = (2,)
    data = _tiff_of(order, tags, [p.astype(f"{order}u2").tobytes() for p in planes])
    assert read_photo(data).pixels[:, 0].T.tolist() == [[0, 1, 255], [255, 128, 7]]


def test_unsigned_integers_of_tiff() -> None:
    tags: dict[int, tuple[int, ...]] = {256: (4,), 257: (1,), 258: (32,), 262: (1,), 277: (1,), 278: (1,), 339: (1,)}
    steps = 2**32 // 255  # 16843009
    row = np.array([0, 85 * steps, 170 * steps, 255 * steps], np.uint32)
    assert grey_row(_tiff_of("<", tags, [row.tobytes()])) == [0, 85, 170, 255]
    assert grey_row(_tiff_of("<", tags, [np.array(SIXTEEN[:4], np.uint32).tobytes()])) == SIXTEEN_EXPECTED[:4]
    del tags[339]  # unsigned is what the specification assumes
    assert grey_row(_tiff_of("<", tags, [row.tobytes()])) == [0, 85, 170, 255]


def test_transparent_colours_of_png_have_the_range_of_its_pixels() -> None:
    grey = png_chunk(b"tRNS", struct.pack(">H", 2))
    assert grey_row(png(4, 1, bytes([0, 0b00011011]), bits=2, colour=0, extra=grey)) == [0, 85, 255, 255]
    assert grey_row(png(2, 1, bytes([0, 0x12]), bits=4, colour=0, extra=grey)) == [17, 255]
    # of 16 bits Pillow keeps the upper eight, and compares them with the lower eight of the colour
    colour = png_chunk(b"tRNS", struct.pack(">HHH", 0x1000, 0x2000, 0x3000))
    row = b"\0" + struct.pack(">6H", 0x1000, 0x2000, 0x3000, 0, 0, 0)
    pixels = read_photo(png(2, 1, row, bits=16, colour=2, extra=colour)).pixels
    assert pixels[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 0]]


# --- orientation ---

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


def _exif(orientation: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = read_photo(encode(_numbered(16), kind, exif=_exif(orientation), **options))
    seen = (torch.as_tensor(photo.pixels)[0, 8::16, 8::16].float() / 40).round().int().tolist()
    assert seen == UPRIGHT[orientation]
    assert photo.size == (16 * len(seen), 16 * len(seen[0]))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_do_not_exist_are_ignored(orientation: int) -> None:
    assert read_photo(encode(_numbered(), "PNG", exif=_exif(orientation))).size == (2, 3)


def test_orientation_of_a_scaled_photo() -> None:
    photo = read_photo(encode(textured(64, 160), "JPEG", exif=_exif(6)), side=20)
    assert photo.size == (160, 64)
    assert photo.pixels.shape == (3, 40, 16)
    assert photo.scale == (0.25, 0.25)


def test_orientation_behind_the_pixels_of_a_png() -> None:
    data = encode(_numbered(), "PNG")
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"eXIf", _exif(6).tobytes()[6:]) + data[end:]
    assert read_photo(late).size == (3, 2)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\3",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
        _exif(6).tobytes()[:-8],
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


# --- scaling down in the decoder ---


@pytest.mark.parametrize(
    ("side", "expected"),
    [(None, (240, 320)), (1000, (240, 320)), (81, (240, 320)), (80, (120, 160)), (40, (60, 80)), (1, (30, 40))],
)
def test_jpeg_is_scaled_but_never_below_twice_the_side(side: int | None, expected: tuple[int, int]) -> None:
    photo = read_photo(encode(textured(240, 320), "JPEG"), side=side)
    assert photo.pixels.shape[1:] == expected
    assert photo.size == (240, 320)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (7, 9), (17, 33), (255, 257)])
@pytest.mark.parametrize("side", [1, 8, 31, 64])
def test_odd_sizes_are_scaled_right(size: tuple[int, int], side: int) -> None:
    photo = read_photo(encode(textured(*size), "JPEG"), side=side)
    assert photo.size == size
    assert max(photo.pixels.shape[1:]) >= min(2 * side, max(size))


@pytest.mark.parametrize(
    ("part", "expected"), [(None, (60, 80)), (400, (60, 80)), (319.5, (120, 160)), (160, (120, 160)), (8, (240, 320))]
)
def test_a_part_that_is_looked_at_alone_keeps_twice_the_side(part: float | None, expected: tuple[int, int]) -> None:
    assert read_photo(encode(textured(240, 320), "JPEG"), side=40, part=part).pixels.shape[1:] == expected


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_jpegs_are_scaled_too(mode: str) -> None:
    assert read_photo(encode(textured(64, 64).convert(mode), "JPEG"), side=8).pixels.shape == (3, 16, 16)


def test_other_formats_come_in_full() -> None:
    assert read_photo(flat("PNG", (64, 64)), side=8).pixels.shape == (3, 64, 64)


# --- limits ---


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_pixel_limit_is_exact(kind: str) -> None:
    data = flat(kind, (20, 10))
    assert read_photo(data, max_pixels=200).size == (10, 20)
    with pytest.raises(UnreadableImageError, match="expected at most 199, found 20 x 10"):
        read_photo(data, max_pixels=199)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_the_pixel_limit_is_ours_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(flat(kind, (20, 10))).size == (10, 20)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_nothing_is_decoded_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for kind in SUFFIXES:
        with pytest.raises(UnreadableImageError, match="too many pixels"):
            read_photo(flat(kind, (20, 10)), max_pixels=100)


def test_too_many_bytes_for_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "BYTES_BESIDE_PIXELS", 500)
    path = write(tmp_path / "a.png", flat("PNG") + bytes(2000))
    assert read_photo(path, max_pixels=1000).size == (2, 4)
    with pytest.raises(UnreadableImageError, match="too many bytes: more than the 1,300"):
        read_photo(path, max_pixels=100)


def test_bytes_after_the_image_do_no_harm() -> None:
    assert read_photo(flat("JPEG") + b"a short film" * 1000).size == (2, 4)


@pytest.mark.parametrize("name", ["side", "part", "max_pixels"])
def test_numbers_that_make_no_sense(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a number above 0, found 0"):
        read_photo(flat(), **{name: 0})


# --- what is in a file beside its pixels ---


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"zTXt", b"XML:com.adobe.xmp\0\0 not packed at all"),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        png_chunk(b"iCCP", b"wide\0\0" + zlib.compress(bytes(3 * 2**20))),
        png_chunk(b"iCCP", b"no end")[:-1] + b"?",
        png_chunk(b"gAMA", b""),
        png_chunk(b"fcTL", b"no frame"),
    ],
)
def test_what_stands_beside_the_pixels_of_a_png_costs_no_photo(chunk: bytes) -> None:
    assert pixel(png(1, 1, b"\0\x0a\x14\x1e", extra=chunk)) == [10, 20, 30]


def test_orientation_in_texts_of_a_png() -> None:
    rows = bytes([0, *[40] * 3, *[80] * 3])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    plain = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    packed = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    exif = _exif(6).tobytes()
    profile = b"\nexif\n%8d\n" % len(exif) + exif.hex().encode()
    raw = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    for chunk in (plain, packed, raw):
        assert read_photo(png(2, 1, rows, extra=chunk)).size == (2, 1)
    assert read_photo(png(2, 1, rows)).size == (1, 2)


def test_many_chunks_of_pixels() -> None:
    data = encode(textured(64, 64), "PNG")
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    packed = data[start + 8 : end - 4]
    parts = b"".join(png_chunk(b"IDAT", packed[i : i + 100]) for i in range(0, len(packed), 100))
    assert torch.equal(
        torch.as_tensor(read_photo(data[:start] + parts + data[end:]).pixels), torch.as_tensor(read_photo(data).pixels)
    )


def _with_scans(count: int) -> bytes:
    """A progressive JPEG with further scans, a few bytes each."""
    data = encode(Image.new("RGB", (32, 32), (10, 20, 30)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_countless_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_photo(_with_scans(80)).size == (32, 32)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    assert reason_of(_with_scans(5000)) == "too many scans: expected a JPEG of at most 100"


def test_scans_of_what_follows_a_jpeg_do_not_count() -> None:
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    assert read_photo(flat("JPEG") + scan * 500).size == (2, 4)
    beside = flat("JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 500 * len(scan)) + 500 * scan
    assert read_photo(beside[:2] + comment + beside[2:]).size == (2, 4)


@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\xff", b"\xff\xe1", b"\xff\xe1\0", b"\xff\xe1\0\0", b"\xff\xd8"])
def test_counting_scans_ends(tail: bytes) -> None:
    assert decoders_module.scans_of(b"\xff\xd8\xff\xda\0\2" + tail) == 1


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({278: 1}, "expected 1000000 strips or tiles for its rows, found 1"),
        ({278: 500}, "expected 2000 strips or tiles for its rows, found 1"),
        ({278: 1000, 284: 2, 262: 2, 277: 3}, "expected 3000 strips or tiles for its rows, found 1"),
        ({259: 4, 258: 1}, "expected at least a bit for each of its 1,000,000 rows, found 210 bytes"),
    ],
)
def test_a_tiff_with_too_little_for_its_rows_is_refused(tags: dict[int, int], message: str) -> None:
    data = tiff({256: 1, 257: 1_000_000, 258: 8, 262: 1, 277: 1, **tags}, bytes(100))
    assert message in reason_of(data)


# --- files that cannot be read ---


def reason_of(source: str | Path | bytes, **options: int) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_photo(source, **options)
    assert isinstance(caught.value, ObjembError)
    return caught.value.reason


def test_reasons(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "gone.jpg") == "file not found"
    assert reason_of(write(tmp_path / "file", b"") / "below.jpg") == "file not found"
    assert reason_of(write(tmp_path / "empty.jpg", b"")) == "empty file"
    (tmp_path / "folder.jpg").mkdir()
    assert reason_of(tmp_path / "folder.jpg") == "expected a file, found a folder"
    assert reason_of(b"") == "empty file"
    assert reason_of(b"hello") == "expected one of JPEG, PNG, WebP, BMP, TIFF, found no known image"
    assert reason_of("nul\0byte.jpg").startswith("cannot read the file: ")
    assert reason_of("lone\ud800surrogate.jpg").startswith("cannot read the file: ")
    assert reason_of("long" * 2000).startswith("cannot read the file: ")


def test_the_message_names_the_file_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"^.*gone\.jpg: file not found$"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(UnreadableImageError, match=r"^front: empty file$"):
        read_photo(b"", id="front")


def test_pipes_and_devices_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = "expected a regular file, found a device, pipe or socket"
    assert reason_of(tmp_path / "pipe.jpg") == expected
    assert reason_of("/dev/zero") == expected


def test_a_file_is_read_in_its_own_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = open

    def watched(*given: Any, **options: Any) -> Any:
        file = real(*given, **options)

        class Watched:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def fileno(self) -> int:
                return int(file.fileno())

            def read(self, count: int) -> bytes | None:
                asked.append(count)
                return answer(file.read(count))

        return Watched()

    answer: Callable[[bytes], bytes | None] = lambda data: data  # noqa: E731
    monkeypatch.setattr("builtins.open", watched)
    path = write(tmp_path / "a.png", flat())
    assert read_photo(path).size == (2, 4)
    assert asked == [len(flat()) + 1], "not the hundreds of megabytes that a file may have"
    answer = lambda data: None  # noqa: E731
    assert reason_of(path) == "cannot read the file: nothing came of it without waiting"

    def short(data: bytes) -> bytes:
        raise MemoryError

    answer = short
    assert reason_of(path) == "cannot read the file: not enough memory"


def test_a_file_that_grows_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(textured(64, 64), "PNG")
    path = write(tmp_path / "a.png", data)
    before = os.stat(write(tmp_path / "before.png", data[:100]))
    monkeypatch.setattr(os, "fstat", lambda number: before)
    monkeypatch.setattr(decode_module, "CHUNK", 1000)
    assert torch.equal(torch.as_tensor(read_photo(path).pixels), torch.as_tensor(read_photo(data).pixels))
    monkeypatch.setattr(decode_module, "BYTES_BESIDE_PIXELS", 0)
    assert (
        reason_of(path, max_pixels=400)
        == "too many bytes: more than the 3,200 that an image within the pixel limit can need"
    )


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", flat())
    path.chmod(0)
    if os.access(path, os.R_OK):  # the administrator may read everything

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    assert reason_of(path) == "no permission to read the file"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        Path(os.fsdecode(raw)).write_bytes(flat())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert read_photo(os.fsdecode(raw)).id.endswith(r"/caf\udce9.png")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_truncated_files(kind: str) -> None:
    data = encode(textured(64, 64), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        assert reason_of(data[: int(share * len(data))])


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels(size: tuple[int, int]) -> None:
    width, height = size
    assert reason_of(png(width, height, b"\0"))
    assert reason_of(tiff({256: width, 257: height, 258: 8, 262: 1, 277: 1}, b"\0"))
    jpeg = bytearray(flat("JPEG", (16, 16)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    assert reason_of(bytes(jpeg))


@pytest.mark.parametrize(
    "error",
    [OSError("bad"), SyntaxError("bad"), ValueError(), struct.error("bad"), IndexError("bad"), KeyError(256),
     MemoryError(), SystemError("bad"), EOFError("bad"), RecursionError("bad"), Image.DecompressionBombError("bad"),
     AssertionError(), ZeroDivisionError("bad"), OverflowError("bad")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_a_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert reason_of(flat("PNG")).startswith("cannot decode PNG: ")


def test_an_interrupt_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_photo(flat("PNG"))


def test_reasons_are_short_and_of_one_line() -> None:
    error = UnreadableImageError("two\nlines and " + 300 * "much more ")
    assert len(error.reason) == 200
    assert "\n" not in error.reason


def test_truncated_photos_are_not_patched_up() -> None:
    read_photo(flat("JPEG"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# --- samples that Pillow cannot write ---


def _tiff_of(order: str, tags: dict[int, tuple[int, ...]], strips: list[bytes]) -> bytes:
    """A TIFF of either byte order; lists of values and the strips stand behind the directory."""
    sizes = [len(strip) for strip in strips]
    tags = {**tags, 273: (0,) * len(strips), 279: tuple(sizes)}
    behind = 8 + 2 + 12 * len(tags) + 4
    lists = sum(4 * len(values) for values in tags.values() if len(values) > 1)
    start = behind + lists
    tags[273] = tuple(start + sum(sizes[:i]) for i in range(len(strips)))
    directory, far = b"", b""
    for tag in sorted(tags):
        values = tags[tag]
        body = struct.pack(f"{order}{len(values)}I", *values)
        place = body if len(values) == 1 else struct.pack(f"{order}I", behind + len(far))
        far += body if len(values) > 1 else b""
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", len(tags)) + directory + b"\0\0\0\0" + far + b"".join(strips)


def _grey8(values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint8))


def _grey16(values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint16))


def _with_bits(data: bytes, bits: tuple[int, ...]) -> bytes:
    """The TIFF with one BitsPerSample value a channel, which stand behind everything else."""
    return _with_array(data, 258, bits)


def _with_palette(data: bytes, colours: list[int]) -> bytes:
    """The TIFF of two channels with a ColorMap."""
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    entries = [data[start + 2 + 12 * i :][:12] for i in range(count)] + [struct.pack("<HHII", 320, 3, 0, 0)]
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    data = data[:start] + struct.pack("<H", count + 1) + b"".join(entries) + b"\0\0\0\0"
    return _with_array(_with_array(data, 320, tuple(colours)), 258, (8, 8))


def _with_array(data: bytes, tag: int, values: tuple[int, ...]) -> bytes:
    out = io.BytesIO(data)
    start = struct.unpack_from("<I", data, 4)[0]
    for index in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * index
        if struct.unpack_from("<H", data, place)[0] == tag:
            out.seek(place)
            inline = struct.pack(f"<{len(values)}H", *values)
            if len(inline) <= 4:
                out.write(struct.pack("<HHI", tag, 3, len(values)) + inline.ljust(4, b"\0"))
                return out.getvalue()
            out.write(struct.pack("<HHII", tag, 3, len(values), len(data)))
            return out.getvalue() + inline
    raise AssertionError(f"no tag {tag}")
