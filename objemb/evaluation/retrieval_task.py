"""A retrieval task: the database, the queries and what is relevant to each."""

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
    """What counts for one query under one setup, as database numbers.

    Attributes:
        positives: int64 ``(P,)``, rising: what should be found.
        junk: int64 ``(J,)``, rising: what is left out of the ranking.
    """

    positives: Int64Array
    junk: Int64Array


@dataclass(frozen=True)
class RetrievalTask:
    """A database, queries, and what is relevant to each.

    At image level the database is the photos, and a photo is relevant when it shows the query's instance, or as the
    query's own lists say. At object level it is the boxed objects, and an object is relevant when it is of the query's
    instance. Whether what comes from the query's own photo counts is up to the protocol.

    Attributes:
        level: ``image`` or ``object``.
        database: Photos, or objects.
        queries: What is searched for.
        protocol: How it is judged.
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
        """Per query what is relevant and what is left out, under the main setup of the protocol."""
        return self.relevance_in(self.protocol.main_setup)

    def relevance_in(self, setup: Setup) -> list[Relevance]:
        """Per query what is relevant and what is left out under a setup; what is both is left out."""
        per_query = []
        for grades, own in zip(self.grades, self.own_photos, strict=True):
            junk = [own] if self.protocol.own_photo_is_junk else []
            left_out = _union([*junk, *(grades[g] for g in setup.junk if g in grades)])
            wanted = _union([grades[g] for g in setup.positive if g in grades])
            per_query.append(Relevance(np.setdiff1d(wanted, left_out, assume_unique=True), left_out))
        return per_query

    @functools.cached_property
    def grades(self) -> list[Mapping[str, Int64Array]]:
        """Per query the database numbers of each grade, rising; without lists, of what shows its instance."""
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
        """Per query all of the database that comes from its own photo."""
        return [_numbers(self._by_file.get(query.file, ())) for query in self.queries]

    @functools.cached_property
    def _by_file(self) -> Mapping[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, entry in enumerate(self.database):
            numbers.setdefault(entry.file, []).append(number)
        return numbers

    def queries_without_positives(self) -> list[str]:
        """One line per query to which nothing in the database is relevant under any setup.

        Queries are left out of the means of the setups under which nothing is relevant to them.
        """
        others = " in another photo" if self.protocol.own_photo_is_junk else ""
        of_queries = zip(*(self.relevance_in(setup) for setup in self.protocol.setups), strict=True)
        return [
            f"queries[{number}] ({', '.join((query.file, *query.instances))}): nothing{others} is relevant"
            for number, (query, setups) in enumerate(zip(self.queries, of_queries, strict=True))
            if not any(len(relevant.positives) for relevant in setups)
        ]


def _numbers(found: Iterable[int]) -> Int64Array:
    return np.array(sorted(found), dtype=np.int64)


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
    """The same task with the queries that meet all conditions; the database stays whole.

    Args:
        task: The task.
        conditions: ``key=value``, such as ``kind=iconic`` or ``package=true``; keys are the attributes of the queries,
            ``file`` and ``instance``.

    Raises:
        ValueError: A condition of another form, a key that no query has, or no query that meets all conditions.
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
    """The same task with one query for each photo of its queries, without a box, for anything that they look for in it.

    A photo's attributes are those that its queries have in common.

    Raises:
        ValueError: Queries with lists of what is relevant to them, which are about their boxes.
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
    """The values of a query under a key as they are written in a condition: JSON, strings without quotes."""
    if key == "instance":
        return query.instances
    if key == "file":
        return (query.file,)
    if key not in query.attributes:
        return ()
    value = query.attributes[key]
    return (value if isinstance(value, str) else json.dumps(value),)
