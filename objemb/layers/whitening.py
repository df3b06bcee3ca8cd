"""Whitening of unit vectors, fitted by PCA or from pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb.ops.affine import AffineMap
from objemb.ops.pca import learned_map, pca_map


class Whitening(nn.Module):
    """``l2(diag(lambda ** -power) U^T (v - mean))``: subtract the mean, project on the first eigenvectors of the
    covariance, divide each direction by a power of its variance ``lambda``, and normalise.

    Fit it on vectors of the *kind of region* that it will be applied to (single regions for R-MAC and object
    embeddings, not their sums), and on *other photos* than those of the evaluation set; otherwise, the results are too
    good.

    The fitted state is in two buffers (``mean`` float32 ``(input_dim,)`` and ``projection`` float32
    ``(dim, input_dim)``, eigenvectors as rows, already divided); ``Whitening(**settings)`` with the result of
    :meth:`settings` creates an empty one for ``load_state_dict``.

    Args:
        input_dim: Dimension of the input vectors.
        dim: Dimension of the output vectors.
        power: 0.5 whitens fully, 0.25 halfway (shrinkage, as in deep image retrieval), 0 is plain PCA.
        fitted_on: A description of the data that it was fitted on, also used to warn about the evaluation set.
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
        """Fit on vectors, see :func:`objemb.ops.pca.pca_map`.

        Args:
            vectors: float ``(N, D)``, N at least 2.
            dim: Number of directions to keep; None for all with variance.
            power: See the class.
            fitted_on: See the class.

        Raises:
            ValueError: There are too few vectors, all are equal, or ``dim`` exceeds the number of directions with
                variance.
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
        """Fit on pairs of matching vectors, so that differences within pairs are reduced.

        This is the learned whitening of Radenovic et al., see :func:`objemb.ops.pca.learned_map`; it is applied like
        any other.

        Args:
            vectors: float ``(N, D)``.
            pairs: int64 ``(P, 2)``: the rows of a query and of its positive. With fewer pairs than D, some directions
                have no differences within pairs and are amplified far too much: use more pairs, or a ``ridge``.
            dim: Number of directions to keep, those of the largest variance over all vectors; None for all.
            power: Power of the variance by which these are divided; 0 in the paper.
            ridge: See :func:`objemb.ops.learned_whitening.whiten_within_pairs`.
            fitted_on: See the class.

        Raises:
            ValueError: There are no pairs, rows do not exist, the vectors of all pairs are equal, or ``dim`` exceeds
                the number of directions with variance.
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
        """The affine map before normalisation."""
        return AffineMap(self.projection, self.mean)

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to unit vectors ``(N, dim)``; rows of zeros stay zeros."""
        return self.map.unit(vectors)

    def settings(self) -> dict[str, object]:
        """Constructor arguments, JSON-ready; together with the ``state_dict``, this is everything to save."""
        return {
            "input_dim": self.input_dim,
            "dim": self.dim,
            "power": self.power,
            "fitted_on": self.fitted_on,
            "count": self.count,
        }
