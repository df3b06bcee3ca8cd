"""An inverted file of 8-bit scalars: a byte per number, fast and accurate."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from objemb.index.engines._ivf import IvfEngine
from objemb.registry import plugin

if TYPE_CHECKING:
    from objemb.ops.faiss import IndexIVF


@plugin
class IvfSq8(IvfEngine):
    """Rows as 8-bit scalars, each column in 256 steps of its range."""

    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> IndexIVF:
        """As :meth:`IvfEngine.untrained`."""
        quantiser, metric = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        coarse = faiss.IndexFlatIP(dim)
        index: IndexIVF = faiss.IndexIVFScalarQuantizer(coarse, dim, lists, quantiser, metric)
        return index

    def made(self, faiss: ModuleType, index: object) -> bool:
        """As :meth:`IvfEngine.made`."""
        return type(index) is faiss.IndexIVFScalarQuantizer
