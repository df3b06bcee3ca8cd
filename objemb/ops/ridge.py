"""Ridge regression in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.affine import AffineMap

#: A column whose standard deviation is below this share of its largest value is taken for constant.
NO_DEVIATION = 1e-6


@torch.no_grad()
def ridge_map(inputs: Tensor, targets: Tensor, strength: float) -> AffineMap:
    """The affine map from inputs to targets with the least squared error and a penalty on its coefficients.

    Ridge regression on standardised inputs (Hoerl and Kennard, "Ridge regression: biased estimation for nonorthogonal
    problems", 1970): with the standardised inputs ``Z`` and the centred targets ``Y``, the coefficients are
    ``(Z^T Z + strength N I)^-1 Z^T Y``. The intercept is not penalised. Computed in float64.

    Args:
        inputs: float ``(N, F)``, N at least 2. The coefficients of a constant column are 0.
        targets: float ``(N, D)``.
        strength: Strength of the penalty, positive, relative to the variance of a standardised column.

    Returns:
        A float32 map from ``(M, F)`` to ``(M, D)``.

    Raises:
        ValueError: There are fewer than two rows, the shapes do not match, values are not finite, or the strength is
            not positive.
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
