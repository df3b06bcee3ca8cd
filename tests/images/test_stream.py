from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objemb.images import ImageRef, SkippedImage, find_images, stream_photos
from objemb.images import stream as stream_module
from objemb.structures import Photo
from tests.images.samples import encode, flat, textured, write

WORKERS = pytest.mark.parametrize("workers", [0, 1, 3])


def decoders() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("objemb-decode")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        write(tmp_path / f"{number:02d}.png", flat(colour=(number, 0, 0)))
    write(tmp_path / "05.png", b"broken")
    (tmp_path / "07.png").unlink()
    (tmp_path / "07.png").mkdir()
    return tmp_path


@WORKERS
def test_photos_and_skipped_come_in_order(folder: Path, workers: int) -> None:
    outcomes = list(stream_photos(find_images([folder]), workers=workers))
    assert [o.id for o in outcomes] == [f"{n:02d}.png" for n in range(12)]
    reasons = {o.id: o.reason for o in outcomes if isinstance(o, SkippedImage)}
    assert reasons == {
        "05.png": "expected one of JPEG, PNG, WebP, BMP, TIFF, found no known image",
        "07.png": "expected a file, found a folder",
    }
    reds = [int(o.pixels[0, 0, 0]) for o in outcomes if isinstance(o, Photo)]
    assert reds == [0, 1, 2, 3, 4, 6, 8, 9, 10, 11]


def test_slow_images_do_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(ref: ImageRef, *_: object) -> ImageRef:
        time.sleep(0.02 if int(ref.id) % 3 == 0 else 0)
        return ref

    monkeypatch.setattr(stream_module, "_read", read)
    refs = [ImageRef(str(n), Path("x")) for n in range(20)]
    assert list(stream_photos(refs, workers=4)) == refs


@WORKERS
def test_metadata_and_options_reach_the_decoder(tmp_path: Path, workers: int) -> None:
    ref = ImageRef("front", write(tmp_path / "a.jpg", encode(textured(64, 64), "JPEG")), {"price": 3})
    (photo,) = stream_photos([ref], workers=workers, side=16)
    assert isinstance(photo, Photo)
    assert (photo.id, photo.metadata["price"], photo.pixels.shape) == ("front", 3, (3, 16, 16))
    (skipped,) = stream_photos([ref], workers=workers, max_pixels=100)
    assert isinstance(skipped, SkippedImage)
    assert skipped.path == str(tmp_path / "a.jpg")
    assert skipped.reason == "too many pixels: expected at most 100, found 64 x 64"


@WORKERS
def test_nothing_in_nothing_out(workers: int) -> None:
    assert list(stream_photos([], workers=workers)) == []


@pytest.mark.parametrize(("workers", "prefetch", "most"), [(0, 16, 1), (1, 1, 2), (2, 4, 5), (8, 3, 4)])
def test_images_are_taken_only_as_they_are_needed(folder: Path, workers: int, prefetch: int, most: int) -> None:
    taken = 0

    def refs() -> Iterator[ImageRef]:
        nonlocal taken
        while True:  # a source without end
            taken += 1
            yield ImageRef(str(taken), folder / "00.png")

    photos = stream_photos(refs(), workers=workers, prefetch=prefetch)
    assert taken == 0
    for used in range(1, 30):
        next(photos)
        assert taken <= used - 1 + most
    photos.close()


def test_closing_early_ends_the_threads(folder: Path) -> None:
    refs = (ImageRef(str(n), folder / "00.png") for n in range(10**9))
    photos = stream_photos(refs, workers=3)
    next(photos)
    assert len(decoders()) > 0
    photos.close()
    assert decoders() == []
    with pytest.raises(StopIteration):
        next(photos)


def test_closing_does_not_wait_for_what_was_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def slow(ref: ImageRef, *_: object) -> ImageRef:
        read.append(ref.id)
        time.sleep(0.01)
        return ref

    monkeypatch.setattr(stream_module, "_read", slow)
    photos = stream_photos((ImageRef(str(n), Path("x")) for n in range(1000)), workers=1, prefetch=500)
    next(photos)
    photos.close()
    assert len(read) < 100


def test_the_threads_end_with_the_images(folder: Path) -> None:
    assert len(list(stream_photos(find_images([folder]), workers=3))) == 12
    assert decoders() == []


@WORKERS
def test_an_interrupt_in_the_loop_ends_the_threads(folder: Path, workers: int) -> None:
    def use() -> None:
        for _ in stream_photos(find_images([folder]), workers=workers, prefetch=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert decoders() == []


@WORKERS
def test_an_error_of_the_source_is_raised_and_ends_the_threads(folder: Path, workers: int) -> None:
    def refs() -> Iterator[ImageRef]:
        yield ImageRef("a", folder / "00.png")
        raise ValueError("the table ends here")

    with pytest.raises(ValueError, match="the table ends here"):
        list(stream_photos(refs(), workers=workers))
    assert decoders() == []


@WORKERS
def test_a_programming_error_is_not_an_unreadable_image(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("wrong argument")

    monkeypatch.setattr(stream_module, "read_photo", fail)
    with pytest.raises(TypeError, match="wrong argument"):
        list(stream_photos([ImageRef("a", Path("a.jpg"))], workers=workers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers: expected 0 or more, found -1"),
        ({"prefetch": 0}, "prefetch: expected a number above 0, found 0"),
        ({"side": 0}, "side: expected a number above 0, found 0"),
        ({"max_pixels": 0}, "max_pixels: expected a number above 0, found 0"),
    ],
)
def test_numbers_that_make_no_sense_are_told_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream_photos([], **options)
