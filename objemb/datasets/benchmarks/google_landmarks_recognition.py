"""Google Landmarks v2, recognition: Weyand et al., Google Landmarks Dataset v2, CVPR 2020."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from objemb.datasets.benchmarks._landmarks import LandmarkQueries, find_table, solution_rows
from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks._tables import read_table
from objemb.registry import plugin

SOLUTION = "recognition_solution"


@plugin
class GoogleLandmarksRecognition(LandmarkQueries):
    """Which landmark a photo shows, if any, according to the best match in the training set; measured by GAP.

    Args:
        usage: Which queries: ``private`` (the paper's test split), ``public`` (its validation split) or ``all``.
    """

    layout = """\
Expected below the folder:
  train/               the photos of the training set, in the folders that their archives make
  test/                the photos of the test set, likewise
  train_clean.csv      what they show, with the columns landmark_id, images; or
  train.csv            with the columns id, landmark_id
  recognition_solution_v2.1.csv    with the columns id, landmarks, Usage
Archives and tables are listed in the repository cvdfoundation/google-landmark."""

    def missing(self, root: Path) -> list[str]:
        """Photos of both sets, their landmarks, and the solution."""
        lines = missing_photos(root, "train") + missing_photos(root, "test")
        if not any((root / name).is_file() for name in ("train_clean.csv", "train.csv")):
            lines.append("train_clean.csv or train.csv: no such file")
        return lines if find_table(root, SOLUTION) else [*lines, f"{SOLUTION}_v2.1.csv: no such file"]

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set; predictions for queries without a landmark count as errors."""
        file = find_table(root, SOLUTION)
        if file is None:
            raise FileNotFoundError(f"{root}: expected {SOLUTION}_v2.1.csv, found no such file")
        train, test = Photos(root, "train"), Photos(root, "test")
        images, queries = [], []
        with Problems(root) as problems:
            for entry, name, landmark in _labels(problems, root):
                if name in train:
                    images.append({"file": train.file(name), "instance": landmark})
                else:
                    problems.add(entry, f"expected a photo below train/, found none named {name!r}")
            for entry, name, landmarks in solution_rows(problems, file, "landmarks", self.usage):
                if name in test:
                    queries.append({"file": test.file(name), "box": None, "instances": landmarks})
                else:
                    problems.add(entry, f"expected a photo below test/, found none named {name!r}")
            if not any(query["instances"] for query in queries):
                problems.add("Usage", f"expected {self.usage} queries with a landmark, found none")
        return {"protocol": "recognition", "images": images, "queries": queries}


def _labels(problems: Problems, root: Path) -> Iterator[tuple[str, str, str]]:
    """Line, photo and landmark."""
    clean = root / "train_clean.csv"
    if clean.is_file():
        for entry, cells in read_table(problems, clean, ("landmark_id", "images")):
            yield from ((entry, name, cells["landmark_id"]) for name in cells["images"].split())
        return
    for entry, cells in read_table(problems, root / "train.csv", ("id", "landmark_id")):
        yield entry, cells["id"], cells["landmark_id"]
