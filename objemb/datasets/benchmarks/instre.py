"""INSTRE: Wang and Jiang, INSTRE: a new benchmark for instance-level object retrieval and recognition, TOMM 2015."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from objemb.datasets.benchmarks._lists import GroundTruth, read_ground_truth
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks.base import Benchmark
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.registry import plugin
from objemb.structures import Box

logger = logging.getLogger(__name__)

FILE = "gnd_instre.mat"
IMAGES, QUERIES = 27_293, 1_250
#: Two formats of boxes, with the conversion of each to corners.
XYXY, XYWH = "x1 y1 x2 y2", "x y width height"


@plugin
class Instre(Benchmark):
    """250 objects in 27,293 photos, with boxes; for each, 5 further photos with a box are queries.

    Queries and lists are those of Iscen et al., Efficient diffusion on region manifolds, CVPR 2017. Whether the boxes
    of their file are two corners, or a corner and a size, is detected: it is the format with which all of them lie in
    their photos, and if both do, the one with which they equal the boxes in the files beside the photos.
    """

    layout = """\
Expected below the folder:
  INSTRE-S1/ INSTRE-S2/ INSTRE-M/    a folder per object or pair with photos, and a .txt file of boxes beside each
  gnd_instre.mat       queries and lists of what is relevant, in which numbers count from 1
The photos (INSTRE_release) are on the page of the data set (Institute of Computing Technology, Beijing), the file is in
the test script of "Efficient Diffusion on Region Manifolds" by Ahmet Iscen."""

    def missing(self, root: Path) -> list[str]:
        """The ground truth."""
        return [] if (root / FILE).is_file() else [f"{FILE}: no such file"]

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set; objects are the boxes in the files beside the photos, if they can be distinguished."""
        truth = read_ground_truth(root / FILE, ("ok",))
        with Problems(truth.file) as problems:
            _expect_photos(problems, root, truth)
            for number, query in enumerate(truth.queries):
                problems.positives(f"gnd[{number}] ({query.name})", query.lists, ("ok",))
            problems.check()
            boxes = _query_boxes(problems, root, truth)
        if (len(truth.images), len(truth.queries)) != (IMAGES, QUERIES):
            found = f"{len(truth.images):,} and {len(truth.queries):,}"
            logger.warning(
                "%s: expected %s images and %s queries, found %s", root, f"{IMAGES:,}", f"{QUERIES:,}", found
            )
        shown = _instances(truth)
        return {
            "protocol": "instre",
            "crop": "crop",
            "images": [{"file": name, "instances": sorted(shown.get(name, ()))} for name in truth.images],
            "objects": list(_objects(root, truth.images, shown)),
            "queries": [
                {"file": q.name, "instance": _class(q.name), "box": box, "relevant": {"positive": list(q.lists["ok"])}}
                for q, box in zip(truth.queries, boxes, strict=True)
            ],
        }


def _expect_photos(problems: Problems, root: Path, truth: GroundTruth) -> None:
    for key, names in (("imlist", truth.images), ("qimlist", [q.name for q in truth.queries])):
        for number, name in enumerate(names):
            if not (root / name).is_file():
                problems.add(f"{key}[{number}]", f"expected a photo, found none at {name!r}")


def _class(file: str) -> str:
    """The object of a query: the name of its folder."""
    return PurePosixPath(file).parent.name


def _instances(truth: GroundTruth) -> dict[str, set[str]]:
    """The objects in each database photo, according to the lists of the queries."""
    shown: dict[str, set[str]] = {}
    for query in truth.queries:
        for image in query.lists["ok"]:
            shown.setdefault(image, set()).add(_class(query.name))
    return shown


def _query_boxes(problems: Problems, root: Path, truth: GroundTruth) -> list[Box | None]:
    """The boxes of all queries, read in the one format that fits all of them."""
    sizes = [_size(problems, f"qimlist[{n}]", root / q.name) for n, q in enumerate(truth.queries)]
    problems.check()
    convention = _convention(problems, root, truth, sizes)
    return [
        problems.box_within(f"gnd[{n}] ({q.name}): bbx", _corners(q.box, convention), width, height)
        for n, (q, (width, height)) in enumerate(zip(truth.queries, sizes, strict=True))
    ]


def _convention(problems: Problems, root: Path, truth: GroundTruth, sizes: Sequence[tuple[int, int]]) -> str:
    """The format of the boxes of the queries."""
    fitting = [
        convention
        for convention in (XYXY, XYWH)
        if all(_fits(_corners(q.box, convention), size) for q, size in zip(truth.queries, sizes, strict=True))
    ]
    if len(fitting) == 1:
        return fitting[0]
    beside = [(q.box, boxes) for q in truth.queries if (boxes := _boxes_beside(root / q.name))]
    votes = {c: sum(_equals_one(_corners(box, c), boxes) for box, boxes in beside) for c in (XYXY, XYWH)}
    if votes[XYXY] == votes[XYWH]:
        problems.add(
            "gnd: bbx",
            f"expected boxes that are {XYXY} or {XYWH}, found {'both possible' if fitting else 'neither'}: "
            f"{votes[XYXY]} and {votes[XYWH]} of {len(beside)} equal a box of the .txt files beside their photos",
        )
    return max(votes, key=lambda c: votes[c])


def _corners(box: Sequence[float], convention: str) -> tuple[float, ...]:
    if convention == XYXY or len(box) != 4:
        return tuple(box)
    x, y, width, height = box
    return (x, y, x + width, y + height)


def _fits(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether two boxes agree within a pixel, since annotators count from 0 or from 1."""
    if len(box) != 4:
        return False
    x1, y1, x2, y2 = box
    return -1 <= x1 < x2 <= size[0] + 1 and -1 <= y1 < y2 <= size[1] + 1


def _equals_one(box: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    return any(all(abs(a - b) <= 1 for a, b in zip(box, other, strict=True)) for other in others if len(box) == 4)


def _boxes_beside(photo: Path) -> list[tuple[float, ...]]:
    """The boxes in the text file of a photo, one x y width height per line, as corners; none if a line is not a box."""
    file = photo.with_suffix(".txt")
    if not file.is_file():
        return []
    lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    try:
        boxes = [tuple(float(word) for word in line) for line in lines]
    except ValueError:
        return []
    return [_corners(box, XYWH) for box in boxes if len(box) == 4]


def _objects(root: Path, images: Sequence[str], shown: Mapping[str, set[str]]) -> Iterable[dict[str, object]]:
    """The boxes in the files beside the photos: the first line is that of the first object by name, and so on."""
    for image in images:
        instances, boxes = sorted(shown.get(image, ())), _boxes_beside(root / image)
        if len(instances) == len(boxes):
            for instance, (x1, y1, x2, y2) in zip(instances, boxes, strict=True):
                if 0 <= x1 <= x2 and 0 <= y1 <= y2:
                    yield {"file": image, "instance": instance, "box": [x1, y1, x2, y2]}


def _size(problems: Problems, entry: str, photo: Path) -> tuple[int, int]:
    """Width and height of a photo."""
    try:
        height, width = read_photo(photo, side=1).size
    except UnreadableImageError as error:
        problems.add(entry, f"expected a photo that can be read, found {photo.name}: {error.reason}")
        return (0, 0)
    return (width, height)
