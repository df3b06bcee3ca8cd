"""An inverted file of product-quantised codes: a quarter of a byte per number, coarser than 8-bit scalars."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from objemb.index.engines._ivf import IvfEngine
from objemb.registry import plugin

if TYPE_CHECKING:
    from objemb.ops.faiss import IndexIVF, IndexIVFPQ, SearchParameters

#: Bits of the code of a group of columns; training its 256 centroids needs at least 256 rows.
BITS = 8
#: Columns of a group, where the length of a vector is a multiple of it.
COLUMNS = 4


@plugin
class IvfPq(IvfEngine):
    """Rows as product-quantised codes, a byte for four columns or more. Jégou et al., "Product Quantization for
    Nearest Neighbor Search", TPAMI 2011."""

    coarseness = 4
    least_rows = 1 << BITS

    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> IndexIVF:
        """As :meth:`IvfEngine.untrained`."""
        coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
        index: IndexIVFPQ = faiss.IndexIVFPQ(coarse, dim, lists, groups_of_columns(dim, COLUMNS), BITS, metric)
        index.pq.cp.seed = self.seed
        return index

    def made(self, faiss: ModuleType, index: object) -> bool:
        """As :meth:`IvfEngine.made`."""
        return type(index) is faiss.IndexIVFPQ

    def parameters(self, faiss: ModuleType, **options: object) -> SearchParameters:
        """As :meth:`IvfEngine.parameters`."""
        parameters: SearchParameters = faiss.IVFPQSearchParameters(**options)
        return parameters


def groups_of_columns(dim: int, columns: int) -> int:
    """Number of groups of ``columns`` columns or more: the largest divisor of ``dim`` that leaves so many to each."""
    return max(m for m in range(1, max(1, dim // columns) + 1) if dim % m == 0)
