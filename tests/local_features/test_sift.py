from __future__ import annotations

import numpy as np
import pytest

from objemb.local_features.sift import Sift
from tests.rerank.looking import blobs, photo

pytest.importorskip("cv2")

MINIMAL = {"size": 160, "count": 60}


def test_large_photos_are_reduced_and_small_ones_enlarged_where_that_is_wanted() -> None:
    picture = photo(blobs(1, 120), "a")
    plain = Sift(size=120, count=500).extract([picture])[0]
    reduced = Sift(size=60, count=500).extract([picture])[0]
    assert len(reduced) < len(plain)
    assert reduced.sides.min() > 1.5 * plain.sides.min(), "the finest features are lost"
    np.testing.assert_array_equal(Sift(size=240, count=500).extract([picture])[0].points, plain.points)
    enlarged = Sift(size=240, count=500, enlarge=True).extract([picture])[0]
    assert enlarged.sides.min() < plain.sides.min()
    assert enlarged.scales.max() == 2 * plain.scales.max()


def test_flat_photos_have_no_features() -> None:
    flat = photo(blobs(1, 60) * 0 + 9, "flat")
    (features,) = Sift().extract([flat])
    assert len(features) == 0
    assert features.vectors.shape == (0, 128)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="enlarge: expected true or false"):
        Sift(enlarge="no")  # type: ignore[arg-type]
