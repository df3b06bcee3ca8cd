"""INRIA Holidays."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb.datasets.benchmarks import MissingFilesError, prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored

NAMES = ["100000", "100001", "100002", "100100", "100101"]


def test_scores_by_hand(tmp_path: Path) -> None:
    write_photos(tmp_path, NAMES)
    data, _ = prepared("holidays", tmp_path)
    assert [e.file for e in data.images] == [f"jpg/{name}.jpg" for name in NAMES]
    assert [q.file for q in data.queries] == ["jpg/100000.jpg", "jpg/100100.jpg"]
    order = [f"jpg/{n}.jpg" for n in ("100000", "100001", "100100", "100002", "100101")]
    found = scored(data, [order, order])
    # without the query itself: the first finds its others at 0 and 2, the second its other at 3
    first, second = ((1 + 1) + (1 / 2 + 2 / 3)) / 4, (0 + 1 / 4) / 2
    assert found.scores.means["mAP"] == pytest.approx((first + second) / 2)
    assert found.scores.means["P@1"] == 0.5


def test_missing_and_odd_photos(tmp_path: Path) -> None:
    with pytest.raises(MissingFilesError, match=r"jpg/: no such folder[\s\S]*INRIA Holidays"):
        prepare("holidays", tmp_path)
    write_photos(tmp_path, ["100000", "100101", "100102", "100200", "100201"])
    with pytest.raises(BadGroundTruthError) as caught:
        prepare("holidays", tmp_path)
    assert "100000.jpg: expected other photos of this group, found none" in str(caught.value)
    assert "100100.jpg: expected the query of this group, found no such photo" in str(caught.value)
    write_photos(tmp_path, ["beach"])
    with pytest.raises(BadGroundTruthError, match=r"beach.jpg: expected a name of six digits"):
        prepare("holidays", tmp_path)
