"""The contract of index engines: what builds a search structure over the rows of an index, and what searches it.

An engine is a plug-in: one file of this package with one class, whose constructor arguments are its settings. What it
builds is stored beside the rows and named in the manifest with the engine's name and settings, so that it is found and
loaded again wherever the engine is installed. A structure is searched for the rows that it was built over; the index
searches rows that were added since exactly, and joins both answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from objemb.index.blocks import Block, GroupedHits
from objemb.registry import Plugin
from objemb.types import Buffer, Int64Array

#: The rows of queries, as the schema of the rows encodes them, and the blocks of rows that they are compared with.
Q = TypeVar("Q")
B = TypeVar("B", bound=Block)


class ByteOutput(Protocol):
    """What takes the bytes of one file, some at a time."""

    def write(self, data: bytes) -> None:
        """Append bytes."""


class Structure(ABC, Generic[Q, B]):
    """Rows of an index, ready to be searched. Searching from several threads is safe.

    The score of two vectors is their inner product, that of the visual words of two rows the match kernel of their
    schema (:class:`objemb.index.storage.visual_words.WordRows`); either is summed in float64 and rounded once.

    Attributes:
        covered: Number of rows that it was built over; None where it searches whatever rows it is given.
        dim: Length of the vectors that it searches for; None likewise.
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

        The score of an image is the largest of any of its alive rows with any row of the query. Of equal scores the
        lower row comes first, then the lower query row. An engine that is not ``exact`` may miss images, but what it
        returns has exact scores and rows.

        Args:
            queries: The R rows of all queries as :meth:`objemb.index.storage.schema.RowSchema.queries` encodes them:
                float32 ``(R, D)``, finite, or :class:`objemb.index.words.WordQueries`.
            groups: int64 ``(R,)``, non-decreasing: the query that each row belongs to, numbered from 0.
            k: Images per query.
            blocks: The rows that the structure was built over, in the same blocks; which rows are alive may differ from
                search to search, and no other row may be returned.
            count: Number of queries Q; by default one more than the last of ``groups``. Queries without rows find
                nothing.

        Returns:
            Hits with ``(Q, k)`` fields, padded where a query has fewer images.

        Raises:
            DamagedIndexError: A row is not finite.
            ValueError: Shapes or lengths do not fit together, or ``k`` is below 1.
        """

    @abstractmethod
    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """Hand out all bytes of the structure; an error of what takes them goes on unchanged.

        Args:
            create: Gives what takes the bytes of a file of this name, unique within the structure. Files may be written
                in turn or side by side. A structure that lives elsewhere may create none.
        """


class Engine(Plugin, ABC, Generic[Q, B]):
    """A way of searching, with its settings.

    Attributes:
        accepts: Names of the schemas whose rows it can search, see :mod:`objemb.index.storage.schema`.
        exact: Whether its structures find all that exact search finds, whatever the query.
    """

    kind = "index.engines"

    accepts: ClassVar[frozenset[str]]
    exact: ClassVar[bool] = False

    @abstractmethod
    def build(self, blocks: Sequence[B]) -> Structure[Q, B]:
        """A structure over all rows of ``blocks``, dead ones included, so that numbers of rows stay positions in them.

        Rows are read in steps; memory is that of the structure and of a sample of the rows.

        Raises:
            ImportError: A library that the engine needs is not installed; the message says which.
            ValueError: There are no rows, or too few.
        """

    @abstractmethod
    def load(self, files: Mapping[str, Buffer]) -> Structure[Q, B]:
        """The structure that :meth:`Structure.write` wrote, whatever the settings of this engine are by now.

        Args:
            files: The bytes of its files by name. Their checksums have been checked, but they may come from an
                untrusted source.

        Raises:
            ImportError: A library that the engine needs is not installed; the message says which.
            DamagedIndexError: The bytes are something else.
        """


#: A structure, and an engine, of whatever rows: the schema of an index says which.
AnyStructure: TypeAlias = Structure[Any, Any]
AnyEngine: TypeAlias = Engine[Any, Any]
