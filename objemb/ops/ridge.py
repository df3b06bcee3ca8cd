"""Linear regression with a penalty, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.affine import AffineMap

#: A deviation below this share of a column's greatest value is rounding: such a column counts as constant.
NO_DEVIATION = 1e-6


@torch.no_grad()
def ridge_map(inputs: Tensor, targets: Tensor, strength: float) -> AffineMap:
    """The affine map from inputs to targets with the least squared error and a penalty on its coefficients.

    Ridge regression on standardised inputs (Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal
    problems", 1970): with ``Z``, the inputs less their mean and divided by their deviation, and ``Y``, the targets less
    their mean, the coefficients are ``(Z^T Z + strength N I)^-1 Z^T Y``. The constant is not penalised. Computed in
    float64.

    Args:
        inputs: float ``(N, F)``, N at least 2. A column that does not vary gets coefficients of 0.
        targets: float ``(N, D)``.
        strength: Of the penalty, above 0; as a share of the variance of one standardised column.

    Returns:
        In float32; maps ``(M, F)`` to ``(M, D)``.

    Raises:
        ValueError: Fewer than two rows, shapes that do not go together, values that are not finite, a strength of 0
            or below.
    """
    checks.finite("inputs", checks.shape("inputs", inputs, (None, None)))
    checks.finite("targets", checks.shape("targets", targets, (len(inputs), None)))
    checks.positive("strength", strength)
    if len(inputs) < 2:
        raise ValueError(f"inputs: expected at least 2 rows, found {len(inputs)}")
    rows, wanted = inputs.double(), targets.double()
    mean, middle = rows.mean(dim=0), wanted.mean(dim=0)
    deviation = rows.std(dim=0, correction=0)
    varies = deviation > NO_DEVIATION * rows.abs().amax(dim=0)
    scale = torch.where(varies, deviation, torch.inf)
    standard = (rows - mean) / scale
    penalty = strength * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device)
    coefficients = torch.linalg.solve(standard.T @ standard + penalty, standard.T @ (wanted - middle))
    projection = (coefficients / scale[:, None]).T
    return AffineMap(projection.float(), mean.float(), middle.float())
