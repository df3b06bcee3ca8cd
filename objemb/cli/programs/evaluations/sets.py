"""The columns of an evaluation: sets and benchmarks, each with its retrieval task."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from objemb.checks import ObjembError
from objemb.datasets.benchmarks import prepared
from objemb.datasets.evaluation_set import EvaluationSet, SetEntry, read_evaluation_set
from objemb.evaluation.retrieval_task import RetrievalTask, make_task, pick_queries, with_photos_as_queries
from objemb.images.sources import ImageRef, find_images


@dataclass(frozen=True)
class OpenSet:
    """A set that was opened.

    Attributes:
        data: The set.
        task: The retrieval task on the set.
    """

    data: EvaluationSet
    task: RetrievalTask

    def to_json(self, args: argparse.Namespace) -> dict[str, Any]:
        """The description of the set in a report."""
        data, task = self.data, self.task
        return {
            "name": data.name,
            "file": str(data.path),
            "protocol": data.protocol.name,
            "figure": data.protocol.main_figure,
            "level": task.level,
            "conditions": args.queries,
            "photos_as_queries": args.photos_as_queries,
            "crop": args.crop or data.crop,
            "images": len(data.images),
            "distractors": data.distractors,
            "objects": len(data.objects),
            "database": len(task.database),
            "queries": len(task.queries),
            "missing_photos": data.missing_photos(),
        }


@dataclass(frozen=True)
class FailedSet:
    """A set that could not be opened, with the error."""

    name: str
    error: str


def open_sets(args: argparse.Namespace) -> list[OpenSet | FailedSet]:
    """Open all sets of a command line. If there are several, one that cannot be opened becomes a :class:`FailedSet`; if
    there is only one, the error is raised."""
    openers: dict[str, Callable[[], EvaluationSet]] = {}
    for path in args.set:
        openers[str(path)] = partial(read_evaluation_set, path)
    for name in args.dataset:
        openers[name] = partial(open_benchmark, name, args.root)
    opened: list[OpenSet | FailedSet] = []
    for name, open_one in openers.items():
        try:
            opened.append(_with_task(open_one(), args))
        except (ObjembError, ValueError, OSError, ImportError) as error:
            if len(openers) == 1:
                raise
            opened.append(FailedSet(Path(name).stem, str(error)))
    names = [one.name if isinstance(one, FailedSet) else one.data.name for one in opened]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--set: expected sets of different names, found {', '.join(twice)} more than once")
    return opened


def open_benchmark(name: str, root: Path) -> EvaluationSet:
    """Open a benchmark in the subfolder of ``root`` with its name, or in ``root`` if there is no such subfolder.

    Its ground truth is converted once, to ``NAME.json`` in that folder.
    """
    folder = root / name if (root / name).is_dir() else root
    return read_evaluation_set(prepared(name, folder))


def with_distractors(data: EvaluationSet, folder: Path) -> EvaluationSet:
    """The set with the photos of a folder added to its database, except those that it has already."""
    if not folder.is_dir():
        raise ValueError(f"--distractors: expected a folder of photos, found none at {folder}")
    known = {os.path.realpath(data.photo(entry.file)) for entry in data.images}
    photos = (ref.path for ref in find_images(folder) if isinstance(ref, ImageRef))
    base = data.path.parent
    files = [os.path.relpath(path, base) for path in photos if os.path.realpath(path) not in known]
    further = tuple(SetEntry(Path(file).as_posix(), ()) for file in files)
    return replace(data, images=data.images + further, distractors=data.distractors + len(further))


def _with_task(data: EvaluationSet, args: argparse.Namespace) -> OpenSet:
    if args.distractors is not None:
        data = with_distractors(data, args.distractors)
    task = make_task(data, args.level, all_objects_as_queries=args.all_objects_as_queries)
    picked = pick_queries(task, args.queries)
    return OpenSet(data, with_photos_as_queries(picked) if args.photos_as_queries else picked)
