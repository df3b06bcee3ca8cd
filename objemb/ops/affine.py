"""Affine maps of vectors, for PCA, whitening and projection layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from objemb import checks
from objemb.ops.tensors import l2


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``P (v - mean) + bias`` of vectors ``v``. Rows of zeros, which stand for missing vectors, stay zeros.

    The tensors belong to modules and are only referenced, so that gradients reach them.

    Attributes:
        projection: P, float ``(dim, input_dim)``.
        mean: float ``(input_dim,)``; None for zeros.
        bias: float ``(dim,)``; None for zeros.
    """

    projection: Tensor
    mean: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to ``(N, dim)``. Raises ``ValueError`` for another shape."""
        checks.shape("vectors", vectors, (None, self.projection.shape[1]))
        mapped = (vectors if self.mean is None else vectors - self.mean) @ self.projection.T
        if self.bias is not None:
            mapped = mapped + self.bias
        linear = self.mean is None and self.bias is None
        return mapped if linear else mapped * (vectors != 0).any(dim=1, keepdim=True)

    def unit(self, vectors: Tensor) -> Tensor:
        """The same at unit length."""
        return l2(self(vectors))

    @property
    def centre(self) -> Tensor:
        """``(input_dim,)``: the vector that is subtracted; zeros if there is none."""
        return self.projection.new_zeros(self.projection.shape[1]) if self.mean is None else self.mean

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the equivalent fully connected layer: ``P``, and ``bias - P mean`` ``(dim,)``."""
        bias = -(self.projection @ self.centre)
        return self.projection, bias if self.bias is None else self.bias + bias
