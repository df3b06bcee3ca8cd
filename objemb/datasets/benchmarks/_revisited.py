"""The common base of the revisited Oxford and Paris."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from objemb.datasets.benchmarks._lists import GroundTruth, ListedQuery, read_ground_truth
from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks.base import Benchmark

logger = logging.getLogger(__name__)

GRADES = ("easy", "hard", "junk")


class Revisited(Benchmark):
    """70 queries, parts of photos that are not in the database, each with lists of easy, hard and junk images.

    Radenovic et al., Revisiting Oxford and Paris: large-scale image retrieval benchmarking, CVPR 2018.
    """

    ground_truth: ClassVar[str]
    images: ClassVar[int]

    def missing(self, root: Path) -> list[str]:
        """Images, and the ground truth as a pickle or a MATLAB file."""
        lines = missing_photos(root)
        if self._file(root) is None:
            lines.append(f"{self.ground_truth}.pkl or {self.ground_truth}.mat: no such file")
        return lines

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set; the pickle is read if both forms exist."""
        file = self._file(root)
        if file is None:
            raise FileNotFoundError(f"{root}: expected {self.ground_truth}.pkl or .mat, found neither")
        truth = read_ground_truth(file, GRADES)
        photos = Photos(root)
        if len(truth.images) != self.images:
            logger.warning("%s: expected %s images, found %s", file, f"{self.images:,}", f"{len(truth.images):,}")
        return {
            "protocol": "revisited",
            "crop": "scaled",
            "images": [{"file": file, "instances": []} for file in _files(truth, photos)],
            "queries": _queries(truth, photos),
        }

    def _file(self, root: Path) -> Path | None:
        files = (root / f"{self.ground_truth}{ending}" for ending in (".pkl", ".mat"))
        return next((file for file in files if file.is_file()), None)


def _files(truth: GroundTruth, photos: Photos) -> Sequence[str]:
    asked = {query.name for query in truth.queries}
    with Problems(truth.file) as problems:
        photos.known(problems, "imlist", truth.images)
        photos.known(problems, "qimlist", [query.name for query in truth.queries])
        for number, name in enumerate(truth.images):
            if name in asked:
                problems.add(f"imlist[{number}]", f"expected no queries among the images, found {name!r}")
    return [photos.file(name) for name in truth.images]


def _queries(truth: GroundTruth, photos: Photos) -> list[dict[str, object]]:
    with Problems(truth.file) as problems:
        return [_query(f"gnd[{n}] ({q.name})", q, photos, problems) for n, q in enumerate(truth.queries)]


def _query(entry: str, query: ListedQuery, photos: Photos, problems: Problems) -> dict[str, object]:
    problems.positives(entry, query.lists, ("easy", "hard"))
    box = problems.box(f"{entry}: bbx", query.box, photos.path(query.name))
    relevant = {grade: [photos.file(name) for name in names] for grade, names in query.lists.items()}
    return {"file": photos.file(query.name), "box": box, "relevant": relevant}
