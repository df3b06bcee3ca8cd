"""Google Landmarks v2, retrieval: Weyand et al., Google Landmarks Dataset v2, CVPR 2020."""

from __future__ import annotations

from pathlib import Path

from objemb.datasets.benchmarks._landmarks import LandmarkQueries, find_table, solution_rows
from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.registry import plugin

SOLUTION = "retrieval_solution"


@plugin
class GoogleLandmarks(LandmarkQueries):
    """Photos of the test set are queries for photos of the same landmark in the index set; measured by mAP@100.

    Args:
        usage: Which queries: ``private`` (the paper's test split), ``public`` (its validation split) or ``all``.
    """

    layout = """\
Expected below the folder:
  index/               the photos of the index set, in the folders that their archives make (index/0/a/b/0ab....jpg)
  test/                the photos of the test set, likewise
  retrieval_solution_v2.1.csv    with the columns id, images, Usage
Archives and tables are listed in the repository cvdfoundation/google-landmark."""

    def missing(self, root: Path) -> list[str]:
        """Photos of both sets, and the solution."""
        lines = missing_photos(root, "index") + missing_photos(root, "test")
        return lines if find_table(root, SOLUTION) else [*lines, f"{SOLUTION}_v2.1.csv: no such file"]

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set."""
        file = find_table(root, SOLUTION)
        if file is None:
            raise FileNotFoundError(f"{root}: expected {SOLUTION}_v2.1.csv, found no such file")
        index, test = Photos(root, "index"), Photos(root, "test")
        queries = []
        with Problems(file) as problems:
            for entry, query, images in solution_rows(problems, file, "images", self.usage):
                if query not in test:
                    problems.add(entry, f"expected a photo below test/, found none named {query!r}")
                    continue
                problems.positives(entry, {"images": images}, ("images",))
                problems.once(entry, {"images": images})
                known_names = index.known(problems, f"{entry}: images", images)
                positive = [index.file(name) for name in known_names]
                queries.append({"file": test.file(query), "box": None, "relevant": {"positive": positive}})
            if not queries:
                problems.add("Usage", f"expected {self.usage} queries, found none")
        return {
            "protocol": "landmarks",
            "images": [{"file": index.file(name), "instances": []} for name in index],
            "queries": queries,
        }
