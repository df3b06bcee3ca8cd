"""Hits ranked by a small trained network that sees the similarities of the cells of both boxes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from objemb.registry import plugin
from objemb.rerank._cell_votes import CellVotes
from objemb.rerank._cells import CellReranker


@plugin
class VotesOfCells(CellReranker):
    """The probability that both boxes show the same object, by a :class:`~objemb.rerank._cell_votes.CellVotes`.

    Args:
        weights: The file ``match.safetensors`` of a run of the task ``match_cells``, which also holds the side of
            boxes in pixels.
        top: See :class:`~objemb.rerank._cells.CellReranker`, as for ``weight``.
        weight: Likewise.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableWeightsError: It is another file.
    """

    #: A model folder cannot contain the weights of a re-ranker.
    files: ClassVar[dict[str, str]] = {"weights": r"(?!)"}

    def __init__(self, *, weights: str | Path, top: int = 50, weight: float = 0.5) -> None:
        self.votes = CellVotes.load(weights)
        super().__init__(top=top, size=self.votes.size, weight=weight)

    def similarity(self, cosines: Tensor) -> Tensor:
        """See :meth:`CellReranker.similarity`."""
        probabilities: Tensor = self.votes(cosines).sigmoid()
        return probabilities
