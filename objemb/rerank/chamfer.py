"""Hits ranked by the best matches of the cells of both boxes: Chamfer similarity."""

from __future__ import annotations

from torch import Tensor

from objemb.registry import plugin
from objemb.rerank._cells import CellReranker


@plugin
class Chamfer(CellReranker):
    """The mean of the best cosine similarity of each cell of one box with a cell of the other, over the cells of both
    boxes (symmetric Chamfer similarity, as between frames in Kordopatis-Zilos et al., "ViSiL", ICCV 2019).

    No training, and no order of the cells: parts may lie elsewhere in the other box. For the arguments see
    :class:`~objemb.rerank._cells.CellReranker`.
    """

    def similarity(self, cosines: Tensor) -> Tensor:
        """See :meth:`CellReranker.similarity`."""
        best: Tensor = (cosines.amax(dim=2).mean(dim=1) + cosines.amax(dim=1).mean(dim=1)) / 2
        return best
