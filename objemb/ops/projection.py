"""PCA as a trainable layer: a shift and a fully connected layer that start from a whitening."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.ops.fitted import Fitted
from objemb.ops.whitening import Whitening


class Projection(Fitted):
    """``W v + b``, which starts as PCA whitening: ``W = diag(lambda ** -power) U^T`` and ``b = -W mean``.

    The layers that Gordo et al., "Deep image retrieval", ECCV 2016, section 3, put in the place of the whitening of
    R-MAC, so that it can be learned together with all below it. Rows of zeros stay zeros: they hold no evidence.

    Args:
        input_dim: Length of the vectors that come in.
        dim: Length of the vectors that go out.
        power: Of the variances, see :class:`objemb.ops.whitening.Whitening`.

    Attributes:
        weight: float32 ``(dim, input_dim)``; requires a gradient, like ``bias``.
        bias: float32 ``(dim,)``.

    Raises:
        ValueError: ``dim`` above ``input_dim``, or ``power`` out of range.
    """

    def __init__(self, input_dim: int, dim: int, power: float = 0.5) -> None:
        super().__init__()
        if checks.whole("dim", dim) > input_dim:
            raise ValueError(f"dim: expected at most the length of the vectors ({input_dim}), found {dim}")
        self.power = checks.between("power", power, 0, 1)
        self.weight = nn.Parameter(torch.zeros(dim, input_dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def dim(self) -> int:
        """Length of the vectors that go out."""
        return len(self.weight)

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` where the vectors vary in fewer directions than ``dim``."""
        checks.shape("vectors", vectors, (None, self.weight.shape[1]))
        fitted = Whitening.fit(vectors, self.dim, self.power, fitted_on=self.label)
        self.weight.copy_(fitted.projection)
        self.bias.copy_(-(fitted.projection @ fitted.mean))

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to ``(N, dim)``, not normalised. Raises ``NotFittedError`` where it is fresh."""
        self.check_fitted()
        checks.shape("vectors", vectors, (None, self.weight.shape[1]))
        seen = (vectors != 0).any(dim=1, keepdim=True)
        return (vectors @ self.weight.T + self.bias) * seen
