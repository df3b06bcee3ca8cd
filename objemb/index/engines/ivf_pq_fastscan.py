"""An inverted file of 4-bit product-quantised codes, scanned with the processor's shuffle instructions."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from objemb.index.engines._ivf import IvfEngine
from objemb.index.engines.ivf_pq import groups_of_columns
from objemb.registry import plugin

if TYPE_CHECKING:
    from objemb.ops.faiss import IndexIVF, IndexIVFPQ

#: Bits of the code of a group of columns; training its 16 centroids needs at least 16 rows.
BITS = 4
#: Columns of a group, where the length of a vector is a multiple of it.
COLUMNS = 2


@plugin
class IvfPqFastscan(IvfEngine):
    """Rows as product-quantised codes, 4 bits for two columns or more, whose tables stay in registers. André et al.,
    "Cache locality is not enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan", VLDB
    2015, as in faiss."""

    coarseness = 14
    least_rows = 1 << BITS

    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> IndexIVF:
        """As :meth:`IvfEngine.untrained`."""
        coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
        groups = groups_of_columns(dim, COLUMNS)
        index: IndexIVFPQ = faiss.IndexIVFPQFastScan(coarse, dim, lists, groups, BITS, metric)
        index.pq.cp.seed = self.seed
        return index

    def made(self, faiss: ModuleType, index: object) -> bool:
        """As :meth:`IvfEngine.made`."""
        return type(index) is faiss.IndexIVFPQFastScan
