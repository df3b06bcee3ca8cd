"""Hits ranked by an optimal transport between the cells of both boxes, with a dustbin for what has no counterpart."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.ops.transport import transport
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
