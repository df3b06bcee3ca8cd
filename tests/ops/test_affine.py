from __future__ import annotations

import pytest
import torch

from objemb.ops.affine import AffineMap

PROJECTION = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
MEAN = torch.tensor([1.0, 0.0, 2.0])
BIAS = torch.tensor([0.5, 3.0])
VECTORS = torch.tensor([[1.0, 4.0, 2.0], [3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("map_", "expected"),
    [
        (AffineMap(PROJECTION), [[4, -4], [6, -1], [0, 0]]),
        (AffineMap(PROJECTION, MEAN), [[0, -4], [2, -1], [0, 0]]),
        (AffineMap(PROJECTION, bias=BIAS), [[4.5, -1], [6.5, 2], [0, 0]]),
        (AffineMap(PROJECTION, MEAN, BIAS), [[0.5, -1], [2.5, 2], [0, 0]]),
    ],
)
def test_by_hand(map_: AffineMap, expected: list[list[float]]) -> None:
    assert map_(VECTORS).tolist() == expected  # a row of zeros stays one
    weight, bias = map_.weight_and_bias()
    assert (VECTORS[:2] @ weight.T + bias).tolist() == expected[:2]
    unit = map_.unit(VECTORS)
    first = torch.tensor(expected[0], dtype=torch.float32)
    assert torch.allclose(unit[0] * first.norm(), first)
    assert unit[2].tolist() == [0, 0]


def test_no_vectors() -> None:
    assert AffineMap(PROJECTION, MEAN)(VECTORS[:0]).shape == (0, 2)
    assert AffineMap(PROJECTION, MEAN).unit(VECTORS[:0]).shape == (0, 2)


def test_gradients_reach_the_tensors_of_whoever_keeps_them() -> None:
    weight, bias = PROJECTION.clone().requires_grad_(), BIAS.clone().requires_grad_()
    AffineMap(weight, bias=bias)(VECTORS).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, VECTORS.sum(dim=0).expand(2, 3))
    assert bias.grad is not None
    assert bias.grad.tolist() == [2, 2]  # zeros hold no evidence


def test_refuses_vectors_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 3\), found \(2, 4\)"):
        AffineMap(PROJECTION)(torch.zeros(2, 4))
