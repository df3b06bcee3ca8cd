"""A retrieval task: a database, queries, and the relevant items of each query."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from objemb import checks
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry
from objemb.datasets.protocols import INSTANCES, POSITIVE, EvaluationProtocol, Setup
from objemb.types import Int64Array

LEVELS = ("image", "object")


@dataclass(frozen=True, eq=False)
class Relevance:
    """Positives and junk of one query under one setup, as indices into the database.

    Attributes:
        positives: int64 ``(P,)``, ascending: items that should be found.
        junk: int64 ``(J,)``, ascending: items that are left out of the ranking.
    """

    positives: Int64Array
    junk: Int64Array


@dataclass(frozen=True)
class RetrievalTask:
    """A database, queries, and the relevant items of each query.

    At image level, the database consists of photos; a photo is relevant if it shows the query's instance, or if the
    query's own lists say so. At object level, it consists of objects with boxes; an object is relevant if it is of the
    query's instance. The protocol decides whether items from the query's own photo count.

    Attributes:
        level: ``image`` or ``object``.
        database: Photos, or objects.
        queries: The queries.
        protocol: The protocol of the evaluation.
    """

    level: str
    database: tuple[SetEntry, ...]
    queries: tuple[SetEntry, ...]
    protocol: EvaluationProtocol = INSTANCES

    @property
    def item_ids(self) -> tuple[str, ...]:
        """The ids of the database in results: files of photos; at object level followed by ``#`` and a number."""
        if self.level == "image":
            return tuple(entry.file for entry in self.database)
        return tuple(f"{entry.file}#{number}" for number, entry in enumerate(self.database))

    @property
    def relevance(self) -> list[Relevance]:
        """Positives and junk of each query under the main setup of the protocol."""
        return self.relevance_in(self.protocol.main_setup)

    def relevance_in(self, setup: Setup) -> list[Relevance]:
        """Positives and junk of each query under a setup; an item that would be both is junk."""
        per_query = []
        for grades, own in zip(self.grades, self.own_photos, strict=True):
            junk = [own] if self.protocol.own_photo_is_junk else []
            left_out = _union([*junk, *(grades[g] for g in setup.junk if g in grades)])
            wanted = _union([grades[g] for g in setup.positive if g in grades])
            per_query.append(Relevance(np.setdiff1d(wanted, left_out, assume_unique=True), left_out))
        return per_query

    @functools.cached_property
    def grades(self) -> list[Mapping[str, Int64Array]]:
        """For each query, the database indices of each grade, ascending; without lists, those that show its
        instance."""
        by_instance: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(self.database):
            for instance in entry.instances:
                by_instance[instance].append(number)
        return [self._graded(query, by_instance) for query in self.queries]

    def _graded(self, query: SetEntry, by_instance: Mapping[str, list[int]]) -> Mapping[str, Int64Array]:
        if query.relevant:
            return {g: _numbers({self._by_file[f][0] for f in files}) for g, files in query.relevant.items()}
        return {POSITIVE: _numbers({n for instance in query.instances for n in by_instance.get(instance, ())})}

    @functools.cached_property
    def own_photos(self) -> list[Int64Array]:
        """For each query, the database indices of items from its own photo."""
        return [_numbers(self._by_file.get(query.file, ())) for query in self.queries]

    @functools.cached_property
    def _by_file(self) -> Mapping[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, entry in enumerate(self.database):
            numbers.setdefault(entry.file, []).append(number)
        return numbers

    def queries_without_positives(self) -> list[str]:
        """A line for each query without relevant items under any setup.

        Queries are left out of the means of those setups under which they have no relevant items.
        """
        others = " in another photo" if self.protocol.own_photo_is_junk else ""
        of_queries = zip(*(self.relevance_in(setup) for setup in self.protocol.setups), strict=True)
        return [
            f"queries[{number}] ({', '.join((query.file, *query.instances))}): nothing{others} is relevant"
            for number, (query, setups) in enumerate(zip(self.queries, of_queries, strict=True))
            if not any(len(relevant.positives) for relevant in setups)
        ]


def _numbers(numbers: Iterable[int]) -> Int64Array:
    return np.array(sorted(numbers), dtype=np.int64)


def _union(parts: Sequence[Int64Array]) -> Int64Array:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))


def make_task(data: EvaluationSet, level: str = "image", *, all_objects_as_queries: bool = False) -> RetrievalTask:
    """The task of a set at image or object level.

    Args:
        data: The set.
        level: ``image`` or ``object``.
        all_objects_as_queries: Search for every object of the database instead of the set's own queries.
    """
    checks.one_of("level", level, LEVELS)
    if (level == "object" or all_objects_as_queries) and not data.objects:
        raise ValueError(f"{data.path}: expected 'objects' with boxes for the object level, found none")
    by_lists = data.protocol.graded or any(q.relevant for q in data.queries)
    if by_lists and (level == "object" or all_objects_as_queries):
        raise ValueError(
            f"{data.path}: expected its own queries at image level, whose relevant images it lists, found "
            f"{'all objects as queries' if all_objects_as_queries else 'the object level'}"
        )
    database = data.images if level == "image" else data.objects
    return RetrievalTask(level, database, data.objects if all_objects_as_queries else data.queries, data.protocol)


def pick_queries(task: RetrievalTask, conditions: Sequence[str]) -> RetrievalTask:
    """The same task with only those queries that meet all conditions; the database is unchanged.

    Args:
        task: The task.
        conditions: ``key=value``, such as ``kind=iconic`` or ``package=true``; keys are the attributes of the queries,
            ``file`` and ``instance``.

    Raises:
        ValueError: A condition has another form, no query has its key, or no query meets all conditions.
    """
    queries = task.queries
    for condition in conditions:
        key, equals, wanted = condition.partition("=")
        known = sorted({"file", "instance"}.union(*(q.attributes for q in task.queries)))
        if not equals or not key:
            raise ValueError(f"query condition: expected key=value such as kind=iconic, found {condition!r}")
        checks.one_of("query condition", key, known)
        kept = tuple(q for q in queries if wanted in _values(q, key))
        if not kept:
            values = sorted({v for q in queries for v in _values(q, key)})
            raise ValueError(f"query condition {key}: expected one of {checks.listed(values[:20])}, found {wanted!r}")
        queries = kept
    return replace(task, queries=queries)


def with_photos_as_queries(task: RetrievalTask) -> RetrievalTask:
    """The same task with one query for each photo of its queries, without a box, for all instances of these queries.

    The attributes of such a query are those that all queries of the photo share.

    Raises:
        ValueError: Queries have lists of relevant images, which refer to their boxes.
    """
    if any(query.relevant for query in task.queries):
        raise ValueError("photos as queries: expected queries of instances, found lists of relevant images")
    by_file: dict[str, list[SetEntry]] = defaultdict(list)
    for query in task.queries:
        by_file[query.file].append(query)
    photos = []
    for file, queries in by_file.items():
        instances = dict.fromkeys(instance for query in queries for instance in query.instances)
        first, *others = (query.attributes for query in queries)
        shared = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in others)}
        photos.append(SetEntry(file, tuple(instances), None, shared))
    return replace(task, queries=tuple(photos))


def _values(query: SetEntry, key: str) -> tuple[str, ...]:
    """The values of a query for a key, as written in a condition: JSON, but strings without quotes."""
    if key == "instance":
        return query.instances
    if key == "file":
        return (query.file,)
    if key not in query.attributes:
        return ()
    value = query.attributes[key]
    return (value if isinstance(value, str) else json.dumps(value),)
