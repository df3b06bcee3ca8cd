"""Every extractor of local features keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.checks import NotFittedError
from objemb.structures import LocalFeatures, Photo
from tests.contracts.made import PHOTOS, build, every, minimal
from tests.rerank.looking import blobs, photo

#: Photos that have features, one of them decoded at half of its size.
DETAILED = [
    photo(blobs(1, 120), "a"),
    photo(blobs(2, 90), "b"),
    Photo("scaled down", blobs(3, 100), (200, 200)),
]


def same(first: LocalFeatures, second: LocalFeatures) -> None:
    for name in ("points", "scales", "sides", "vectors", "strengths"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-4, err_msg=name)


@every("local_features")
class TestLocalExtractors:
    def made(self, name: str, folder: Path, **settings: Any) -> Any:
        return build("local_features", name, folder, **settings)

    def test_the_strongest_features_in_original_pixels(self, name: str, tmp_path: Path) -> None:
        extractor = self.made(name, tmp_path)
        for one, features in zip(DETAILED, extractor.extract(DETAILED), strict=True):
            assert 0 < len(features) <= extractor.count
            assert features.size == one.size
            assert features.vectors.shape == (len(features), extractor.dim)
            assert (np.diff(features.strengths) <= 0).all()
            assert features.points.max() > max(one.size) / 2, "not the frame of what was decoded"
            lengths = np.linalg.norm(features.vectors, axis=1)
            np.testing.assert_allclose(lengths, 1, atol=1e-4)

    def test_fewer_are_the_first_of_more(self, name: str, tmp_path: Path) -> None:
        many = self.made(name, tmp_path)
        few = self.made(name, tmp_path, count=3)
        few.load_state_dict(many.state_dict())
        for features, first in zip(many.extract(DETAILED), few.extract(DETAILED), strict=True):
            assert len(first) == min(3, len(features))
            np.testing.assert_allclose(first.strengths, features.strengths[: len(first)], rtol=1e-5)

    def test_photos_of_all_shapes_and_none(self, name: str, tmp_path: Path) -> None:
        extractor = self.made(name, tmp_path)
        assert extractor.extract([]) == []
        for one, features in zip(PHOTOS, extractor.extract(PHOTOS), strict=True):
            assert features.size == one.size

    def test_alone_or_in_a_batch(self, name: str, tmp_path: Path) -> None:
        extractor = self.made(name, tmp_path)
        for one, features in zip(DETAILED, extractor.extract(DETAILED), strict=True):
            same(extractor.extract([one])[0], features)

    def test_photos_are_not_edited(self, name: str, tmp_path: Path) -> None:
        before = [torch.as_tensor(p.pixels).clone() for p in DETAILED]
        self.made(name, tmp_path).extract(DETAILED)
        assert all(torch.equal(torch.as_tensor(p.pixels), b) for p, b in zip(DETAILED, before, strict=True))

    def test_a_part_is_as_large_as_in_its_photo(self, name: str, tmp_path: Path) -> None:
        extractor = self.made(name, tmp_path)
        size = extractor.size
        part = extractor.for_part((30, 50), (60, 100))
        assert (part.size, extractor.size) == (size / 2, size)
        (features,) = part.extract(DETAILED[:1])
        if len(features):
            assert features.scales.max() <= extractor.extract(DETAILED[:1])[0].scales.max() + 1e-6

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = self.made(name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)

    def test_parts_that_have_not_learned(self, name: str, tmp_path: Path) -> None:
        extractor = self.made(name, tmp_path)
        for part in extractor.fitted_parts().values():
            part.count.zero_()
            with pytest.raises(NotFittedError, match="expected a fitted part"):
                extractor.extract(DETAILED)
            part.count.fill_(1)
        with pytest.raises(NotImplementedError, match="found 'nothing'"):
            extractor.samples("nothing", DETAILED)

    @pytest.mark.parametrize("wrong", [{"count": 0}, {"size": -1}])
    def test_wrong_settings(self, name: str, tmp_path: Path, wrong: dict[str, Any]) -> None:
        assert minimal("local_features", name, tmp_path)["name"] == name
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
            self.made(name, tmp_path, **wrong)
