"""How much each cell of a feature map stands out (Jeong et al., "Regional deep feature aggregation", equation 1)."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.ops.normalize import l2


def saliency(features: Tensor) -> Tensor:
    """The sum over channels, at unit length over all cells.

    Sums below 0, which networks without a ReLU at their end may give, count as 0: they say that nothing was seen.

    Args:
        features: float ``(C, h, w)``.

    Returns:
        float ``(h, w)``, 0 to 1, squares adding up to 1; all 0 where nothing was seen at all.
    """
    total = checks.shape("features", features, (None, None, None)).sum(dim=0).clamp_min(0)
    return l2(total.reshape(1, -1)).reshape(total.shape)
