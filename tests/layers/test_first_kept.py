from __future__ import annotations

import torch

from objemb.layers.first_kept import FirstKept


def test_boxes_by_hand() -> None:
    """The second overlaps the first by 0.8, the third touches none."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10]])
    kept = FirstKept(0.5, 2)(boxes, torch.tensor([0.3, 0.9, 0.5]))
    assert kept.tolist() == [1, 2]
    assert FirstKept(0.85, 1)(boxes, torch.tensor([0.3, 0.9, 0.5])).tolist()[:1] == [1]
