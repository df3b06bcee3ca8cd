"""The common base of the original Oxford and Paris buildings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from objemb import checks
from objemb.datasets.benchmarks._lists import read_ground_truth
from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks._texts import read_texts, text_folders
from objemb.datasets.benchmarks.base import Benchmark
from objemb.structures import Box

logger = logging.getLogger(__name__)

#: Forms of queries: the box of a query, or its whole photo.
QUERIES = ("crop", "full")
#: Grades of positives; pickles only have the second.
POSITIVE = ("good", "ok")


class Buildings(Benchmark):
    """Photos of landmarks and, for each landmark, five queries: parts of photos of the database.

    Images graded good (clearly visible) and ok (at least a quarter visible) are positives, including the query's own
    photo; junk is left out of the ranking. Philbin et al., CVPR 2007 and CVPR 2008.

    Args:
        queries: ``crop`` searches for the box of a query, at the scale that it has in its photo, as in the protocol.
            ``full`` searches for its whole photo; such results are not comparable with those of the benchmark.
    """

    pickle: ClassVar[str]
    counts: ClassVar[Sequence[int]]
    left_out: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, queries: str = "crop") -> None:
        self.queries = checks.one_of("queries", queries, QUERIES)

    @property
    def title(self) -> str:
        """The name of the set."""
        return super().title if self.queries == "crop" else f"{super().title} with full queries"

    @property
    def variant(self) -> str:
        """``-full`` for full queries."""
        return "" if self.queries == "crop" else "-full"

    def missing(self, root: Path) -> list[str]:
        """Images, and ground truth in one of the two forms."""
        lines = missing_photos(root)
        folders = [] if (root / self.pickle).is_file() else text_folders(root)
        if len(folders) > 1:
            names = checks.listed(str(f.relative_to(root)) for f in folders)
            lines.append(f"*_query.txt: expected them in one folder, found them in {names}")
        elif not folders and not (root / self.pickle).is_file():
            lines.append(f"{self.pickle}, or *_query.txt, *_good.txt, *_ok.txt and *_junk.txt: no such files")
        return lines

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set; the pickle is read if both forms exist."""
        photos = Photos(root, left_out=self.left_out)
        images, rows = (
            self._from_lists(root, photos) if (root / self.pickle).is_file() else self._from_texts(root, photos)
        )
        if len(images) not in self.counts:
            expected = " or ".join(f"{count:,}" for count in self.counts)
            logger.warning("%s: expected %s images, found %s", root, expected, f"{len(images):,}")
        objects = {(row["file"], row["instance"]): row for row in rows}
        return {
            "protocol": "oxford",
            "crop": "scaled",
            "images": [{"file": photos.file(name), "instances": []} for name in images],
            "objects": [{k: row[k] for k in ("file", "instance", "box")} for row in objects.values()],
            "queries": [row | {"box": row["box"] if self.queries == "crop" else None} for row in rows],
        }

    def _from_texts(self, root: Path, photos: Photos) -> tuple[Sequence[str], list[dict[str, object]]]:
        (folder,) = text_folders(root)
        rows = []
        with Problems(folder) as problems:
            for query in read_texts(folder, photos):
                problems.positives(query.name, query.lists, POSITIVE)
                box = problems.box(f"{query.name}_query.txt", query.box, photos.path(query.image))
                rows.append(_row(photos, query.image, query.landmark, box, query.lists) | {"query": query.name})
        return tuple(photos), rows

    def _from_lists(self, root: Path, photos: Photos) -> tuple[Sequence[str], list[dict[str, object]]]:
        truth = read_ground_truth(root / self.pickle, ("ok", "junk"))
        rows = []
        with Problems(truth.file) as problems:
            images = photos.known(problems, "imlist", truth.images)
            photos.known(problems, "qimlist", [query.name for query in truth.queries])
            problems.check()  # boxes can only be checked in existing photos
            landmarks: dict[tuple[str, ...], str] = {}
            for number, query in enumerate(truth.queries):
                entry = f"gnd[{number}] ({query.name})"
                problems.positives(entry, query.lists, POSITIVE)
                box = problems.box(f"{entry}: bbx", query.box, photos.path(query.name))
                # nothing names the landmark, but its queries have the same lists
                landmark = landmarks.setdefault(query.lists["ok"], query.name)
                rows.append(_row(photos, query.name, landmark, box, query.lists))
        return images, rows


def _row(
    photos: Photos, image: str, landmark: str, box: Box | None, lists: Mapping[str, Sequence[str]]
) -> dict[str, object]:
    relevant = {grade: [photos.file(n) for n in listed if n in photos] for grade, listed in lists.items()}
    return {"file": photos.file(image), "instance": landmark, "box": box, "relevant": relevant}
