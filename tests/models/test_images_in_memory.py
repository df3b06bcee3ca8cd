"""Images in memory, of every kind, give the pixels that a file of them gives."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from objemb.images import SkippedImage
from objemb.images.inputs import as_photo
from objemb.models import Model, build_model
from objemb.models import stream as stream_module
from objemb.models.stream import as_refs
from objemb.structures import Photo
from tests.models.conftest import SETTINGS

RGB = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
PLANES = torch.from_numpy(RGB.transpose(2, 0, 1).copy())


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        RGB, PLANES, RGB.astype(np.uint16) * 257, RGB / 255, (RGB / 255).astype(np.float32), RGB.astype(np.float64),
        PLANES / 255, PLANES.float(), (PLANES / 255).half(), RGB[:, ::-1][:, ::-1], np.asfortranarray(RGB),
        PLANES.requires_grad_(False), encoded(Image.fromarray(RGB)), bytearray(encoded(Image.fromarray(RGB))),
        memoryview(encoded(Image.fromarray(RGB))), io.BytesIO(encoded(Image.fromarray(RGB))),
        np.dstack([RGB, np.full_like(GREY, 255)]), torch.cat([PLANES, torch.full_like(PLANES[:1], 255)]),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{getattr(image, 'ndim', '')}",
)  # fmt: skip
def test_colour(image: Any) -> None:
    photo = as_photo(image)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert torch.equal(torch.as_tensor(photo.pixels), PLANES)


@pytest.mark.parametrize(
    "image", [GREY, GREY[:, :, None], torch.from_numpy(GREY.copy()), torch.from_numpy(GREY.copy())[None], GREY / 255]
)
def test_grey(image: Any) -> None:
    assert torch.equal(torch.as_tensor(as_photo(image).pixels), torch.from_numpy(GREY.copy()).expand(3, -1, -1))


def test_values_by_hand() -> None:
    assert as_photo(np.array([[True, False]])).pixels[:, 0].T.tolist() == [[255] * 3, [0] * 3]
    assert as_photo(np.array([[0, 1000, 65535]], np.uint16)).pixels[0, 0].tolist() == [0, 4, 255]
    assert as_photo(np.array([[0.0, 0.5, 1.0]])).pixels[0, 0].tolist() == [0, 128, 255]
    # a fifth of the colour and four fifths of white
    alpha = np.array([[[10, 110, 210, 51], [1, 2, 3, 0]]], np.uint8)
    assert as_photo(alpha).pixels[:, 0].T.tolist() == [[206, 226, 246], [255, 255, 255]]
    assert as_photo(np.array([[[100, 51]]], np.uint8)).pixels[:, 0, 0].tolist() == [224] * 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 10, 10), np.uint8), r"expected an array \(H, W, 3\), .* found uint8 \(3, 10, 10\)"),
        (torch.zeros(10, 10, 3), r"expected a tensor \(3, H, W\), .* found torch.float32 \(10, 10, 3\)"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"found uint8 \(2, 9, 9, 3\); model.stream accepts several"),
        (np.zeros((9, 9), np.int64), r"expected uint8, uint16, bool or floats, found int64 \(9, 9\)"),
        (np.array([[-2.5, 2.5]]), r"expected floats from 0 to 1, 255 or 65535, found -2.5 to 2.5; .* normalised"),
    ],
)
def test_messages(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_photo(image)


def test_an_open_file_is_left_as_it_was(tmp_path: Path, model: Model) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RGB)))
    with (tmp_path / "a.png").open("rb") as file:
        file.seek(5)
        found = model.query(file, [(0, 0, 8, 8)], crop="crop")
        assert file.tell() == 5
        assert torch.equal(
            torch.as_tensor(found.vectors), torch.as_tensor(model.query(RGB, [(0, 0, 8, 8)], crop="crop").vectors)
        )


def test_many_images_in_memory(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(RGB)))
    expected = torch.as_tensor(model.describe(RGB).vectors)
    mixed = [Image.fromarray(RGB), RGB, PLANES, io.BytesIO(encoded(Image.fromarray(RGB))), tmp_path / "a.png"]
    found = list(model.stream([*mixed, Photo("mine", PLANES, (12, 16))], batch_size=2))
    assert [f.image for f in found] == ["0", "1", "2", "3", "mine", "a.png"]
    for one in found:
        torch.testing.assert_close(torch.as_tensor(one.vectors), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("sources", "count"),
    [
        (RGB, 1), (GREY, 1), (PLANES, 1), (Image.fromarray(RGB), 1), (encoded(Image.fromarray(RGB)), 1),
        (io.BytesIO(encoded(Image.fromarray(RGB))), 1), (Photo("a", PLANES, (12, 16)), 1), (np.stack([RGB] * 3), 3),
        (torch.stack([PLANES] * 2), 2), (iter([RGB, RGB]), 2), ([], 0), (np.zeros((0, 4, 4, 3), np.uint8), 0),
    ],
)  # fmt: skip
def test_what_is_one_image_and_what_are_many(sources: Any, count: int) -> None:
    assert len(list(as_refs(sources))) == count


def test_what_is_no_image_among_many(model: Model) -> None:
    skipped: list[SkippedImage] = []
    found = list(model.stream([RGB, b"no image", GREY], on_skip=skipped.append))
    assert [f.image for f in found] == ["0", "2"]
    assert [(s.id, s.reason) for s in skipped] == [
        ("1", "expected one of JPEG, PNG, WebP, BMP, TIFF, found no known image")
    ]
    with pytest.raises(TypeError, match=r"sources\[1\]: image: expected a path, .* found int"):
        list(model.stream([RGB, 7]))  # type: ignore[list-item]


def test_what_is_skipped_is_logged_unless_somebody_asks(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        assert list(model.stream(tmp_path)) == []
    assert f"skipped {tmp_path / 'broken.jpg'}: expected one of JPEG" in caplog.text
    caplog.clear()
    list(model.stream(tmp_path, on_skip=lambda skipped: None))
    assert caplog.text == ""


@pytest.fixture
def own() -> Model:
    """A model that a test may break."""
    return build_model(SETTINGS)


@pytest.mark.parametrize(
    "error", [RuntimeError("weights of another shape"), TypeError("no such argument"), KeyError(1)]
)
def test_networks_that_do_not_work_are_not_the_fault_of_photos(
    own: Model, error: Exception, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    skipped: list[SkippedImage] = []
    monkeypatch.setattr(own.describer, "describe", fail)
    with pytest.raises(type(error), match=str(error.args[0])):
        list(own.stream(photos, on_skip=skipped.append))
    assert skipped == []


@pytest.mark.parametrize("error", [RuntimeError("kernel larger than the input"), ValueError("a box outside")])
def test_a_photo_that_the_network_cannot_take_is_skipped(
    own: Model, error: Exception, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = own.describer.describe

    def choosy(batch: Sequence[Photo], *given: Any) -> Any:
        if any(photo.id == "3.png" for photo in batch):
            raise error
        return real(batch, *given)

    skipped: list[SkippedImage] = []
    monkeypatch.setattr(own.describer, "describe", choosy)
    assert [f.image for f in own.stream(photos, on_skip=skipped.append)] == ["0.png", "1.png", "2.png", "4.png"]
    assert [(s.id, s.path) for s in skipped] == [("3.png", str(photos / "3.png"))]
    assert skipped[0].reason == f"cannot be described: {type(error).__name__}: {error}"


def test_a_network_that_breaks_on_the_way_ends_the_run(
    own: Model, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = own.describer.describe, 0

    def breaking(batch: Sequence[Photo], *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("device-side assert")
        return real(batch, *given)

    monkeypatch.setattr(own.describer, "describe", breaking)
    described = own.stream(photos, batch_size=1)
    assert [next(described).image, next(described).image] == ["0.png", "1.png"]
    with pytest.raises(RuntimeError, match="device-side assert"):
        next(described)


def test_batches_are_bounded_by_bytes(own: Model, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = own.describer.describe, []

    def counted(batch: Sequence[Photo], *given: Any) -> Any:
        sizes.append(len(batch))
        return real(batch, *given)

    monkeypatch.setattr(own.describer, "describe", counted)
    monkeypatch.setattr(stream_module, "BATCH_BYTES", 2 * 3 * 80 * 60)
    whole = [torch.as_tensor(f.vectors) for f in own.stream(photos)]
    assert sizes == [2, 2, 1]
    monkeypatch.setattr(stream_module, "BATCH_BYTES", 2**28)
    for one, other in zip(own.stream(photos), whole, strict=True):
        torch.testing.assert_close(torch.as_tensor(one.vectors), other, atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1, 5]
