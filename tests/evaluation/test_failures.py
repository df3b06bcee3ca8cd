from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.datasets.protocols import PROTOCOLS
from objemb.evaluation.evaluate import Evaluation, evaluate
from objemb.evaluation.failures import JUNK, OWN_PHOTO, RIGHT, WRONG, worst_queries
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from tests.evaluation.colours import LEFT, ColourModel, Patches, write_set
from tests.evaluation.colours import RIGHT as RIGHT_BOX

LISTS = {"relevant": {"easy": ["c.png"], "hard": [], "junk": ["b.png"]}}


def measured(data: EvaluationSet, level: str = "image", hits: int = 3) -> tuple[RetrievalTask, Evaluation]:
    task = make_task(data, level)
    boxes = Patches() if level == "image" else None
    return task, evaluate(ColourModel(), data, task, boxes=boxes, hits=hits)  # type: ignore[arg-type]


def test_the_worst_first_with_marks(tmp_path: Path) -> None:
    queries = [
        {"file": "a.png", "instance": "red", "box": list(LEFT)},
        {"file": "a.png", "instance": "green", "box": list(LEFT)},  # finds red instead
        {"file": "a.png", "instance": "violet", "box": list(LEFT)},  # nothing is relevant
    ]
    data = read_evaluation_set(write_set(tmp_path, queries=queries))
    task, found = measured(data)
    worst, best = worst_queries(task, found, data.objects, 5, 3)
    assert (worst.number, best.number) == (1, 0)
    assert (best.average_precision, best.first_rank, best.positives) == (1.0, 0, 1)
    assert [(hit.file, hit.mark) for hit in best.hits] == [("a.png", OWN_PHOTO), ("b.png", RIGHT), ("c.png", WRONG)]
    assert [hit.place for hit in best.hits] == [0, 1, 2]
    assert best.hits[1].box == pytest.approx((0, 0, 8, 20))
    assert best.hits[1].truths == (LEFT,)
    assert best.first_right is None
    assert worst_queries(task, found, data.objects, 1, 3)[0].number == 1
    assert worst_queries(task, found, data.objects, 0, 3) == []


def test_the_first_right_one_is_shown_where_it_is_not_among_the_hits(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path))
    task, found = measured(data)
    (of_red,) = [f for f in worst_queries(task, found, data.objects, 2, 1) if f.query.instances == ("red",)]
    assert [hit.mark for hit in of_red.hits] == [OWN_PHOTO]
    assert of_red.first_right is not None
    assert (of_red.first_right.file, of_red.first_right.place, of_red.first_right.mark) == ("b.png", 1, RIGHT)
    assert of_red.first_right.box == pytest.approx((0, 0, 8, 20))


def test_a_right_image_that_could_not_be_described(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    (tmp_path / "b.png").unlink()
    data = read_evaluation_set(path)
    task, found = measured(data)
    (of_red,) = [f for f in worst_queries(task, found, data.objects, 2, 3) if f.query.instances == ("red",)]
    assert (of_red.average_precision, of_red.first_rank, of_red.positives) == (0.0, None, 1)
    assert of_red.first_right is not None
    assert (of_red.first_right.file, of_red.first_right.box) == ("b.png", None)


def test_junk_of_lists(tmp_path: Path) -> None:
    queries = [{"file": "q.png", "box": None, **LISTS}]
    data = read_evaluation_set(write_set(tmp_path, queries=queries, protocol="revisited"))
    assert data.protocol is PROTOCOLS["revisited"]
    task, found = measured(data)
    (only,) = worst_queries(task, found, data.objects, 5, 3)
    assert {hit.file: hit.mark for hit in only.hits} == {"a.png": WRONG, "b.png": JUNK, "c.png": RIGHT}


def test_object_level(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path))
    task, found = measured(data, "object", hits=6)
    (of_red,) = [f for f in worst_queries(task, found, data.objects, 2, 6) if f.query.instances == ("red",)]
    assert [(hit.file, hit.mark) for hit in of_red.hits[:2]] == [("a.png", OWN_PHOTO), ("b.png", RIGHT)]
    assert [hit.box for hit in of_red.hits if hit.file == "a.png"] == [LEFT, RIGHT_BOX]


def test_no_queries(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, queries=[]))
    task, found = measured(data)
    assert worst_queries(task, replace(found), data.objects, 5, 3) == []
