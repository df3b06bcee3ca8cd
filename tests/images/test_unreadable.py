"""What is in a file beside its pixels, and files that cannot be read."""

from __future__ import annotations

import os
import re
import struct
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
from tests.images.samples import SUFFIXES, encode, flat, pixel, png, png_chunk, textured, tiff, turned, write

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
    exif = turned(6).tobytes()
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


def test_scans_are_those_of_a_search_from_marker_to_marker() -> None:
    """For any bytes: fill bytes before a marker, lengths that lead into one, markers cut off."""
    marker = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")

    def searched(data: bytes) -> int:
        scans = position = 0
        while scans <= 5 and (found := marker.search(data, position)) is not None:
            code, position = found[1][0], found.end()
            if code == 0xD9:
                break
            scans += code == 0xDA
            if code not in (0x01, 0xD8):
                position += max(2, int.from_bytes(data[position : position + 2], "big"))
        return scans

    random = np.random.default_rng(0)
    parts = [b"\xff", b"\xff", b"\xff\xda\0\2", b"\xff\xff\xda\0", b"\xff\xd8", b"\xff\xd9", b"\xff\xc4\0\3", b"\xff\1"]
    parts += [bytes([value]) for value in (0, 1, 2, 3, 0xD0, 0xDA, 0xFE)]
    found = set()
    for _ in range(2000):
        data = b"".join(parts[number] for number in random.integers(0, len(parts), random.integers(0, 60)))
        assert decoders_module.scans_of(data, 5) == searched(data), data
        found.add(searched(data))
    assert found == {0, 1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({278: 1}, "expected 1000000 strips or tiles for its rows, found 1"),
        ({278: 500}, "expected 2000 strips or tiles for its rows, found 1"),
        ({278: 1000, 284: 2, 262: 2, 277: 3}, "expected 3000 strips or tiles for its rows, found 1"),
        ({259: 4, 258: 1}, "expected at least one bit for each of its 1,000,000 rows, found 210 bytes"),
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
    assert reason_of(path) == "cannot read the file: no data available without waiting"

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
