"""Fitted parts of a describer that project vectors on their principal directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.layers.fitted import Fitted
from objemb.ops.affine import AffineMap
from objemb.ops.pca import pca_map


class Projection(Fitted):
    """``W v + b``, initialised as PCA whitening: ``W = diag(lambda ** -power) U^T`` and ``b = -W mean``.

    These layers replace the whitening of R-MAC in Gordo et al., "Deep image retrieval", ECCV 2016, section 3, so that
    it can be trained together with the layers below. Rows of zeros stay zeros.

    Args:
        input_dim: Dimension of the input vectors.
        dim: Dimension of the output vectors.
        power: Power of the variances, see :func:`objemb.ops.pca.pca_map`.

    Attributes:
        weight: float32 ``(dim, input_dim)``; requires a gradient, like ``bias``.
        bias: float32 ``(dim,)``.

    Raises:
        ValueError: ``dim`` exceeds ``input_dim``, or ``power`` is out of range.
    """

    def __init__(self, input_dim: int, dim: int, power: float = 0.5) -> None:
        super().__init__()
        self.power = checks.between("power", power, 0, 1)
        self.weight = nn.Parameter(torch.zeros(_at_most(input_dim, dim), input_dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def dim(self) -> int:
        """Dimension of the output vectors."""
        return len(self.weight)

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` where the vectors vary in fewer directions than ``dim``."""
        checks.shape("vectors", vectors, (None, self.weight.shape[1]))
        weight, bias = pca_map(vectors, self.dim, self.power).weight_and_bias()
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to ``(N, dim)``, not normalised. Raises ``NotFittedError`` if not fitted."""
        self.check_fitted()
        return AffineMap(self.weight, bias=self.bias)(vectors)


class PcaBasis(Fitted):
    """Projects on the first eigenvectors of the covariance of the vectors that it was fitted on.

    No mean is subtracted, because the basis may be applied to other kinds of vectors than it was fitted on, such as
    local features in a basis of region vectors. For whitened unit vectors, use
    :class:`objemb.layers.whitening.Whitening`.

    Args:
        input_dim: Dimension of the input vectors.
        dim: Dimension of the output vectors.

    Attributes:
        directions: float32 ``(dim, input_dim)``, orthonormal rows, that of the largest variance first.
    """

    directions: Tensor

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(_at_most(input_dim, dim), input_dim))

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` where the vectors vary in fewer directions than ``dim``."""
        checks.shape("vectors", vectors, (None, self.directions.shape[1]))
        self.directions.copy_(pca_map(vectors, len(self.directions), power=0.0).projection)

    def forward(self, vectors: Tensor) -> Tensor:
        """float32 ``(N, input_dim)`` to ``(N, dim)``. Raises ``NotFittedError`` if not fitted."""
        self.check_fitted()
        return AffineMap(self.directions)(vectors)


def _at_most(input_dim: int, dim: int) -> int:
    if checks.whole("dim", dim) > input_dim:
        raise ValueError(f"dim: expected at most the length of the vectors ({input_dim}), found {dim}")
    return dim
