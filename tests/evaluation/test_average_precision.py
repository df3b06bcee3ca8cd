from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from objemb.evaluation.average_precision import coco_average_precision
from objemb.structures import Regions

SIZE = (400, 400)


def regions(*boxes: tuple[float, ...], scores: list[float] | None = None, labels: list[int] | None = None) -> Regions:
    return Regions(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        SIZE,
        scores=None if scores is None else torch.tensor(scores),
        labels=torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels),
    )


def test_all_found_exactly() -> None:
    truth = [regions((0, 0, 20, 20), (50, 50, 100, 100)), regions((100, 100, 300, 300)), regions((0, 0, 400, 400))]
    figures = coco_average_precision(truth, truth)
    sizes = ("AP_under_9", "AP_9_19", "AP_38_75", "AP_over_75")
    assert figures == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", *sizes), 1.0))


def test_precision_by_size_by_hand() -> None:
    """Photos of 400 pixels: 37.5 is where the second class begins, and the fifth at 300.

    Of the smallest class one true box was found, behind a wrong box of that class: a precision of 1/2 at every recall.
    The wrong box is of another class than the largest true box, which so is found without a mistake. A box that fits a
    true one counts with its class, whatever its own: 38 x 30 pixels on 30 x 30 overlap by 0.79, enough for six of ten.
    """
    truth = [regions((0, 0, 37, 37), (50, 0, 350, 400))]
    found = [regions((200, 0, 237, 37), (0, 0, 37, 37), (50, 0, 350, 400), scores=[0.9, 0.8, 0.7])]
    figures = coco_average_precision(found, truth)
    assert figures["AP_under_9"] == pytest.approx(0.5)
    assert figures["AP_over_75"] == pytest.approx(1.0)
    # right and wrong, by falling score: wrong, right, right; precisions 1/2 and 2/3, the best at or beyond each is 2/3
    assert figures["AP"] == pytest.approx(2 / 3)
    assert set(figures) == {"AP", "AP50", "AP75", "AP_under_9", "AP_over_75"}
    wider = coco_average_precision([regions((0, 0, 38, 30), scores=[0.5])], [regions((0, 0, 30, 30))])
    assert wider == pytest.approx({"AP": 0.6, "AP50": 1.0, "AP75": 1.0, "AP_under_9": 0.6})


def test_what_is_found_in_another_size_is_neither_right_nor_wrong() -> None:
    truth = [regions((0, 0, 100, 100), (0, 200, 30, 230))]
    found = [regions((0, 0, 100, 100), (200, 200, 300, 300), (0, 200, 30, 230), scores=[0.9, 0.8, 0.7])]
    figures = coco_average_precision(found, truth)
    assert figures["AP_under_9"] == pytest.approx(1.0), "the wrong box of 100 pixels is of another class"
    assert figures["AP_19_38"] == pytest.approx(1.0), "it comes behind the right one"
    assert figures["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_size_is_that_in_the_photo() -> None:
    """A box of 30 pixels is small in a photo of 400 pixels and large in one of 40."""
    photos = [(400, 100), (30, 40)]
    truth = [Regions(torch.tensor([[0.0, 0, 30, 20]]), size, labels=torch.tensor([0])) for size in photos]
    figures = coco_average_precision([truth[0], Regions.empty(photos[1])], truth)
    assert (figures["AP_under_9"], figures["AP_over_75"]) == pytest.approx((1.0, 0.0))


def test_precision_by_hand() -> None:
    """Right, wrong, right by falling score, with two of three true boxes found.

    Precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3: what is best at or beyond a recall is 1 up to 1/3 and 2/3 up to
    2/3, and 0 beyond. Of the 101 recalls 0, 0.01 ..., 34 are at most 1/3 and 33 more at most 2/3.
    """
    truth = [regions((0, 0, 100, 100), (200, 0, 300, 100)), regions((0, 0, 100, 100))]
    found = [
        regions((0, 0, 100, 100), (0, 200, 100, 300), scores=[0.9, 0.8]),
        regions((0, 0, 100, 100), scores=[0.7]),
    ]
    figures = coco_average_precision(found, truth)
    assert figures["AP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert figures["AP"] == pytest.approx(figures["AP50"])
    assert set(figures) == {"AP", "AP50", "AP75", "AP_19_38"}, "no figure for sizes that no true box has"


def test_a_box_counts_up_to_its_overlap() -> None:
    """An overlap of 0.62 is enough for 0.50, 0.55 and 0.60, three of the ten."""
    figures = coco_average_precision([regions((0, 0, 62, 100), scores=[0.5])], [regions((0, 0, 100, 100))])
    assert figures == pytest.approx({"AP": 0.3, "AP50": 1.0, "AP75": 0.0, "AP_19_38": 0.3})


def test_labels_count_unless_they_shall_not() -> None:
    truth = [regions((0, 0, 100, 100), (200, 200, 300, 300), labels=[0, 1])]
    found = [regions((0, 0, 100, 100), (200, 200, 300, 300), scores=[0.9, 0.8], labels=[0, 0])]
    assert coco_average_precision(found, truth)["AP50"] == pytest.approx(0.5)
    assert coco_average_precision(found, truth, class_agnostic=True)["AP50"] == pytest.approx(1.0)


def test_boxes_without_a_label() -> None:
    truth = [regions((0, 0, 100, 100), (200, 200, 300, 300), labels=[0, -1])]
    found = [regions((0, 0, 100, 100), scores=[0.9])]
    assert coco_average_precision(found, truth)["AP"] == pytest.approx(1.0)
    assert coco_average_precision(found, truth, class_agnostic=True)["AP"] < 0.6


def test_nothing_is_normal() -> None:
    one, none = regions((0, 0, 100, 100)), regions()
    assert coco_average_precision([], []) == {}
    assert coco_average_precision([one], [none]) == {}
    assert coco_average_precision([none], [one])["AP"] == 0
    assert coco_average_precision([none, one], [none, one])["AP"] == pytest.approx(1.0)
    assert coco_average_precision([one, one], [none, one])["AP"] < 1, "what is found where nothing is counts"


def test_a_limit_of_boxes() -> None:
    truth = [regions((0, 0, 100, 100))]
    found = [regions((200, 0, 300, 100), (0, 0, 100, 100), scores=[0.9, 0.8])]
    assert coco_average_precision(found, truth)["AP"] == pytest.approx(0.5)
    assert coco_average_precision(found, truth, max_detections=1)["AP"] == 0


def test_it_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    coco_average_precision([regions((0, 0, 9, 9))], [regions((0, 0, 9, 9))])
    assert capsys.readouterr() == ("", "")


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = regions((0, 0, 9, 9))
    with pytest.raises(ValueError, match="one per photo, found 1 and 2"):
        coco_average_precision([one], [one, one])
    with pytest.raises(ValueError, match=r"detections\[0\]: expected a photo of \(20, 30\) pixels"):
        coco_average_precision([one], [Regions.empty((20, 30))])
    with pytest.raises(ValueError, match="max_detections"):
        coco_average_precision([one], [one], max_detections=0)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[train\]'"):
        coco_average_precision([one], [one])
