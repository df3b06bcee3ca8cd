"""Whitening of unit vectors, by PCA or from pairs.

By PCA: Jegou and Chum, "Negative evidences and co-occurrences in image retrieval", 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.ops.learned_whitening import whiten_within_pairs
from objemb.ops.normalize import l2

#: Directions with less than this share of the largest variance are rounding, not data.
NO_VARIANCE = 1e-12
#: Vectors that are made float64 at a time while fitting.
BLOCK = 65536


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
    @torch.no_grad()
    def fit(cls, vectors: Tensor, dim: int | None = None, power: float = 0.5, *, fitted_on: str) -> Whitening:
        """Learn from vectors.

        Args:
            vectors: float ``(N, D)``, N at least 2. Fewer vectors than D are fine: at most N - 1 directions remain.
            dim: How many directions to keep; None for all that have any variance.
            power: See the class.
            fitted_on: See the class.

        Raises:
            ValueError: Too few vectors, all of them equal, or a ``dim`` above the number of directions with variance.
        """
        checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
        checks.between("power", power, 0, 1)
        if len(vectors) < 2:
            raise ValueError(f"vectors: expected at least 2 to fit a whitening, found {len(vectors)}")
        if len(vectors) > vectors.shape[1]:
            mean, variances, directions = principal(lambda: vectors.split(BLOCK))
        else:
            mean, variances, directions = _principal_of_few(vectors)
        kept = _checked_dim(dim, variances, len(vectors), vectors.shape[1])
        fitted = cls(
            input_dim=vectors.shape[1], dim=kept, power=float(power), fitted_on=fitted_on, count=len(vectors)
        ).to(vectors.device)
        fitted.mean.copy_(mean)
        fitted.projection.copy_(directions[:kept] * variances[:kept, None] ** -power)
        return fitted

    @classmethod
    @torch.no_grad()
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

        The learned whitening of Radenovic et al., see :func:`objemb.ops.learned_whitening.whiten_within_pairs`;
        applied like any other.

        Args:
            vectors: float ``(N, D)``.
            pairs: int64 ``(P, 2)``: the rows of a query and of its positive. With fewer pairs than D, some directions
                differ within no pair and count far too much: use more, or a ``ridge``.
            dim: How many directions to keep, those of the largest variance over all vectors; None for all.
            power: Shrinkage of these by their variance; 0 as the authors do it.
            ridge: See :func:`~objemb.ops.learned_whitening.whiten_within_pairs`.
            fitted_on: See the class.

        Raises:
            ValueError: No pairs, rows that do not exist, pairs without any difference, or a ``dim`` above the number
                of directions with variance.
        """
        checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
        checks.between("power", power, 0, 1)
        mean, within = whiten_within_pairs(vectors, pairs, ridge)
        scatter = torch.zeros_like(within)
        for block in vectors.split(BLOCK):
            whitened = (block - mean) @ within.T
            scatter += whitened.T @ whitened / len(vectors)
        variances, directions = principal_directions(scatter)
        kept = _checked_dim(dim, variances, len(vectors), vectors.shape[1])
        fitted = cls(
            input_dim=vectors.shape[1], dim=kept, power=float(power), fitted_on=fitted_on, count=len(vectors)
        ).to(vectors.device)
        fitted.mean.copy_(mean)
        fitted.projection.copy_(directions[:kept] * variances[:kept, None] ** -power @ within)
        return fitted

    def forward(self, vectors: Tensor) -> Tensor:
        """float ``(N, input_dim)`` to unit vectors ``(N, dim)``; rows of zeros stay zeros: they hold no evidence."""
        return l2(self.project(vectors))

    def project(self, vectors: Tensor) -> Tensor:
        """The same without the unit length: ``(N, dim)``, along each direction as it was shrunk."""
        checks.shape("vectors", vectors, (None, self.input_dim))
        seen = (vectors != 0).any(dim=1, keepdim=True)
        return ((vectors - self.mean) @ self.projection.T) * seen

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, JSON-ready: with the ``state_dict`` they are all there is to save."""
        return {
            "input_dim": self.input_dim,
            "dim": self.dim,
            "power": self.power,
            "fitted_on": self.fitted_on,
            "count": self.count,
        }


def principal(blocks: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Principal directions of vectors that need not be in memory together.

    Args:
        blocks: Called twice, gives all vectors both times, as float blocks ``(n, D)``, at least one.

    Returns:
        Mean ``(D,)``, variances ``(D,)`` from large to small and their directions ``(D, D)`` as rows, in float64.
    """
    sums = [(block.sum(dim=0, dtype=torch.float64), len(block)) for block in blocks()]
    count = sum(n for _, n in sums)
    mean = torch.stack([s for s, _ in sums]).sum(dim=0) / count
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for block in blocks():
        centred = block - mean
        covariance += centred.T @ centred / count
    return mean, *principal_directions(covariance)


def _principal_of_few(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`principal`, of no more vectors than they are long: ``(N,)`` variances, directions ``(N, D)``.

    They come from the products of the vectors with each other, of which there are fewer than of their elements. A
    direction without variance is one of zeros.
    """
    mean = vectors.mean(dim=0, dtype=torch.float64)
    products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for block, centre in zip(vectors.split(BLOCK, dim=1), mean.split(BLOCK), strict=True):
        centred = block - centre
        products += centred @ centred.T / len(vectors)
    variances, shares = principal_directions(products)
    shares = shares * (variances > NO_VARIANCE * variances[:1])[:, None]
    columns = zip(vectors.split(BLOCK, dim=1), mean.split(BLOCK), strict=True)
    directions = torch.cat([shares @ (block - centre) for block, centre in columns], dim=1)
    return mean, variances, _pointing(l2(directions))


def principal_directions(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances ``(D,)`` from large to small and their directions ``(D, D)`` as rows, of a covariance ``(D, D)``."""
    variances, directions = torch.linalg.eigh(covariance)
    return variances.flip(0).clamp_min(0), _pointing(directions.T.flip(0))


def _pointing(directions: Tensor) -> Tensor:
    """Eigenvectors ``(N, D)``, which may point either way, with a positive largest element: every machine agrees."""
    return directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()


def _checked_dim(dim: int | None, variances: Tensor, count: int, length: int) -> int:
    rank = int((variances > NO_VARIANCE * variances[:1]).sum())
    if rank == 0:
        raise ValueError(f"vectors: expected some that differ to fit a whitening, found {count} equal ones")
    if dim is None:
        return rank
    if not 1 <= dim <= rank:
        raise ValueError(
            f"dim: expected 1 to {rank} ({count} vectors of length {length} vary in {rank} directions), found {dim}"
        )
    return dim
