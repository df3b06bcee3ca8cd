from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from objemb.evaluation.average_precision import average_precision
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
    truth = [regions((0, 0, 20, 20), (50, 50, 100, 100)), regions((100, 100, 300, 300))]
    figures = average_precision(truth, truth)
    assert figures == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"), 1.0))


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
    figures = average_precision(found, truth)
    assert figures["AP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert figures["AP"] == pytest.approx(figures["AP50"])
    assert set(figures) == {"AP", "AP50", "AP75", "APlarge"}, "no figure for sizes that no true box has"


def test_a_box_counts_up_to_its_overlap() -> None:
    """An overlap of 0.62 is enough for 0.50, 0.55 and 0.60, three of the ten."""
    figures = average_precision([regions((0, 0, 62, 100), scores=[0.5])], [regions((0, 0, 100, 100))])
    assert figures == pytest.approx({"AP": 0.3, "AP50": 1.0, "AP75": 0.0, "APlarge": 0.3})


def test_labels_count_unless_they_shall_not() -> None:
    truth = [regions((0, 0, 100, 100), (200, 200, 300, 300), labels=[0, 1])]
    found = [regions((0, 0, 100, 100), (200, 200, 300, 300), scores=[0.9, 0.8], labels=[0, 0])]
    assert average_precision(found, truth)["AP50"] == pytest.approx(0.5)
    assert average_precision(found, truth, class_agnostic=True)["AP50"] == pytest.approx(1.0)


def test_boxes_without_a_label() -> None:
    truth = [regions((0, 0, 100, 100), (200, 200, 300, 300), labels=[0, -1])]
    found = [regions((0, 0, 100, 100), scores=[0.9])]
    assert average_precision(found, truth)["AP"] == pytest.approx(1.0)
    assert average_precision(found, truth, class_agnostic=True)["AP"] < 0.6


def test_nothing_is_normal() -> None:
    one, none = regions((0, 0, 100, 100)), regions()
    assert average_precision([], []) == {}
    assert average_precision([one], [none]) == {}
    assert average_precision([none], [one])["AP"] == 0
    assert average_precision([none, one], [none, one])["AP"] == pytest.approx(1.0)
    assert average_precision([one, one], [none, one])["AP"] < 1, "what is found where nothing is counts"


def test_a_limit_of_boxes() -> None:
    truth = [regions((0, 0, 100, 100))]
    found = [regions((200, 0, 300, 100), (0, 0, 100, 100), scores=[0.9, 0.8])]
    assert average_precision(found, truth)["AP"] == pytest.approx(0.5)
    assert average_precision(found, truth, max_detections=1)["AP"] == 0


def test_it_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    average_precision([regions((0, 0, 9, 9))], [regions((0, 0, 9, 9))])
    assert capsys.readouterr() == ("", "")


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = regions((0, 0, 9, 9))
    with pytest.raises(ValueError, match="one of each per photo, found 1 and 2"):
        average_precision([one], [one, one])
    with pytest.raises(ValueError, match=r"found\[0\]: expected a photo of \(20, 30\) pixels"):
        average_precision([one], [Regions.empty((20, 30))])
    with pytest.raises(ValueError, match="max_detections"):
        average_precision([one], [one], max_detections=0)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[train\]'"):
        average_precision([one], [one])
