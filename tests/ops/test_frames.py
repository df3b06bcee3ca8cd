from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from objemb.images.decode import read_photo
from objemb.ops.frames import Frame, frame_in
from objemb.structures import SIDEWAYS, Photo


def photo(size: tuple[int, int], orientation: int = 1) -> Photo:
    return Photo("a.jpg", np.zeros((3, 2, 2), np.uint8), size, orientation=orientation)


def test_the_frame_of_the_photo_itself_changes_nothing() -> None:
    frame = frame_in(photo((40, 60)), (40, 60))
    boxes = np.array([[1.0, 2.0, 30.5, 40.0]])
    assert (frame.boxes(boxes) == boxes).all()
    masks = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert (frame.masks(masks) == masks).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", SIDEWAYS)
def test_boxes_and_masks_turn_as_the_pixels_do(orientation: int, kind: str) -> None:
    """A bright object on the file's own pixels lies under its box after the photo was turned."""
    pixels = np.zeros((20, 30), np.uint8)
    shape = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.uint8)  # alike under no turn
    pixels[4:12, 6:22] = np.kron(shape, np.ones((4, 4), np.uint8)) * 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(file, kind, exif=exif)
    seen = read_photo(file.getvalue())
    assert seen.orientation == orientation
    frame = frame_in(seen, (20, 30))
    x1, y1, x2, y2 = (int(v) for v in frame.boxes(np.array([[6.0, 4.0, 22.0, 12.0]]))[0])
    under = seen.pixels[0, y1:y2:4, x1:x2:4] > 0
    assert under.sum() == 4
    assert (seen.pixels[0] > 0).sum() == 4 * 16
    assert (frame.masks(shape[None])[0].astype(bool) == under).all()


def test_a_quarter_to_the_right_by_hand() -> None:
    frame = frame_in(photo((200, 100), 6), (100, 200))
    assert frame.boxes(np.array([[10.0, 20.0, 40.0, 60.0]])).tolist() == [[40, 10, 80, 40]]


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((100, 200), (1000, 2000), [100, 200, 400, 600]),
        ((1000, 2000), (100, 200), [1, 2, 4, 6]),
        ((333, 500), (1000, 1500), [30, 60 * 1000 / 999, 120, 180 * 1000 / 999]),  # 333.3 rounded
    ],
)
def test_scaled_copies_scale_their_boxes(size: tuple[int, int], target: tuple[int, int], expected: list[float]) -> None:
    frame = frame_in(photo(target), size)
    assert frame.boxes(np.array([[10.0, 20.0, 40.0, 60.0]]))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_turned_copy_is_turned_and_scaled() -> None:
    frame = frame_in(photo((4000, 3000), 8), (300, 400))
    assert frame.orientation == 8
    assert frame.boxes(np.array([[0.0, 0.0, 100.0, 30.0]])).tolist() == [[0, 3000, 300, 4000]]


def test_every_way_to_round_a_side_is_a_scaled_copy() -> None:
    for height, width in ((3024, 4032), (1537, 2049), (333, 500)):
        for copy in (64, 100, 225, 333):
            exact = copy * height / width
            for rounded in {int(exact), round(exact), -int(-exact // 1)}:
                assert frame_in(photo((height, width)), (rounded, copy)) == Frame((rounded, copy), (height, width))


@pytest.mark.parametrize(
    ("size", "target", "orientation", "found"),
    [
        ((100, 200), (200, 100), 1, "found 100 x 200$"),  # turned, but by what?
        ((100, 200), (100, 200 + 40), 1, "found 240 x 100$"),  # a crop
        ((1, 1), (100, 200), 1, "found 200 x 100$"),
        ((50, 50), (100, 101), 6, "found 101 x 100, which may have been rotated or not"),
    ],
)
def test_sizes_that_do_not_say_how_are_refused(
    size: tuple[int, int], target: tuple[int, int], orientation: int, found: str
) -> None:
    with pytest.raises(ValueError, match=f"a photo of {size[1]} x {size[0]} pixels, rotated or scaled, " + found):
        frame_in(photo(target, orientation), size)


def test_a_turned_photo_of_exactly_the_size_is_turned_though_nearly_square() -> None:
    assert frame_in(photo((101, 100), 6), (100, 101)).orientation == 6
