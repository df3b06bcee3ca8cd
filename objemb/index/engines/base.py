"""The contract of index engines, which build search structures over the rows of an index, and of these structures.

An engine is a plug-in: one file of this package with one class, whose constructor arguments are its settings. The
structure that it builds is stored with the rows, and the manifest contains the engine's name and settings, so that the
structure can be loaded wherever the engine is installed. It is used to search the rows that it was built over; the
index searches newer rows exactly, and merges both results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from objemb.index.storage.blocks import Block
from objemb.ops.scored_pairs import GroupedHits
from objemb.registry import Plugin
from objemb.types import Buffer, Int64Array

#: The rows of queries, as encoded by the schema, and the blocks of rows that they are compared with.
Q = TypeVar("Q")
B = TypeVar("B", bound=Block)


#: Told what is done of some work and how much there is, in one unit.
OnProgress: TypeAlias = Callable[[int, int], None]


def ignored(done: int, total: int) -> None:
    """Tells nobody of progress."""


class ByteOutput(Protocol):
    """An output for the bytes of one file."""

    def write(self, data: bytes) -> None:
        """Append bytes."""


class Structure(ABC, Generic[Q, B]):
    """A search structure over rows of an index. Searching from several threads is safe.

    The score of two vectors is their inner product; that of the visual words of two rows is the match kernel of their
    schema (:class:`objemb.index.storage.visual_words.WordRows`). Both are summed in float64 and rounded once.

    Attributes:
        covered: Number of rows that it was built over; None if it searches any given rows.
        dim: Dimension of the vectors that it was built over; None if it searches any given rows.
    """

    covered: int | None = None
    dim: int | None = None

    @abstractmethod
    def search(
        self,
        queries: Q,
        groups: Int64Array,
        k: int,
        blocks: Sequence[B],
        *,
        count: int | None = None,
    ) -> GroupedHits:
        """The best ``k`` images of each query.

        The score of an image is the largest of any of its alive rows with any row of the query. Ties are ordered by
        row, then by query row. An engine that is not ``exact`` may miss images, but the scores and rows that it returns
        are exact.

        Args:
            queries: The R rows of all queries as :meth:`objemb.index.storage.schema.RowSchema.queries` encodes them:
                float32 ``(R, D)``, finite, or :class:`objemb.index.words.WordQueries`.
            groups: int64 ``(R,)``, non-decreasing: the query that each row belongs to, numbered from 0.
            k: Images per query.
            blocks: The rows that the structure was built over, in the same blocks; the rows that are alive may differ
                between searches, and only these may be returned.
            count: Number of queries Q; by default one more than the last of ``groups``. Queries without rows have no
                hits.

        Returns:
            Hits with ``(Q, k)`` fields, padded where a query has fewer images.

        Raises:
            DamagedIndexError: A row is not finite.
            ValueError: Shapes or lengths do not fit together, or ``k`` is below 1.
        """

    @abstractmethod
    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """Write all bytes of the structure; errors of the outputs are not caught.

        Args:
            create: Opens an output for a file with the given name, which is unique in the structure. Several files may
                be open at the same time. A structure that is stored elsewhere may create none.
        """


class Engine(Plugin, ABC, Generic[Q, B]):
    """A way of searching, with its settings.

    Attributes:
        accepts: Names of the schemas whose rows it can search, see :mod:`objemb.index.storage.schema`.
        exact: Whether its structures give the same results as exact search.
    """

    kind = "index.engines"

    accepts: ClassVar[frozenset[str]]
    exact: ClassVar[bool] = False

    @abstractmethod
    def build(self, blocks: Sequence[B], on_progress: OnProgress = ignored) -> Structure[Q, B]:
        """A structure over all rows of ``blocks``, including dead ones, so that row numbers are positions in the
        blocks.

        Rows are read in steps; memory is that of the structure and of a sample of the rows.

        Args:
            blocks: The rows.
            on_progress: Called now and then with the work that is done and with all of it, in a unit of the engine;
                what takes no time need not call it.

        Raises:
            ImportError: A library that the engine needs is not installed; the message names it.
            ValueError: There are too few rows.
        """

    @abstractmethod
    def load(self, files: Mapping[str, Buffer]) -> Structure[Q, B]:
        """Load a structure written by :meth:`Structure.write`, regardless of the current settings of this engine.

        Args:
            files: The bytes of its files by name. Their checksums have been checked, but they may come from an
                untrusted source.

        Raises:
            ImportError: A library that the engine needs is not installed; the message names it.
            DamagedIndexError: The bytes are not such a structure.
        """


#: A structure and an engine for rows of any schema.
AnyStructure: TypeAlias = Structure[Any, Any]
AnyEngine: TypeAlias = Engine[Any, Any]
