from __future__ import annotations

import numpy as np
import pytest
import torch

from objemb.ops.ridge import ridge_map


def test_two_points_by_hand() -> None:
    """Inputs of mean 0 and deviation 1: Z^T Z = 2, Z^T Y = 4, and a strength of 1 adds 2."""
    inputs, targets = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [4.0]])
    fitted = ridge_map(inputs, targets, 1.0)
    assert fitted.projection.tolist() == [[1.0]]
    assert fitted(torch.tensor([[3.0]])).tolist() == [[5.0]], "2, the mean, and 3 times 1"
    assert ridge_map(inputs, targets, 1e-9)(inputs).flatten().tolist() == pytest.approx([0, 4])


def test_it_is_least_squares_with_rows_for_the_penalty() -> None:
    """Without NumPy's normal equations: rows of sqrt(strength N) I with targets of 0 are the penalty."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(3, [1, 5, 0.2], (20, 3)), rng.normal(-1, 2, (20, 2))
    standard = (inputs - inputs.mean(0)) / inputs.std(0)
    rows = np.concatenate([standard, np.sqrt(0.3 * 20) * np.eye(3)])
    coefficients = np.linalg.lstsq(rows, np.concatenate([targets - targets.mean(0), np.zeros((3, 2))]), rcond=None)[0]
    fitted = ridge_map(torch.from_numpy(inputs), torch.from_numpy(targets), 0.3)
    expected = standard @ coefficients + targets.mean(0)
    np.testing.assert_allclose(fitted(torch.from_numpy(inputs).float()), expected, atol=1e-5)


def test_units_of_a_column_do_not_matter() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 3), torch.randn(12, 2)
    units = torch.tensor([1e-4, 1.0, 1e3])
    found = ridge_map(inputs * units, targets, 0.1)(inputs * units)
    assert torch.allclose(found, ridge_map(inputs, targets, 0.1)(inputs), atol=1e-4)


def test_a_column_that_does_not_vary_counts_nothing() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 3), torch.randn(12, 2)
    inputs[:, 1] = 7.0
    fitted = ridge_map(inputs, targets, 0.1)
    assert not fitted.projection[:, 1].any()
    without = ridge_map(inputs[:, [0, 2]], targets, 0.1)
    assert torch.allclose(fitted.projection[:, [0, 2]], without.projection, atol=1e-6)
    same = ridge_map(torch.zeros(4, 2), torch.full((4, 1), 5.0), 0.1)
    assert same(torch.ones(1, 2)).tolist() == [[5.0]], "nothing varies: the mean is all that is known"


@pytest.mark.parametrize(
    ("inputs", "targets", "strength", "message"),
    [
        (torch.zeros(1, 2), torch.zeros(1, 1), 1.0, "inputs: expected at least 2 rows, found 1"),
        (torch.zeros(3, 2), torch.zeros(2, 1), 1.0, r"targets: expected shape \(3, any\)"),
        (torch.zeros(3), torch.zeros(3, 1), 1.0, "inputs: expected shape"),
        (torch.full((3, 2), float("nan")), torch.zeros(3, 1), 1.0, "inputs: expected finite"),
        (torch.zeros(3, 2), torch.full((3, 1), float("inf")), 1.0, "targets: expected finite"),
        (torch.zeros(3, 2), torch.zeros(3, 1), 0.0, "strength: expected a number above 0, found 0"),
    ],
)
def test_mistakes_are_named(inputs: torch.Tensor, targets: torch.Tensor, strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ridge_map(inputs, targets, strength)
