from __future__ import annotations

from pathlib import Path

import pytest
import torch

from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.evaluation.ablation import SOURCES, BestBoxes, boxes_from
from objemb.ops.rmac import rmac_cells
from tests.evaluation.colours import LEFT, RIGHT, Patches, write_set
from tests.tiny import random_photo


@pytest.fixture
def data(tmp_path: Path) -> EvaluationSet:
    return read_evaluation_set(write_set(tmp_path))


def test_true_boxes_of_the_photo(data: EvaluationSet) -> None:
    boxes = boxes_from("ground_truth", data, None)
    assert boxes is not None
    known, unknown = boxes.detect([random_photo(20, 40, id="a.png"), random_photo(20, 40, id="other.png")])
    assert known.boxes.tolist() == [list(map(float, LEFT)), list(map(float, RIGHT))]
    assert (len(unknown), unknown.size) == (0, (20, 40))
    assert boxes.problems == []
    (smaller,) = boxes.detect([random_photo(20, 30, id="a.png")])
    assert smaller.boxes.tolist() == [list(map(float, LEFT))]
    assert boxes.problems == [("a.png", f"expected boxes inside 30 x 20 pixels, found {tuple(map(float, RIGHT))}")]


def test_a_box_of_two_instances_is_one(tmp_path: Path) -> None:
    objects = [{"file": "a.png", "instance": name, "box": list(LEFT)} for name in ("red", "toy")]
    boxes = boxes_from("ground_truth", read_evaluation_set(write_set(tmp_path, objects=objects)), None)
    assert boxes is not None
    assert len(boxes.detect([random_photo(20, 40, id="a.png")])[0]) == 1


def test_grid_and_whole(data: EvaluationSet) -> None:
    photo = random_photo(20, 40)
    grid, whole = (boxes_from(source, data, None) for source in ("grid", "whole"))
    assert grid is not None
    assert whole is not None
    assert torch.equal(torch.as_tensor(grid.detect([photo])[0].boxes), rmac_cells(20, 40, 3, 0.4).float())
    assert len(whole.detect([photo])[0]) == 0
    assert grid.detect([]) == whole.detect([]) == []


def test_the_detector_is_the_own_one(data: EvaluationSet) -> None:
    own = Patches()
    assert boxes_from("detector", data, own) is own  # type: ignore[arg-type]
    assert boxes_from("detector", data, None) is None
    assert SOURCES == ("ground_truth", "detector", "grid", "whole")
    with pytest.raises(ValueError, match="box source"):
        boxes_from("truth", data, None)


def test_a_set_without_objects_has_no_true_boxes(tmp_path: Path) -> None:
    data = read_evaluation_set(write_set(tmp_path, objects=[]))
    with pytest.raises(ValueError, match="expected 'objects' with boxes for ground_truth, found none"):
        boxes_from("ground_truth", data, None)


def test_the_best_of_other_boxes(data: EvaluationSet) -> None:
    photo = random_photo(20, 40, id="a.png")
    both = boxes_from("ground_truth", data, None)
    assert both is not None
    best = BestBoxes(both, 1)
    assert best.detect([photo])[0].boxes.tolist() == [list(map(float, LEFT))]
    assert len(BestBoxes(best, 0).detect([photo])[0]) == 0
    assert len(BestBoxes(best, 5).detect([photo])[0]) == 1
    assert (best.classes, best.decode_side()) == ((), 0)
    with pytest.raises(ValueError, match="most"):
        BestBoxes(best, -1)
