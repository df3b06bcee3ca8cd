"""What is to be found in what: the database, the queries and the relevance of an evaluation."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from objemb import checks
from objemb.evaluation.protocol import Entry, EvaluationSet

LEVELS = ("image", "object")


@dataclass(frozen=True, eq=False)
class Relevance:
    """What counts for one query, as database numbers.

    Attributes:
        positives: int64 ``(P,)``, what should be found.
        junk: int64 ``(J,)``, what is left out of the ranking: all that comes from the query's own photo.
    """

    positives: NDArray[np.int64]
    junk: NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What is to be found in what.

    At image level the database is the photos, and a photo is relevant when it shows the query's instance. At object
    level it is the boxed objects, and an object is relevant when it is of the query's instance. In both, all that
    comes from the query's own photo is left out.

    Attributes:
        level: ``image`` or ``object``.
        database: Photos, or objects.
        queries: What is searched for.
    """

    level: str
    database: tuple[Entry, ...]
    queries: tuple[Entry, ...]

    @functools.cached_property
    def relevance(self) -> list[Relevance]:
        """Per query what is relevant and what is left out."""
        by_instance: dict[str, list[int]] = defaultdict(list)
        by_file: dict[str, list[int]] = defaultdict(list)
        for number, entry in enumerate(self.database):
            by_file[entry.file].append(number)
            for instance in entry.instances:
                by_instance[instance].append(number)
        found = []
        for query in self.queries:
            same = {n for instance in query.instances for n in by_instance.get(instance, ())}
            own = np.array(by_file.get(query.file, ()), dtype=np.int64)
            positives = np.setdiff1d(np.array(sorted(same), dtype=np.int64), own)
            found.append(Relevance(positives, own))
        return found

    def queries_without_positives(self) -> list[str]:
        """One line per query to which nothing in the database is relevant; such queries are left out of the means."""
        return [
            f"queries[{number}] ({query.file}, {', '.join(query.instances)}): nothing in another photo is relevant"
            for number, (query, relevant) in enumerate(zip(self.queries, self.relevance, strict=True))
            if not len(relevant.positives)
        ]


def make_task(data: EvaluationSet, level: str = "image", *, all_objects_as_queries: bool = False) -> Task:
    """The task of a set at image or object level.

    Args:
        data: The set.
        level: ``image`` or ``object``.
        all_objects_as_queries: Search for every object of the database instead of the set's own queries.
    """
    checks.one_of("level", level, LEVELS)
    if (level == "object" or all_objects_as_queries) and not data.objects:
        raise ValueError(f"{data.path}: expected 'objects' with boxes for the object level, found none")
    database = data.images if level == "image" else data.objects
    return Task(level, database, data.objects if all_objects_as_queries else data.queries)


def pick_queries(task: Task, conditions: Sequence[str]) -> Task:
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


def _values(query: Entry, key: str) -> tuple[str, ...]:
    """The values of a query under a key as they are written in a condition: JSON, strings without quotes."""
    if key == "instance":
        return query.instances
    if key == "file":
        return (query.file,)
    if key not in query.attributes:
        return ()
    value = query.attributes[key]
    return (value if isinstance(value, str) else json.dumps(value),)
