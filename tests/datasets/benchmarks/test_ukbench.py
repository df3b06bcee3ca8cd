"""UKBench."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb.datasets.benchmarks import prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored

NAMES = [f"ukbench{n:05}" for n in range(8)]


def test_scores_by_hand(tmp_path: Path) -> None:
    write_photos(tmp_path, NAMES, folder="full")
    data, _ = prepared("ukbench", tmp_path)
    files = [f"full/{name}.jpg" for name in NAMES]
    assert [q.file for q in data.queries] == files
    mixed = [files[n] for n in (0, 4, 1, 5, 2, 6, 3, 7)]
    found = scored(data, [files] * 4 + [files, files[::-1], mixed, mixed])
    # the query itself counts: all four; none; all four; two; two
    assert found.scores.means["N-S"] == pytest.approx((4 * 4 + 0 + 4 + 2 + 2) / 8)


def test_an_object_that_is_not_complete(tmp_path: Path) -> None:
    write_photos(tmp_path, [*NAMES[:7], "other"], folder="full")
    with pytest.raises(BadGroundTruthError) as caught:
        prepare("ukbench", tmp_path)
    assert "ukbench00004 to 00007: expected 4 photos of an object, found 3" in str(caught.value)
    assert "other.jpg: expected a name such as ukbench00012, found another" in str(caught.value)
