"""Whitening of unit vectors, fitted by PCA or from pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb.ops.affine import AffineMap
from objemb.ops.pca import learned_map, pca_map


class Whitening(nn.Module):
    """``l2(diag(lambda ** -power) U^T (v - mean))``: subtract the mean, project on the first eigenvectors of the
    covariance, shrink each direction by its variance ``lambda``, and bring to unit length.

    Fit it on vectors of the *kind of region* that it will be applied to (single regions for R-MAC and object
    embeddings, not their sums), and on *other photos* than those on which results are measured: whitening that has seen
    the evaluation set flatters it.

    The fitted state is in two buffers (``mean`` float32 ``(input_dim,)`` and ``projection`` float32
    ``(dim, input_dim)``, eigenvectors as rows, already divided); ``Whitening(**settings)`` with the result of
    :meth:`settings` makes an empty one for ``load_state_dict``.

    Args:
        input_dim: Length of the vectors that come in.
        dim: Length of the vectors that go out.
        power: 0.5 whitens fully, 0.25 half way (shrinkage, as deep image retrieval uses it), 0 is plain PCA.
        fitted_on: What it was fitted on, in words: for people and for a warning on the evaluation set.
        count: Number of vectors it was fitted on.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, *, input_dim: int, dim: int, power: float, fitted_on: str, count: int) -> None:
        super().__init__()
        self.input_dim, self.dim, self.power = input_dim, dim, power
        self.fitted_on, self.count = fitted_on, count
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("projection", torch.zeros(dim, input_dim))

    @classmethod
    def fit(cls, vectors: Tensor, dim: int | None = None, power: float = 0.5, *, fitted_on: str) -> Whitening:
        """Learn from vectors, see :func:`objemb.ops.pca.pca_map`.

        Args:
            vectors: float ``(N, D)``, N at least 2.
            dim: How many directions to keep; None for all that have any variance.
            power: See the class.
            fitted_on: See the class.

        Raises:
            ValueError: Too few vectors, all of them equal, or a ``dim`` above the number of directions with variance.
        """
        return cls._of(pca_map(vectors, dim, power), power, fitted_on, len(vectors))

    @classmethod
    def fit_pairs(
        cls,
        vectors: Tensor,
        pairs: Tensor,
        dim: int | None = None,
        power: float = 0.0,
        *,
        ridge: float = 0.0,
        fitted_on: str,
    ) -> Whitening:
        """Learn from pairs of vectors of the same thing, so that what differs within pairs counts little.

        The learned whitening of Radenovic et al., see :func:`objemb.ops.pca.learned_map`; applied like any other.

        Args:
            vectors: float ``(N, D)``.
            pairs: int64 ``(P, 2)``: the rows of a query and of its positive. With fewer pairs than D, some directions
                differ within no pair and count far too much: use more, or a ``ridge``.
            dim: How many directions to keep, those of the largest variance over all vectors; None for all.
            power: Shrinkage of these by their variance; 0 as the authors do it.
            ridge: See :func:`objemb.ops.learned_whitening.whiten_within_pairs`.
            fitted_on: See the class.

        Raises:
            ValueError: No pairs, rows that do not exist, pairs without any difference, or a ``dim`` above the number
                of directions with variance.
        """
        return cls._of(learned_map(vectors, pairs, dim, power, ridge=ridge), power, fitted_on, len(vectors))

    @classmethod
    def _of(cls, fitted: AffineMap, power: float, fitted_on: str, count: int) -> Whitening:
        dim, input_dim = fitted.projection.shape
        made = cls(input_dim=input_dim, dim=dim, power=float(power), fitted_on=fitted_on, count=count)
        made.load_state_dict({"mean": fitted.centre, "projection": fitted.projection}, assign=True)
        return made

    @property
    def map(self) -> AffineMap:
        """What it does before vectors are brought to unit length."""
        return AffineMap(self.projection, self.mean)

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to unit vectors ``(N, dim)``; rows of zeros stay zeros: they hold no evidence."""
        return self.map.unit(vectors)

    def settings(self) -> dict[str, object]:
        """Constructor arguments, JSON-ready: with the ``state_dict`` they are all there is to save."""
        return {
            "input_dim": self.input_dim,
            "dim": self.dim,
            "power": self.power,
            "fitted_on": self.fitted_on,
            "count": self.count,
        }
