"""An inverted file of RaBitQ codes: a bit per number, or a few, of residuals that need no training."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from objemb import checks
from objemb.index.engines._ivf import IvfEngine
from objemb.registry import plugin

if TYPE_CHECKING:
    from objemb.ops.faiss import IndexIVF

#: The oldest FAISS with whose codes of one and of several bits this was tested.
OLDEST = (1, 15)
#: Factor on the number of candidates for codes of 1, 2 and 3 bits, with which the image recall at 10 stays above 0.99;
#: those of more bits need no more candidates than 8-bit scalars.
COARSENESS = {1: 7, 2: 2, 3: 2}


@plugin
class IvfRabitq(IvfEngine):
    """Rows as signs of their residuals, or whole numbers of a few bits, with factors for an unbiased estimate. Gao and
    Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for Approximate Nearest Neighbor
    Search", SIGMOD 2024; more bits: Gao et al., "Practical and Asymptotically Optimal Quantization of High-Dimensional
    Vectors in Euclidean Space for Approximate Nearest Neighbor Search", SIGMOD 2025.

    Args:
        lists: As of :class:`IvfEngine`.
        seed: Likewise.
        bits: Bits of a number, from 1 to 8. One bit is scanned with the processor's shuffle instructions.
    """

    def __init__(self, lists: int | None = None, seed: int = 0, bits: int = 1) -> None:
        super().__init__(lists, seed)
        self.bits = int(checks.between("bits", checks.whole("bits", bits), 1, 8))
        self.coarseness = COARSENESS.get(self.bits, 1)

    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> IndexIVF:
        """As :meth:`IvfEngine.untrained`.

        Raises:
            ImportError: FAISS is too old.
        """
        if (found := (faiss.FAISS_VERSION_MAJOR, faiss.FAISS_VERSION_MINOR)) < OLDEST:
            needed, old = (".".join(map(str, version)) for version in (OLDEST, found))
            raise ImportError(f"{self.registry_name} needs FAISS {needed} or newer, found {old}")
        coarse, metric = faiss.IndexFlatIP(dim), faiss.METRIC_INNER_PRODUCT
        block = 32  # rows that are scanned at a time, the only number that FAISS has a kernel for
        index: IndexIVF
        if self.bits == 1:
            index = faiss.IndexIVFRaBitQFastScan(coarse, dim, lists, metric, block, True, self.bits)
        else:
            index = faiss.IndexIVFRaBitQ(coarse, dim, lists, metric, True, self.bits)
        return index

    def made(self, faiss: ModuleType, index: object) -> bool:
        """As :meth:`IvfEngine.made`."""
        names = {"IndexIVFRaBitQ", "IndexIVFRaBitQFastScan"}  # which an older FAISS does not have
        return type(index).__name__ in names
