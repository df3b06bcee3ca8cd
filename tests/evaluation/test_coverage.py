from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from objemb.datasets.evaluation_set import SetEntry, read_evaluation_set
from objemb.evaluation.coverage import cover
from objemb.evaluation.evaluate import evaluate
from objemb.evaluation.report import markdown_table
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from objemb.structures import ImageRows
from tests.evaluation.colours import ColourModel, Patches, write_set
from tests.evaluation.test_scoring import IMAGES, ranking

# photos 0, 2 and 3 show the cup; each has the whole photo and one more region, 3 has no region at all
BOXES = [
    [0, 0, 100, 100],
    [10, 10, 30, 30],
    [0, 0, 100, 100],
    [0, 0, 100, 100],
    [50, 50, 90, 90],
]
DATABASE = ImageRows(
    tuple(entry.file for entry in IMAGES),
    np.eye(5, dtype=np.float32),
    np.array([0, 0, 1, 2, 2]),
    np.array(BOXES, np.float32),
)


def test_by_hand() -> None:
    task = RetrievalTask("image", IMAGES, (SetEntry("q.jpg", ("cup",)), SetEntry("q.jpg", ("tea",))))
    objects = [
        SetEntry("0.jpg", ("cup",), (10, 10, 30, 20)),  # half of a region
        SetEntry("0.jpg", ("cup",), (0, 0, 5, 5)),  # worse: the other counts
        SetEntry("2.jpg", ("cup",), (50, 50, 58, 90)),  # a fifth of a region
        SetEntry("3.jpg", ("cup",), (0, 0, 100, 100)),
    ]
    ranked = [ranking(2, 0, 1, 3), ranking(0, 1, 2, 3)]
    found = cover(task, DATABASE, ranked, {0, 1}, objects)
    assert found.objects == 3
    assert found.recall == pytest.approx(1 / 3)
    assert found.mean_iou == pytest.approx((1 / 2 + 1 / 5 + 0) / 3)
    # photos 2 and 3 left out: the cup of photo 0 is first; the tea has no true box and stays, at rank 1
    assert found.covered_map == pytest.approx((1 + 1 / 4) / 2)
    assert found.queries == 2
    # photo 0 left out: photos 2 and 3 stand at ranks 0 and 2; AP by the trapezoid rule
    assert found.missed_map == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert (found.missed_first, found.missed_queries) == (1.0, 1)
    assert cover(task, DATABASE, ranked, {1}, objects).queries == 1, "the first could not be described"


def test_the_own_photo_of_a_query_does_not_count() -> None:
    task = RetrievalTask("image", IMAGES, (SetEntry("0.jpg", ("cup",)),))
    objects = [SetEntry("0.jpg", ("cup",), (0, 0, 9, 9)), SetEntry("2.jpg", ("cup",), (50, 50, 90, 90))]
    found = cover(task, DATABASE, [ranking(0, 2, 1, 3)], {0}, objects)
    assert (found.objects, found.recall, found.mean_iou) == (1, 1.0, 1.0)


def test_nothing_is_covered() -> None:
    task = RetrievalTask("image", IMAGES[:1], (SetEntry("q.jpg", ("cup",)),))
    rows = ImageRows(("0.jpg",), np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    found = cover(task, rows, [ranking(0, of=1)], {0}, [SetEntry("0.jpg", ("cup",), (0, 0, 9, 9))])
    assert (found.recall, found.objects, found.queries) == (0.0, 1, 0)
    assert math.isnan(found.covered_map)
    assert found.to_json()["covered_mAP"] is None
    assert (found.missed_map, found.missed_queries) == (1.0, 1)


def test_of_an_evaluation(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path))
    task = make_task(data, "image")
    with_boxes, whole = evaluate(ColourModel(), data, task, boxes=Patches()), evaluate(ColourModel(), data, task)
    assert with_boxes.coverage is not None
    assert whole.coverage is not None
    # of the left patch there is a strip of 0.4, and the whole photo, of which it is half; the right patch has a region
    assert with_boxes.coverage.mean_iou == pytest.approx((0.5 + 1 + 1) / 3)
    assert (with_boxes.coverage.recall, with_boxes.coverage.objects) == (1.0, 3)
    assert whole.coverage.mean_iou == pytest.approx(0.5)
    assert with_boxes.coverage.covered_map == pytest.approx(with_boxes.scores.means["mAP"])
    table = markdown_table([{"method": "m", **with_boxes.to_json()}])
    assert "box recall" in table
    assert "100.0" in table
    assert evaluate(ColourModel(), data, make_task(data, "object")).coverage is None
