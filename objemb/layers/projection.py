"""Fitted parts of a describer that project vectors on their principal directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.layers.fitted import Fitted
from objemb.ops.affine import AffineMap
from objemb.ops.pca import pca_map


class Projection(Fitted):
    """``W v + b``, which starts as PCA whitening: ``W = diag(lambda ** -power) U^T`` and ``b = -W mean``.

    The layers that Gordo et al., "Deep image retrieval", ECCV 2016, section 3, put in the place of the whitening of
    R-MAC, so that it can be learned together with all below it. Rows of zeros stay zeros: they hold no evidence.

    Args:
        input_dim: Length of the vectors that come in.
        dim: Length of the vectors that go out.
        power: Of the variances, see :func:`objemb.ops.pca.pca_map`.

    Attributes:
        weight: float32 ``(dim, input_dim)``; requires a gradient, like ``bias``.
        bias: float32 ``(dim,)``.

    Raises:
        ValueError: ``dim`` above ``input_dim``, or ``power`` out of range.
    """

    def __init__(self, input_dim: int, dim: int, power: float = 0.5) -> None:
        super().__init__()
        self.power = checks.between("power", power, 0, 1)
        self.weight = nn.Parameter(torch.zeros(_at_most(input_dim, dim), input_dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    @property
    def dim(self) -> int:
        """Length of the vectors that go out."""
        return len(self.weight)

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` where the vectors vary in fewer directions than ``dim``."""
        checks.shape("vectors", vectors, (None, self.weight.shape[1]))
        weight, bias = pca_map(vectors, self.dim, self.power).weight_and_bias()
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to ``(N, dim)``, not normalised. Raises ``NotFittedError`` where it is fresh."""
        self.check_fitted()
        return AffineMap(self.weight, bias=self.bias)(vectors)


class PcaBasis(Fitted):
    """Projects on the first eigenvectors of the covariance of the vectors that it learned from.

    No mean is subtracted: what is projected need not be of the kind that was learned from, such as local features in
    a basis of region vectors. For whitened unit vectors there is :class:`objemb.layers.whitening.Whitening`.

    Args:
        input_dim: Length of the vectors that come in.
        dim: Length of the vectors that go out.

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
        """float32 ``(N, input_dim)`` to ``(N, dim)``. Raises ``NotFittedError`` where nothing was learned yet."""
        self.check_fitted()
        return AffineMap(self.directions)(vectors)


def _at_most(input_dim: int, dim: int) -> int:
    if checks.whole("dim", dim) > input_dim:
        raise ValueError(f"dim: expected at most the length of the vectors ({input_dim}), found {dim}")
    return dim
