"""An inverted file of 8-bit scalars: a byte per number, fast and faithful."""

from __future__ import annotations

from types import ModuleType

from objemb.index.engines._ivf import IvfEngine
from objemb.registry import plugin


@plugin
class IvfSq8(IvfEngine):
    """Rows as 8-bit scalars, each column in 256 steps of its range."""

    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> object:
        """As :meth:`IvfEngine.untrained`."""
        quantiser, metric = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        return faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dim), dim, lists, quantiser, metric)

    def made(self, faiss: ModuleType, index: object) -> bool:
        """As :meth:`IvfEngine.made`."""
        return type(index) is faiss.IndexIVFScalarQuantizer
