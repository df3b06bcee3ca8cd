"""Searches with the vectors of one network, and the average precision of their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from objemb.cli.programs.analyses.features import FeatureView
from objemb.cli.programs.analyses.settings import SUM, Setting
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.ranks import rank_items
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import listed_items
from objemb.layers.whitening import Whitening
from objemb.ops.tensors import as_tensor, l2
from objemb.structures import ImageRows
from objemb.types import BoolArray, Float32Array, Float64Array


class LayerSearch:
    """Searches of a retrieval task with the vectors of one network.

    One PCA gives all dimensions: a smaller space consists of the first components of a larger one. A whitening is
    fitted on the same kind of regions that it is applied to: for sums, these are without the items' own boxes.

    Args:
        rows: Rows of the set by view. Images are those of the database, followed by the queries.
        sample: Rows of other photos by the same views, to fit whitenings on; empty for no whitening. Images are these
            photos, or their objects.
        task: The retrieval task.
    """

    def __init__(
        self, rows: Mapping[FeatureView, ImageRows], sample: Mapping[FeatureView, ImageRows], task: RetrievalTask
    ) -> None:
        items, queries = len(task.database), len(task.queries)
        self._database = {view: of_view.of_images(0, items) for view, of_view in rows.items()}
        self._queries = {view: of_view.of_images(items, items + queries) for view, of_view in rows.items()}
        self._sample = sample
        self._spaces: dict[tuple[FeatureView, bool], Whitening] = {}
        self._relevance, self._listed = task.relevance, listed_items(task)

    def rank(self, layer: str, setting: Setting) -> int:
        """The largest possible dimension: the channels of the layer, or the rank of its whitening."""
        view = FeatureView(layer, setting.kind, setting.pooling)
        space = self._space(view, setting)
        return self._database[view].dim if space is None else space.dim

    def precisions(self, layer: str, setting: Setting, dims: Sequence[int]) -> Iterator[Float64Array]:
        """For each dimension float64 ``(Q,)``: average precision by query, NaN for queries without positives or
        rows."""
        view = FeatureView(layer, setting.kind, setting.pooling)
        space = self._space(view, setting)
        stored, asked = self._database[view], self._queries[FeatureView(layer, setting.query_kind, setting.pooling)]
        if space is not None:
            stored, asked = (replace(r, vectors=_mapped(r.vectors, space)) for r in (stored, asked))
        for dim in dims:
            rows, queries = (replace(r, vectors=_unit(r.vectors[:, :dim])) for r in (stored, asked))
            yield self._precisions(summed(rows) if setting.matching == SUM else rows, summed(queries))

    def _precisions(self, rows: ImageRows, queries: ImageRows) -> Float64Array:
        answered = np.diff(queries.starts) > 0
        precisions = np.full(len(answered), np.nan)
        ranked = rank_items(rows, queries, self._listed)
        for number, (of_query, relevant) in enumerate(zip(ranked, self._relevance, strict=True)):
            if answered[number]:
                ranks = of_query.ranks(relevant.positives, relevant.junk)
                precisions[number] = average_precision(ranks, len(relevant.positives))
        return precisions

    def _space(self, view: FeatureView, setting: Setting) -> Whitening | None:
        if view not in self._sample:
            return None
        key = (view, setting.matching == SUM)
        if key not in self._spaces:
            sample = self._sample[view]
            vectors = sample.vectors[summands(sample)] if setting.matching == SUM else sample.vectors
            self._spaces[key] = _fitted(view, vectors)
        return self._spaces[key]


def summands(rows: ImageRows) -> BoolArray:
    """bool ``(R,)``: the rows that are summed. The first row of an image, its own box, is summed only if it is the only
    one."""
    lengths = np.diff(rows.starts)
    kept = np.ones(len(rows.items), dtype=bool)
    kept[rows.starts[:-1][lengths > 1]] = False
    return kept


def summed(rows: ImageRows) -> ImageRows:
    """One row for each image that has rows: the sum of its :func:`summands`, with the image's own box."""
    kept = summands(rows)
    items, first = np.unique(rows.items[kept], return_index=True)
    sums = np.add.reduceat(rows.vectors[kept], first, axis=0) if len(items) else rows.vectors[:0]
    return ImageRows(rows.images, _unit(sums), items, rows.boxes[rows.starts[items]])


def _unit(vectors: Float32Array) -> Float32Array:
    return np.asarray(l2(as_tensor(vectors)).numpy())


def _mapped(vectors: Float32Array, space: Whitening) -> Float32Array:
    return np.asarray(space.map(as_tensor(vectors)).numpy())


def _fitted(view: FeatureView, vectors: Float32Array) -> Whitening:
    name = f"whitening of {view.kind}, {view.layer}, {view.pooling}"
    try:
        return Whitening.fit(as_tensor(vectors), fitted_on=name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
