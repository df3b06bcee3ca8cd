from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from objemb.images import UnreadableImageError, read_photo
from objemb.images import decode as decode_module
from tests.images.samples import SUFFIXES, encode, flat, textured, write

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
