"""Hits ranked by an optimal transport between the cells of both boxes, with a dustbin for what has no counterpart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._cells import CellReranker


@plugin
class Sinkhorn(CellReranker):
    """Cosine similarities of cells, weighted by the optimal transport of Cuturi, "Sinkhorn distances", NeurIPS 2013.

    Every cell has the same mass, and each may send it to the dustbin of the other box at the similarity ``dustbin``
    (Sarlin et al., "SuperGlue", CVPR 2020, equations 7 to 9, whose dustbin is learned). A cell is thus matched with
    one cell or none, whereas :class:`~objemb.rerank.chamfer.Chamfer` lets many cells match the same one. The
    similarity of two boxes is what the transport gains over dustbins: the sum of ``plan * (cosine - dustbin)`` over the
    pairs of cells.

    Args:
        top: See :class:`~objemb.rerank._cells.CellReranker`, as for ``size`` and ``weight``.
        dustbin: Cosine similarity at which a cell is as well left without a counterpart.
        temperature: Of the entropic regularisation; a small one makes the assignment hard.
        iterations: Of Sinkhorn's algorithm.
    """

    def __init__(
        self,
        *,
        top: int = 50,
        size: int = 225,
        weight: float = 0.5,
        dustbin: float = 0.3,
        temperature: float = 0.1,
        iterations: int = 10,
    ) -> None:
        super().__init__(top=top, size=size, weight=weight)
        self.dustbin = checks.between("dustbin", dustbin, -1, 1)
        self.temperature = checks.positive("temperature", temperature)
        self.iterations = checks.whole("iterations", iterations)

    def similarity(self, cosines: Tensor) -> Tensor:
        """See :meth:`CellReranker.similarity`."""
        plan = transport(cosines, self.dustbin, self.temperature, self.iterations)
        gained: Tensor = (plan * (cosines - self.dustbin)).sum(dim=(1, 2))
        return gained


def transport(cosines: Tensor, dustbin: float, temperature: float, iterations: int) -> Tensor:
    """The optimal transport between the cells of two boxes, with dustbins.

    Args:
        cosines: float32 ``(H, n, m)``.
        dustbin: Similarity of every cell to the dustbin of the other side.
        temperature: Of the entropic regularisation.
        iterations: Alternating normalisations of rows and columns, in the logarithm.

    Returns:
        float32 ``(H, n, m)``, at least 0: the mass of each pair, without the dustbins, in shares of the larger number
        of cells. The total is at most ``min(n, m) / max(n, m)``.
    """
    count, rows, columns = cosines.shape
    scores = cosines.new_full((count, rows + 1, columns + 1), dustbin)
    scores[:, :rows, :columns] = cosines
    scores = scores / temperature
    # logarithms of masses: 1 for a cell, and for a dustbin as much as all cells of the other side
    row_mass = scores.new_zeros(rows + 1)
    column_mass = scores.new_zeros(columns + 1)
    row_mass[-1], column_mass[-1] = math.log(columns), math.log(rows)
    u, v = scores.new_zeros(count, rows + 1), scores.new_zeros(count, columns + 1)
    for _ in range(iterations):
        u = row_mass - torch.logsumexp(scores + v[:, None], dim=2)
        v = column_mass - torch.logsumexp(scores + u[:, :, None], dim=1)
    plan: Tensor = (scores + u[:, :, None] + v[:, None]).exp()[:, :rows, :columns]
    return plan / max(rows, columns)
