"""What the store of Qdrant uses of its client, on Qdrant Edge: the core of the server, in this process.

Truth values are kept as texts, since Edge's interface for Python (0.9) takes ``True`` in a condition for the integer 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import qdrant_edge as edge
from qdrant_client import models

#: Types of payload indexes by their names in the client.
INDEXES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Keyword,
}


class EdgeClient:
    """Collections as shards in folders of ``place``; those of an earlier process are there again.

    Args:
        place: The folder.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        place.mkdir(exist_ok=True)
        self._shards = {folder.name: edge.EdgeShard.load(str(folder)) for folder in place.iterdir()}

    def collection_exists(self, name: str) -> bool:
        return name in self._shards

    def create_collection(self, name: str, vectors_config: models.VectorParams) -> None:
        vectors = edge.EdgeVectorParams(vectors_config.size, edge.Distance.Dot)
        eager = edge.EdgeOptimizersConfig(indexing_threshold=1)
        config = edge.EdgeConfig(vectors=vectors, optimizers=eager)
        self._shards[name] = edge.EdgeShard.create(str(self._place / name), config)

    def delete_collection(self, name: str) -> None:
        if name in self._shards:
            self._shards.pop(name).close()
            shutil.rmtree(self._place / name)

    def create_payload_index(self, name: str, field: str, schema: models.PayloadSchemaType, wait: bool) -> None:
        self._shards[name].update(edge.UpdateOperation.create_field_index(field, INDEXES[schema.value]))

    def upsert(self, name: str, points: Sequence[models.PointStruct], wait: bool) -> None:
        made = [edge.Point(p.id, p.vector, {k: kept(value) for k, value in (p.payload or {}).items()}) for p in points]
        self._shards[name].update(edge.UpdateOperation.upsert_points(made))

    def delete(self, name: str, selector: models.PointIdsList | models.FilterSelector, wait: bool) -> None:
        self._shards[name].update(
            edge.UpdateOperation.delete_points(selector.points)
            if isinstance(selector, models.PointIdsList)
            else edge.UpdateOperation.delete_points_by_filter(said(selector.filter))
        )

    def count(self, name: str, count_filter: models.Filter, exact: bool) -> SimpleNamespace:
        found = self._shards[name].count(edge.CountRequest(exact=exact, filter=said(count_filter)))
        return SimpleNamespace(count=found)

    def scroll(
        self,
        name: str,
        scroll_filter: models.Filter | None,
        limit: int,
        offset: Any,
        with_payload: Sequence[str],
        with_vectors: bool,
    ) -> tuple[list[Any], Any]:
        request = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            filter=None if scroll_filter is None else said(scroll_filter),
            with_payload=list(with_payload),
            with_vector=with_vectors,
        )
        points, following = self._shards[name].scroll(request)
        return points, following

    def query_batch_points(self, name: str, requests: Sequence[models.QueryRequest]) -> list[SimpleNamespace]:
        return [SimpleNamespace(points=self._shards[name].query(asked(request))) for request in requests]

    def get_collection(self, name: str) -> SimpleNamespace:
        about = self._shards[name].info()
        return SimpleNamespace(
            indexed_vectors_count=about.indexed_vectors_count, status="green", segments_count=about.segments_count
        )

    def update_collection(self, name: str, optimizers_config: models.OptimizersConfigDiff) -> None:
        """Build the index for approximate search, which a server does by itself when it is told from how many points
        on."""
        self._shards[name].optimize()

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()


def asked(request: models.QueryRequest) -> edge.QueryRequest:
    """A search."""
    assert request.params is not None
    assert isinstance(request.with_payload, list)
    return edge.QueryRequest(
        limit=request.limit,
        query=edge.Query.Nearest(request.query),
        filter=said(request.filter),
        params=edge.SearchParams(exact=request.params.exact),
        with_payload=request.with_payload,
    )


def kept(value: Any) -> Any:
    """A value as it is stored."""
    return str(value) if isinstance(value, bool) else value


def said(condition: Any) -> Any:
    """A filter, or a part of one."""
    if isinstance(condition, models.Filter):
        parts = {
            name: [said(part) for part in (value if isinstance(value, list) else [value])]
            for name in ("must", "should", "must_not")
            if (value := getattr(condition, name)) is not None
        }
        return edge.Filter(**parts)
    if isinstance(condition, models.IsEmptyCondition):
        return edge.IsEmptyCondition(condition.is_empty.key)
    if isinstance(condition, models.HasIdCondition):
        return edge.HasIdCondition(set(condition.has_id))
    assert isinstance(condition, models.FieldCondition)
    if condition.range is not None:
        bounds = {name: getattr(condition.range, name) for name in ("gte", "gt", "lte", "lt")}
        return edge.FieldCondition(condition.key, range=edge.RangeFloat(**bounds))
    if isinstance(condition.match, models.MatchAny):
        return edge.FieldCondition(condition.key, match=edge.MatchAny(list(condition.match.any)))
    assert isinstance(condition.match, models.MatchValue)
    return edge.FieldCondition(condition.key, match=edge.MatchValue(kept(condition.match.value)))
