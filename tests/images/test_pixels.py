"""Pixels of every mode, and what Pillow reads wrongly."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.images import UnreadableImageError, read_photo
from tests.images.samples import encode, flat, pixel, png, png_chunk, tiff


def grey_row(data: bytes) -> list[int]:
    """The first row of an image that must be grey."""
    pixels = torch.as_tensor(read_photo(data).pixels)
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    return pixels[0, 0].tolist()


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
