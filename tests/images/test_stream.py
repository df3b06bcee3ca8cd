from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objemb.images import ImageRef, SkippedImage, find_images, read_photo, stream_photos
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
    def read(ref: ImageRef, **_: object) -> ImageRef:
        time.sleep(0.02 if int(ref.id) % 3 == 0 else 0)
        return ref

    monkeypatch.setattr(stream_module, "_read", read)
    refs = [ImageRef(str(n), Path("x")) for n in range(20)]
    assert list(stream_photos(refs, workers=4)) == refs


@WORKERS
def test_metadata_and_options_reach_the_decoder(tmp_path: Path, workers: int) -> None:
    ref = ImageRef("front", write(tmp_path / "a.jpg", encode(textured(64, 64), "JPEG")), {"price": 3})
    (photo,) = stream_photos([ref], workers=workers, side=8)
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

    def slow(ref: ImageRef, **_: object) -> ImageRef:
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
def test_invalid_numbers_are_refused_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stream_photos([], **options)


def _white_pngs(folder: Path, count: int, side: int) -> list[ImageRef]:
    """Files of a few kilobytes that take three bytes a pixel when they are decoded."""
    data = flat("PNG", (side, side), colour=(255, 255, 255))
    return [ImageRef(str(n), write(folder / f"{n}.png", data)) for n in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_reading_ahead_is_bounded_by_bytes(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = _white_pngs(tmp_path, 30, 200)
    decoding = 8 * 200 * 200
    monkeypatch.setattr(stream_module, "WORKER_BYTES", decoding)
    held, most = 0, 0
    lock = threading.Lock()
    real = stream_module.read_photo

    def counted(*given: Any, admit: Any, **options: Any) -> Photo:
        nonlocal held, most

        def admitted(size: int) -> None:
            nonlocal held, most
            admit(size)
            with lock:
                held += 1
                most = max(most, held)

        return real(*given, admit=admitted, **options)

    monkeypatch.setattr(stream_module, "read_photo", counted)
    for number, photo in enumerate(stream_photos(refs, workers=workers, prefetch=30)):
        with lock:
            held -= 1
        assert photo.id == str(number)
    # the photos that wait take 3 of the 8 bytes that a pixel takes in the decoder; one more was just handed out
    assert 1 <= most <= (workers + 1) * 8 // 3 + 1


@pytest.mark.parametrize("workers", [1, 3])
def test_images_larger_than_the_memory_for_them_come_one_by_one(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "WORKER_BYTES", 10)
    refs: list[ImageRef | SkippedImage] = [*_white_pngs(tmp_path, 6, 20)]
    refs.insert(2, ImageRef("gone", tmp_path / "gone.png"))
    refs.insert(4, ImageRef("broken", write(tmp_path / "broken.png", flat("PNG", (40, 40))[:-20])))
    refs.insert(5, SkippedImage("before", "before.png", "skipped before"))
    found = [outcome.id for outcome in stream_photos(refs, workers=workers)]
    assert found == ["0", "1", "gone", "2", "broken", "before", "3", "4", "5"]


def test_closing_ends_threads_that_wait_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "WORKER_BYTES", 10)
    photos = stream_photos(_white_pngs(tmp_path, 20, 50), workers=4)
    next(photos)
    photos.close()
    assert decoders() == []


def test_photos_are_handed_on(folder: Path) -> None:
    photo = read_photo(folder / "00.png")
    first, second = stream_photos([photo, ImageRef("b", folder / "01.png")], workers=2)
    assert first is photo
    assert second.id == "b"


@WORKERS
def test_a_photo_that_memory_does_not_suffice_for_stops_nothing(
    folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stream_module.read_photo

    def short(path: Path, **options: Any) -> Photo:
        if path.name == "00.png":
            raise MemoryError
        return real(path, **options)

    monkeypatch.setattr(stream_module, "read_photo", short)
    first, second = stream_photos([ImageRef(n, folder / f"0{n}.png") for n in "01"], workers=workers)
    assert first == SkippedImage("0", str(folder / "00.png"), "cannot be read: not enough memory")
    assert isinstance(second, Photo)
