"""Google Landmark Boxes: Teichmann et al., Detect-to-retrieve, CVPR 2019."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.datasets.benchmarks._photos import Photos, missing_photos
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks._tables import read_table
from objemb.datasets.benchmarks.base import Benchmark
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.registry import plugin
from objemb.structures import Box

#: Files of the boxes, by split.
SPLITS = {"val": "boxes_split2.csv", "train": "boxes_split1.csv"}

#: Fractions may exceed 0 to 1 by this much, as boxes may exceed their photo by a pixel.
FRACTION_SLACK = 0.01


@plugin
class GoogleLandmarkBoxes(Benchmark):
    """How well the matched box agrees with that of the landmark: photos of Google Landmarks v1 with a box each.

    The boxes were made to train and to judge a detector; as a search it is this project's: the first boxed photo of
    each landmark, by name, searches with its box for the others.

    Args:
        split: ``val`` (``boxes_split2.csv``) or ``train`` (``boxes_split1.csv``).
    """

    layout = """\
Expected below the folder:
  train/               the photos of the training set of Google Landmarks v1, as ID.jpg, perhaps in sub-folders
  train.csv            with the columns id and landmark_id
  boxes_split2.csv     with the columns id and box (boxes_split1.csv for the training split)
Boxes are four numbers from 0 to 1: top, left, bottom, right. Tables and the list of photos were published for the
Google Landmark Retrieval Challenge 2018; the photos have to be fetched from the addresses in train.csv."""

    def __init__(self, *, split: str = "val") -> None:
        self.split = checks.one_of("split", split, tuple(SPLITS))

    @property
    def variant(self) -> str:
        """``-train`` for the training split."""
        return "" if self.split == "val" else f"-{self.split}"

    def missing(self, root: Path) -> list[str]:
        """The photos and both tables."""
        tables = [f"{name}: no such file" for name in ("train.csv", SPLITS[self.split]) if not (root / name).is_file()]
        return missing_photos(root, "train") + tables

    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set; boxes of missing photos are left out, since many are no longer online."""
        photos = Photos(root, "train")
        objects: list[dict[str, object]] = []
        with Problems(root) as problems:
            table = read_table(problems, root / "train.csv", ("id", "landmark_id"))
            landmarks = {cells["id"]: cells["landmark_id"] for _, cells in table}
            for entry, cells in read_table(problems, root / SPLITS[self.split], ("id", "box")):
                name = cells["id"]
                if name not in landmarks:
                    problems.add(entry, f"expected a photo of train.csv, found {name!r}")
                elif name in photos and cells["box"]:
                    box = _box(problems, entry, cells["box"], photos.path(name))
                    objects.append({"file": photos.file(name), "instance": landmarks[name], "box": box})
            if not objects:
                problems.add(SPLITS[self.split], "expected boxes of photos that are there, found none")
        return {
            "images": [
                {"file": o["file"], "instance": o["instance"]} for o in {o["file"]: o for o in objects}.values()
            ],
            "objects": objects,
            "queries": _first_of_each(objects),
        }


def _first_of_each(objects: list[dict[str, object]]) -> list[dict[str, Any]]:
    """For each landmark in several photos, the object in the first of these by name."""
    by_landmark = defaultdict(list)
    for one in objects:
        by_landmark[one["instance"]].append(one)
    several = (of_one for of_one in by_landmark.values() if len({o["file"] for o in of_one}) > 1)
    return [min(of_one, key=lambda o: o["file"]) for of_one in several]


def _box(problems: Problems, entry: str, text: str, photo: Path) -> Box | None:
    """A box in pixels from fractions top, left, bottom, right of the photo, which is taken to be upright."""
    try:
        top, left, bottom, right = (float(word) for word in text.split())
    except ValueError:
        problems.add(entry, f"expected a box as four numbers top left bottom right, found {text!r}")
        return None
    if not all(-FRACTION_SLACK <= v <= 1 + FRACTION_SLACK for v in (top, left, bottom, right)):
        problems.add(entry, f"expected fractions of the photo, from 0 to 1: top left bottom right, found {text!r}")
        return None
    try:
        height, width = read_photo(photo, side=1).size
    except UnreadableImageError as error:
        problems.add(entry, f"expected a photo that can be read, found {photo.name}: {error.reason}")
        return None
    values = (left * width, top * height, right * width, bottom * height)
    return problems.box_within(entry, values, width, height)
