"""Triangulation embedding (Jegou and Zisserman, "Triangulation embedding and democratic aggregation", CVPR 2014)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.layers.fitted import Fitted
from objemb.ops.affine import AffineMap
from objemb.ops.kmeans import kmeans
from objemb.ops.pca import pca_map, principal_components
from objemb.ops.rectangles import equal_rectangles, means_over_maps
from objemb.ops.weighting import weighted_mean
from objemb.pooling._selection import SELECTIONS, selection
from objemb.pooling.base import Pooling
from objemb.registry import plugin

#: Number of local features that are embedded at a time while fitting.
BLOCK = 4096
MASKS = ("none", *SELECTIONS)


@plugin
class Triangulation(Pooling, Fitted):
    """Directions from the centres of clusters to each selected cell, whitened and summed.

    The chain for convolutional features is that of Hoang et al., "Selective deep convolutional features for image
    retrieval", ACM MM 2017: a cell is reduced by PCA and normalised, ``x``; its embedding is ``S (R(x) - mean)``, where
    ``R(x)`` concatenates the unit directions ``(x - c_j) / |x - c_j|`` from all centres, and ``S`` whitens them along
    their principal directions, without the first ones. The embeddings of the cells are summed, and the power
    ``sign(v) |v| ** power`` reduces the effect of repeated features (burstiness). The caller normalises the vector.
    Cells without any activation are left out. The pooling is fitted on the cells that the mask selects, because only
    these are summed.

    Hoang et al. rotate the sums by a further basis, fitted on whole images, before they drop components; here, the
    basis of the whitening is used for both, so that no second pass is needed. In their code, the 33 smallest variances
    of the whitening are raised to the 33rd smallest; here, directions without variance are an error instead.

    Args:
        dim: d, the dimension to which local features are reduced.
        words: k, the number of centres; vectors have the length ``k * d - dropped``.
        dropped: Number of first principal directions that are left out.
        mask: The cells to use: ``"max"`` or ``"sum"``, see :func:`~objemb.pooling._selection.selection`, or ``"none"``
            for all cells.
        power: Exponent; 1 for no effect.

    Attributes:
        mean: float32 ``(C,)``, the mean of local features.
        basis: float32 ``(d, C)``, their principal directions.
        centres: float32 ``(k, d)``, the centres of clusters.
        direction_mean: float32 ``(k * d,)``, the mean of ``R(x)``.
        whitening: S, float32 ``(k * d - dropped, k * d)``.
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor
    direction_mean: Tensor
    whitening: Tensor

    def __init__(
        self, *, dim: int = 32, words: int = 20, dropped: int = 128, mask: str = "max", power: float = 0.5
    ) -> None:
        super().__init__()
        self.dim = checks.whole("dim", dim)
        self.words = checks.whole("words", words)
        self.dropped = checks.whole("dropped", dropped, least=0)
        if self.dropped >= dim * words:
            raise ValueError(f"dropped: expected fewer than dim * words ({dim * words}), found {dropped}")
        self.mask = checks.one_of("mask", mask, MASKS)
        self.followed = self.mask == "none"
        self.power = checks.between("power", power, 0, 1)
        self.needed = max(1000 * words, 10 * dim * words)

    def connect(self, channels: int) -> None:
        """See :meth:`Pooling.connect`."""
        if hasattr(self, "basis"):
            raise RuntimeError(f"triangulation: expected one not connected yet, found {len(self.mean)} channels")
        if channels < self.dim:
            raise ValueError(f"dim: expected at most the number of channels ({channels}), found {self.dim}")
        full = self.dim * self.words
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("basis", torch.zeros(self.dim, channels))
        self.register_buffer("centres", torch.zeros(self.words, self.dim))
        self.register_buffer("direction_mean", torch.zeros(full))
        self.register_buffer("whitening", torch.zeros(full - self.dropped, full))

    def length(self, channels: int) -> int:
        """See :meth:`Pooling.length`."""
        return self.dim * self.words - self.dropped

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`; from local features ``(N, C)`` of any length, N several times ``k * d``."""
        features = checks.shape("vectors", vectors, (None, len(self.mean)))
        features = features[(features != 0).any(dim=1)]
        reduction = pca_map(features, self.dim, power=0.0)
        self.mean.copy_(reduction.centre)
        self.basis.copy_(reduction.projection)
        self.centres.copy_(kmeans(self._reduced(features), self.words))

        def directions() -> Iterator[Tensor]:
            return (self._directions(self._reduced(block)) for block in features.split(BLOCK))

        components = principal_components(directions)
        full = self.dim * self.words
        if components.rank < full:
            raise ValueError(
                f"triangulation: expected directions of rank dim * words = {full}, "
                f"found rank {components.rank} for {len(features)} features; use more photos, or fewer words"
            )
        whitening = components.map(len(self.whitening), 0.5, dropped=self.dropped)
        self.direction_mean.copy_(whitening.centre)
        self.whitening.copy_(whitening.projection)

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        embedded, counted = self._embedded(maps)
        if self.mask != "none":
            counted = counted * selection(maps, weights, self.mask)
        return self._tamed(weighted_mean(embedded, counted if weights is None else counted * weights))

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`. Cells are embedded once, whatever the rectangles."""
        embedded, seen = self._embedded(maps)
        weights = self.counted(maps, cells) * seen[cells[:, 0].to(maps.device)]
        return self._tamed(means_over_maps(embedded, cells[:, 0], weights))

    def counted(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.counted`. Those that the mask selects."""
        held = super().counted(maps, cells)
        if self.mask != "none":
            for rows, cut in equal_rectangles(maps, cells):
                block = held[rows]
                block[block.clone()] = selection(cut, None, self.mask).flatten()  # both have the same order of cells
                held[rows] = block
        return held

    def _embedded(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(M, D, h, w)`` of the cells, and float ``(M, h, w)``: 1 for cells with any activation, else
        0."""
        self.check_fitted()
        features = checks.shape("maps", maps, (None, len(self.mean), None, None)).permute(0, 2, 3, 1)
        directions = self._directions(self._reduced(features.flatten(0, 2)))
        embedded = AffineMap(self.whitening, self.direction_mean)(directions)
        seen = (maps != 0).any(dim=1).to(maps.dtype)
        return embedded.unflatten(0, features.shape[:3]).permute(0, 3, 1, 2), seen

    def _reduced(self, features: Tensor) -> Tensor:
        """Unit vectors ``(N, d)`` of local features ``(N, C)``; zeros for features without any activation."""
        return AffineMap(self.basis, self.mean).unit(features)

    def _directions(self, reduced: Tensor) -> Tensor:
        """``R(x)``, ``(N, k * d)``."""
        return F.normalize(reduced[:, None] - self.centres, dim=2).flatten(1)

    def _tamed(self, sums: Tensor) -> Tensor:
        tamed: Tensor = sums.sign() * sums.abs() ** self.power
        return tamed
