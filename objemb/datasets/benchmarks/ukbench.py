"""UKBench: Nister and Stewenius, Scalable recognition with a vocabulary tree, CVPR 2006."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks.base import Benchmark
from objemb.registry import plugin

logger = logging.getLogger(__name__)

NAME = re.compile(r"ukbench(\d{5})")
IMAGES, VIEWS = 10_200, 4
FOLDER = "full"


@plugin
class UKBench(Benchmark):
    """2,550 objects in four consecutive photos each; every photo is a query for all four, including itself.

    The N-S score is the mean number of these among the first four hits, at most 4.
    """

    layout = """\
Expected below the folder:
  full/ukbench00000.jpg ... ukbench10199.jpg    the photos (ukbench.zip, unpacked)
They are on the page "Recognition Benchmark Images" of the University of Kentucky, and mirrored elsewhere. Names are the
ground truth: photos 0 to 3 show the first object, 4 to 7 the second, and so on."""

    def missing(self, root: Path) -> list[str]:
        """The photos."""
        return missing_photos(root, FOLDER)

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set."""
        photos = Photos(root, FOLDER)
        objects: dict[str, str] = {}
        with Problems(root / FOLDER) as problems:
            for name in sorted(photos):
                number = NAME.fullmatch(name)
                if number is None:
                    problems.add(photos.path(name).name, "expected a name such as ukbench00012, found another")
                else:
                    objects[name] = f"object {int(number[1]) // VIEWS}"
            for instance, count in Counter(objects.values()).items():
                if count != VIEWS:
                    first = VIEWS * int(instance.split()[1])
                    photo = f"ukbench{first:05} to {first + VIEWS - 1:05}"
                    problems.add(photo, f"expected {VIEWS} photos of an object, found {count}")
        if len(objects) != IMAGES:
            logger.warning("%s: expected %s photos, found %s", root, f"{IMAGES:,}", f"{len(objects):,}")
        rows = [{"file": photos.file(name), "instance": instance} for name, instance in objects.items()]
        return {"protocol": "ukbench", "images": rows, "queries": [{**row, "box": None} for row in rows]}
