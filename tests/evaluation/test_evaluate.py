from __future__ import annotations

import json
from pathlib import Path

import pytest

from objemb.evaluation.evaluate import evaluate
from objemb.evaluation.leakage import fitted_on_evaluation
from objemb.evaluation.protocol import EvaluationSet, read_evaluation_set
from objemb.evaluation.task import make_task
from tests.evaluation.colours import ColourModel, Patches, write_set


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    return read_evaluation_set(write_set(tmp_path))


def test_object_level(data: EvaluationSet) -> None:
    model = ColourModel()
    found = evaluate(model, data, make_task(data, "object"))
    assert found.scores.means["mAP"] == pytest.approx(1.0)
    assert (found.scores.queries, found.scores.skipped) == (2, 0)
    assert found.storage == {"vectors": 6, "vectors_per_image": 2.0, "bytes_per_image": 24.0}
    assert found.localisation is None
    every = evaluate(model, data, make_task(data, "object", all_objects_as_queries=True))
    assert (every.scores.means["P@1"], every.scores.queries) == (1.0, 6)


def test_image_level_with_boxes_says_how_well_they_lie(data: EvaluationSet) -> None:
    task = make_task(data, "image")
    found = evaluate(ColourModel(), data, task, boxes=Patches())
    assert found.storage["vectors_per_image"] == 3
    assert found.localisation is not None
    # the red query finds b.png by a strip of the left patch, the green one a.png and c.png by the right patches
    assert found.localisation.boxes == 3
    assert found.localisation.mean_iou == pytest.approx((0.4 + 1 + 1) / 3)
    assert found.localisation.corloc == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="boxes: expected none at object level"):
        evaluate(ColourModel(), data, make_task(data, "object"), boxes=Patches())


def test_no_true_boxes_no_localisation(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, objects=[]))
    assert evaluate(ColourModel(), data, make_task(data)).localisation is None


def test_problems_are_listed_and_the_rest_is_measured(tmp_path: Path) -> None:
    queries = [
        {"file": "gone.png", "instance": "red"},
        {"file": "q.png", "instance": "violet"},
        {"file": "q.png", "instance": "green"},
        {"file": "q.png", "instance": "green", "box": [0, 0, 11, 11]},
    ]
    data = read_evaluation_set(write_set(tmp_path, queries=queries))
    found = evaluate(ColourModel(), data, make_task(data))
    assert (found.scores.queries, found.scores.skipped) == (1, 3)
    assert [p.partition(":")[0] for p in found.problems] == ["gone.png", "q.png", "queries[1] (q.png, violet)"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, queries=[{"file": "q.png", "instance": "violet"}]))
    written = json.loads(json.dumps(evaluate(ColourModel(), data, make_task(data)).to_json(), allow_nan=False))
    assert written["scores"]["mAP"] is None
    assert written["localisation"] == {"mean_iou": None, "corloc": None, "boxes": 0}
    assert (written["queries"], written["skipped"]) == (0, 1)


def test_fitting_on_the_evaluation_photos_is_noticed(data: EvaluationSet, tmp_path: Path) -> None:
    folder = data.path.parent
    other = tmp_path / "elsewhere"
    fitted = f"12 regions of 3 photos: {other}, {folder / 'a.png'}, {folder}, {folder / 'x.png'}"
    assert fitted_on_evaluation(fitted, data) == [str(folder / "a.png"), str(folder)]
    assert fitted_on_evaluation(str(folder.parent), data) == [str(folder.parent)]
    assert fitted_on_evaluation(f"9 regions of 2 photos: {other}", data) == []
    assert fitted_on_evaluation("", data) == []
