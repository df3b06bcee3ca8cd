"""A basis of principal directions, without a mean and without whitening."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.fitted import Fitted
from objemb.ops.whitening import Whitening


class PcaBasis(Fitted):
    """Projects on the first eigenvectors of the covariance of the vectors that it learned from.

    No mean is subtracted: what is projected need not be of the kind that was learned from, such as local features in
    a basis of region vectors. For whitened unit vectors there is :class:`objemb.ops.whitening.Whitening`.

    Args:
        input_dim: Length of the vectors that come in.
        dim: Length of the vectors that go out.

    Attributes:
        directions: float32 ``(dim, input_dim)``, orthonormal rows, that of the largest variance first.
    """

    directions: Tensor

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        if checks.whole("dim", dim) > input_dim:
            raise ValueError(f"dim: expected at most the length of the vectors ({input_dim}), found {dim}")
        self.register_buffer("directions", torch.zeros(dim, input_dim))

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` where the vectors vary in fewer directions than ``dim``."""
        checks.shape("vectors", vectors, (None, self.directions.shape[1]))
        fitted = Whitening.fit(vectors, len(self.directions), power=0.0, fitted_on=self.label)
        self.directions.copy_(fitted.projection)

    def forward(self, vectors: Tensor) -> Tensor:
        """float32 ``(N, input_dim)`` to ``(N, dim)``. Raises ``NotFittedError`` where nothing was learned yet."""
        self.check_fitted()
        return checks.shape("vectors", vectors, (None, self.directions.shape[1])) @ self.directions.T
