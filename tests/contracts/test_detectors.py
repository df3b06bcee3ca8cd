"""Every detector keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from tests.contracts.made import PHOTOS, build, every, in_frame


@every("detectors")
class TestDetectors:
    def test_boxes(self, name: str, tmp_path: Path) -> None:
        detector = build("detectors", name, tmp_path)
        found = detector.detect(PHOTOS)
        assert len(found) == len(PHOTOS)
        assert sum(len(f) for f in found) > 0, "expected settings with which something is found"
        for regions, photo in zip(found, PHOTOS, strict=True):
            assert regions.size == photo.size
            assert isinstance(regions.boxes, np.ndarray)
            assert regions.classes in ((), tuple(detector.classes))
            assert in_frame(regions, photo)
            assert regions.scores.tolist() == sorted(regions.scores.tolist(), reverse=True)
            assert (regions.labels >= 0).all()
            if "masks" in regions.extras:
                masks = regions.extras["masks"]
                assert isinstance(masks, np.ndarray)
                assert masks.dtype == np.uint8
                assert masks.ndim == 3
                assert (masks <= 1).all()

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("detectors", name, tmp_path).detect([]) == []

    def test_alone_or_in_a_batch_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        detector = build("detectors", name, tmp_path)
        if isinstance(detector, nn.Module):
            detector.train()
            assert not any(m.training for m in detector.modules()), "a detector stays in eval mode"
        for photo, together in zip(PHOTOS, detector.detect(PHOTOS), strict=True):
            (alone,) = detector.detect([photo])
            assert np.allclose(alone.boxes, together.boxes, atol=0.01 * max(photo.size))
            assert np.allclose(alone.scores, together.scores, atol=1e-3)
