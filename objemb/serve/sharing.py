"""Queries of the same time share forward passes, where that changes no answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from objemb.models.base import EmbeddingModel, OpenQuery
from objemb.structures import Described, RegionDescriptors

#: Passes that are made both ways before queries share one without a comparison.
COMPARISONS = 3


@dataclass(frozen=True, eq=False)
class WaitingQuery:
    """A query that waits for a forward pass.

    Attributes:
        model: The model that describes it.
        query: The query.
        shapes: What :meth:`EmbeddingModel.shapes_of` says of it, not None.
    """

    model: EmbeddingModel
    query: OpenQuery
    shapes: Hashable

    @property
    def kind(self) -> Hashable:
        """What queries have in common that may share a pass."""
        return id(self.model), self.shapes


class SharedPasses:
    """Describes queries, several in one forward pass where each is then described as it is alone, to the last bit.

    Whether it is depends on kernels that libraries choose by the shapes of arrays, by the processor and its threads,
    and not on what is in the arrays. So of each kind, that is of equal shapes and equally many, the first passes are
    made both ways: their queries get what they would get alone, and only if nothing differed do later ones share.

    Args:
        most: Queries that share a pass.
        filled: Whether every pass has ``most`` queries, copies of the last one where fewer wait. The shapes are then
            the same whoever asks, also where kernels for more queries round in another way; but a query that is alone
            costs as much as ``most``, and its vector may differ from that of :meth:`EmbeddingModel.query` by rounding.
        on_pass: Called with the number of queries of each pass; not for comparisons.
    """

    def __init__(self, most: int, *, filled: bool = False, on_pass: Callable[[int], None] = lambda count: None) -> None:
        self._most = most
        self._filled = filled
        self._on_pass = on_pass
        # of each kind the comparisons without a difference, None if there was one
        self._equal: dict[Hashable, int | None] = {}

    def describe(self, waiting: Sequence[WaitingQuery]) -> list[Described | Exception]:
        """A description of each query, or the error of the one that failed, in order; all are of one :attr:`kind
        <WaitingQuery.kind>`. Several threads may call it."""
        described: list[Described | Exception] = []
        for part in self._parts(waiting):
            model, queries = part[0].model, [one.query for one in part]
            count = self._most if self._filled else len(part)
            described += self._described(model, queries, (model.fingerprint, part[0].shapes, count))
        return described

    def _parts(self, waiting: Sequence[WaitingQuery]) -> Iterator[Sequence[WaitingQuery]]:
        """Parts as large as may be: powers of two, so that there are few sizes to compare."""
        start = 0
        while start < len(waiting):
            count = min(self._most, len(waiting) - start)
            count = count if self._filled else 1 << (count.bit_length() - 1)
            yield waiting[start : start + count]
            start += count

    def _described(
        self, model: EmbeddingModel, queries: Sequence[OpenQuery], kind: Hashable
    ) -> Sequence[Described | Exception]:
        equal = self._equal.get(kind, 0)
        if len(queries) == 1 or equal is None:
            return [self._alone(model, query) for query in queries]
        if equal >= COMPARISONS:
            try:
                rows = self._pass(model, queries)
            except Exception:  # one that fails must not fail the others
                return [self._alone(model, query) for query in queries]
            self._on_pass(len(queries))
            return rows
        alone = [self._alone(model, query) for query in queries]
        if not any(isinstance(one, Exception) for one in alone):
            same = all(map(_same, alone, self._pass(model, queries)))
            self._equal[kind] = equal + 1 if same else None
        return alone

    def _alone(self, model: EmbeddingModel, query: OpenQuery) -> Described | Exception:
        self._on_pass(1)
        try:
            return self._pass(model, [query])[0]
        except Exception as error:
            return error

    def _pass(self, model: EmbeddingModel, queries: Sequence[OpenQuery]) -> list[Described]:
        missing = self._most - len(queries) if self._filled else 0
        return model.query_opened([*queries, *[queries[-1]] * missing])[: len(queries)]


def _same(left: Described | Exception, right: Described | Exception) -> bool:
    """Whether two descriptions of a query are equal to the last bit."""
    return (
        isinstance(left, RegionDescriptors)
        and isinstance(right, RegionDescriptors)
        and np.array_equal(left.regions.boxes, right.regions.boxes)
        and np.array_equal(left.vectors, right.vectors)
    )
