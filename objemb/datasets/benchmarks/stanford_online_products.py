"""Stanford Online Products: Song et al., Deep metric learning via lifted structured feature embedding, CVPR 2016."""

from __future__ import annotations

import logging
from pathlib import Path

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems
from objemb.datasets.benchmarks.base import Benchmark
from objemb.registry import plugin

logger = logging.getLogger(__name__)

#: Images of each split.
COUNTS = {"test": 60_502, "train": 59_551}
HEADER = ("image_id", "class_id", "super_class_id", "path")


@plugin
class StanfordOnlineProducts(Benchmark):
    """Photos of products in online offers; each is a query for other photos of its product. There are no boxes.

    Args:
        split: ``test``, the benchmark, or ``train``: figures of the latter are no figures of the benchmark.
    """

    layout = """\
Expected below the folder:
  Ebay_test.txt        (Ebay_train.txt for the training split)
  bicycle_final/ ... toaster_final/    the photos, where the lists say
They are in Stanford_Online_Products.zip, on the page of the data set (Stanford CVGL)."""

    def __init__(self, *, split: str = "test") -> None:
        self.split = checks.one_of("split", split, tuple(COUNTS))

    @property
    def title(self) -> str:
        """The name of the set."""
        return super().title if self.split == "test" else f"{super().title}, training split"

    @property
    def variant(self) -> str:
        """``-train`` for the training split."""
        return "" if self.split == "test" else "-train"

    def missing(self, root: Path) -> list[str]:
        """The list of the split."""
        file = self._list(root)
        return [] if file.is_file() else [f"{file.name}: no such file"]

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set."""
        file = self._list(root)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        if not lines or tuple(lines[0].split()) != HEADER:
            raise BadGroundTruthError(
                f"{file}: expected the first line {' '.join(HEADER)!r}, found {lines[0] if lines else 'nothing'!r}"
            )
        rows: dict[str, dict[str, object]] = {}
        with Problems(file) as problems:
            for number, line in enumerate(lines[1:], 2):
                cells = line.split()
                entry = f"line {number}"
                if not cells:
                    continue
                if len(cells) != len(HEADER):
                    problems.add(entry, f"expected {' '.join(HEADER)}, found {line!r}")
                elif cells[3] in rows:
                    problems.add(entry, f"expected each photo once, found {cells[3]!r} again")
                elif not (root / cells[3]).is_file():
                    problems.add(entry, f"expected a photo, found none at {cells[3]!r}")
                else:
                    rows[cells[3]] = {"file": cells[3], "instance": cells[1]}
            if not rows:
                problems.add("lines", "expected at least one photo, found none")
        if len(rows) != COUNTS[self.split]:
            logger.warning("%s: expected %s photos, found %s", file, f"{COUNTS[self.split]:,}", f"{len(rows):,}")
        queries = [{**row, "box": None} for row in rows.values()]
        return {"protocol": "recall", "images": list(rows.values()), "queries": queries}

    def _list(self, root: Path) -> Path:
        return root / f"Ebay_{self.split}.txt"
