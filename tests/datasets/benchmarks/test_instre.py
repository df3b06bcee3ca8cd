"""INSTRE: where numbers count from 1, and boxes may be written in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.datasets.benchmarks import prepare
from objemb.datasets.benchmarks._problems import BadGroundTruthError
from tests.datasets.benchmarks.miniature import prepared, write_photos
from tests.datasets.benchmarks.scoring import scored

scipy_io = pytest.importorskip("scipy.io")

IMAGES = ["INSTRE-S1/01a_cup/002", "INSTRE-S1/01b_tea/002", "INSTRE-M/01/001", "INSTRE-M/01/002"]
QUERIES = ["INSTRE-S1/01a_cup/001", "INSTRE-S1/01b_tea/001"]


def write(root: Path, boxes: list[list[float]], positives: tuple[list[int], ...] = ([1, 3], [2, 3])) -> None:
    write_photos(root, [*IMAGES, *QUERIES], folder=".")
    entries = np.zeros(len(QUERIES), dtype=[("ok", object), ("bbx", object)])
    for number, (listed, box) in enumerate(zip(positives, boxes, strict=True)):
        entries[number] = (np.array(listed, np.float64), np.array(box, np.float64))

    def names(of: list[str]) -> Any:
        return np.array([f"{name}.jpg" for name in of], dtype=object)

    data = {"imlist": names(IMAGES), "qimlist": names(QUERIES), "gnd": entries}
    scipy_io.savemat(root / "gnd_instre.mat", data)


def test_scores_by_hand(tmp_path: Path) -> None:
    write(tmp_path, [[20, 10, 39, 25], [0, 0, 40, 30]])
    (tmp_path / "INSTRE-M/01/001.txt").write_text("1 2 10 20\n15 3 20 9\n")
    (tmp_path / "INSTRE-S1/01a_cup/002.txt").write_text("5 5 10 10\n")
    (tmp_path / "INSTRE-S1/01b_tea/002.txt").write_text("nothing here\n")
    data, written = prepared("instre", tmp_path)
    assert (data.protocol.name, data.crop) == ("instre", "crop")
    assert written["queries"][0]["relevant"] == {"positive": ["INSTRE-S1/01a_cup/002.jpg", "INSTRE-M/01/001.jpg"]}
    # 20 + 39 would leave a photo 40 pixels wide: the numbers are corners
    assert [q.box for q in data.queries] == [(20, 10, 39, 25), (0, 0, 40, 30)]
    assert [(o.file, o.instances, o.box) for o in data.objects] == [
        ("INSTRE-S1/01a_cup/002.jpg", ("01a_cup",), (5, 5, 15, 15)),
        ("INSTRE-M/01/001.jpg", ("01a_cup",), (1, 2, 11, 22)),
        ("INSTRE-M/01/001.jpg", ("01b_tea",), (15, 3, 35, 12)),
    ]
    files = [f"{name}.jpg" for name in IMAGES]
    found = scored(data, [[files[n] for n in (0, 1, 2, 3)], [files[n] for n in (3, 2, 0, 1)]])
    first = ((1 + 1) + (1 / 2 + 2 / 3)) / 4  # ranks 0 and 2
    second = ((0 + 1 / 2) + (1 / 3 + 2 / 4)) / 4  # ranks 1 and 3
    assert found.scores.means["mAP"] == pytest.approx((first + second) / 2)


def test_corner_and_size(tmp_path: Path) -> None:
    write(tmp_path, [[20, 10, 15, 18], [0, 0, 40, 30]])  # as corners, the first would be empty
    data, _ = prepared("instre", tmp_path)
    assert [q.box for q in data.queries] == [(20, 10, 35, 28), (0, 0, 40, 30)]


def test_boxes_that_fit_both_ways_are_decided_by_the_files_beside_the_photos(tmp_path: Path) -> None:
    write(tmp_path, [[2, 3, 20, 20], [1, 1, 30, 25]])
    with pytest.raises(BadGroundTruthError, match=r"gnd: bbx: expected boxes that are .* found both possible: 0 and 0"):
        prepare("instre", tmp_path)
    (tmp_path / f"{QUERIES[0]}.txt").write_text("2 3 20 20\n")
    assert prepared("instre", tmp_path)[0].queries[0].box == (2, 3, 22, 23)
    (tmp_path / f"{QUERIES[0]}.txt").write_text("2 3 18 17\n")
    assert prepared("instre", tmp_path)[0].queries[0].box == (2, 3, 20, 20)


def test_boxes_that_fit_neither_way(tmp_path: Path) -> None:
    write(tmp_path, [[2, 3, 99, 20], [1, 1, 30, 25]])
    with pytest.raises(BadGroundTruthError, match="found neither"):
        prepare("instre", tmp_path)


def test_bad_ground_truth_is_named(tmp_path: Path) -> None:
    write(tmp_path, [[0, 0, 40, 30]] * 2, positives=([0, 2], [2]))
    with pytest.raises(
        BadGroundTruthError, match=r"gnd\[0\].*ok: expected numbers from 1 to 4, found 0 \(does it count"
    ):
        prepare("instre", tmp_path)
    write(tmp_path, [[0, 0, 40, 30]] * 2, positives=([1], []))
    (tmp_path / f"{IMAGES[3]}.jpg").unlink()
    with pytest.raises(BadGroundTruthError) as caught:
        prepare("instre", tmp_path)
    assert "imlist[3]: expected a photo, found none at 'INSTRE-M/01/002.jpg'" in str(caught.value)
    assert "gnd[1] (INSTRE-S1/01b_tea/001.jpg): expected at least one image in 'ok', found none" in str(caught.value)
