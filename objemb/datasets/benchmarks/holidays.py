"""INRIA Holidays: Jegou et al., Hamming embedding and weak geometric consistency, ECCV 2008."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks.base import Benchmark
from objemb.registry import plugin

logger = logging.getLogger(__name__)

#: Names of images: six digits, of which the first four number the group and the last two the image in it.
NAME = re.compile(r"\d{6}")
IMAGES, QUERIES = 1491, 500


@plugin
class Holidays(Benchmark):
    """1,491 photos in 500 groups of the same scene; the first photo of each group is the query for the others.

    Photos are rotated according to their EXIF data only. Rotating the others by hand, as in some papers, raises figures
    by some points; state it with your figures if you use such a copy.
    """

    layout = """\
Expected below the folder:
  jpg/100000.jpg ...   the photos (jpg1.tar.gz and jpg2.tar.gz, unpacked)
They are on the page of the INRIA Holidays data set. Names are the ground truth: 1QQQRR.jpg is photo RR of group QQQ,
and photo 00 of a group is its query."""

    def missing(self, root: Path) -> list[str]:
        """The photos."""
        return missing_photos(root)

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set."""
        photos = Photos(root)
        names = sorted(photos)
        with Problems(root / "jpg") as problems:
            for name in names:
                if not NAME.fullmatch(name):
                    problems.add(photos.path(name).name, "expected a name of six digits, found another")
            problems.check()
            groups = {name[:4] for name in names}
            queries = [name for name in names if name.endswith("00")]
            for group in sorted(groups - {name[:4] for name in queries}):
                problems.add(f"{group}00.jpg", "expected the query of this group, found no such photo")
            for query in queries:
                if sum(name[:4] == query[:4] for name in names) == 1:
                    problems.add(f"{query}.jpg", "expected other photos of this group, found none")
        if (len(names), len(queries)) != (IMAGES, QUERIES):
            expected = f"{IMAGES:,} photos and {QUERIES} queries"
            logger.warning("%s: expected %s, found %s and %s", root, expected, f"{len(names):,}", len(queries))
        return {
            "protocol": "holidays",
            "images": [{"file": photos.file(name), "instance": name[:4]} for name in names],
            "queries": [{"file": photos.file(name), "instance": name[:4], "box": None} for name in queries],
        }
