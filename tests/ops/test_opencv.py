from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from objemb.ops.opencv import best_detector, key_points
from tests.tiny import plain_photo, random_photo

cv2 = pytest.importorskip("cv2")


def blobs(places: list[tuple[int, int]], height: int = 96, width: int = 128) -> torch.Tensor:
    """White discs of radius 6 around pixels ``(x, y)`` on black."""
    y, x = torch.arange(height)[:, None], torch.arange(width)
    inside = torch.stack([(x - cx) ** 2 + (y - cy) ** 2 <= 36 for cx, cy in places]).any(dim=0)
    return (inside * 255).byte().expand(3, height, width).clone()


def test_a_point_in_each_blob() -> None:
    places = [(30, 40), (90, 60), (100, 20)]
    found = key_points(blobs(places), "sift")
    distances = torch.cdist(torch.tensor(places).float() + 0.5, found)  # the middle of a pixel
    assert (distances.amin(dim=1) < 1).all()
    assert found.dtype == torch.float32


def test_nothing_to_see() -> None:
    assert key_points(torch.as_tensor(plain_photo(40, 60, (9, 9, 9)).pixels), "sift").shape == (0, 2)
    assert key_points(torch.as_tensor(random_photo(1, 1).pixels), "sift").shape == (0, 2)
    assert key_points(torch.as_tensor(random_photo(1, 300).pixels), "sift").shape[1] == 2


def test_places_are_in_the_image_and_each_is_there_once() -> None:
    noise = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(0)).byte()
    found = key_points(noise, "sift")
    assert len(found) > 3
    assert (found >= 0).all()
    assert (found <= torch.tensor([70, 50])).all()
    assert len(found.unique(dim=0)) == len(found)
    assert torch.equal(found, key_points(noise, "sift"))


def test_the_hessian_where_opencv_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = blobs([(30, 40)])
    monkeypatch.setattr(cv2, "xfeatures2d", SimpleNamespace(SURF_create=cv2.SIFT_create), raising=False)
    assert best_detector() == "hessian"
    assert torch.equal(key_points(pixels, "hessian"), key_points(pixels, "sift"))

    def left_out() -> None:
        raise cv2.error("not in this build")

    monkeypatch.setattr(cv2, "xfeatures2d", SimpleNamespace(SURF_create=left_out), raising=False)
    assert best_detector() == "sift"
    with pytest.raises(ImportError, match="expected an OpenCV with xfeatures2d and the non-free modules for 'hessian'"):
        key_points(pixels, "hessian")
    monkeypatch.delattr(cv2, "xfeatures2d")
    assert best_detector() == "sift"


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="detector: expected one of 'hessian', 'sift', found 'harris'"):
        key_points(random_photo(8, 8).pixels, "harris")
