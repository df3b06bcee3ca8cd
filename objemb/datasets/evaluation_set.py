"""Evaluation sets: a JSON file of images, objects and queries.

.. code-block:: json

    {"name": "...",
     "images":  [{"file": "images/a.jpg", "instance": "cup"}, {"file": "images/b.jpg", "instances": ["cup", "tea"]}],
     "objects": [{"file": "images/b.jpg", "instance": "cup", "box": [10, 20, 80, 90]}],
     "queries": [{"file": "images/q.jpg", "instance": "cup", "box": null}]}

Files are relative to the folder of the JSON file. Boxes are xyxy edges in EXIF-corrected original pixels; a query with
the box ``null`` is the whole image. Where an entry says the ``width`` and ``height`` of its photo, and the photo has
others, boxes are turned or scaled with it. Other keys with scalar values (``kind`` ...) are attributes by which queries
can be picked. ``objects`` may be missing. A query of several instances, or of none, has ``instances``, too.

``"protocol"`` names the rules by which a benchmark is judged (a row of :data:`objemb.datasets.protocols.PROTOCOLS`);
without it, or where it is a remark of several words, an image is relevant to a query when it shows its instance. Where
that does not tell, a query lists what is relevant to it, by grade, and its instance may be missing:

.. code-block:: json

    {"protocol": "revisited", "distractors": "../r1m/jpg",
     "images": [{"file": "jpg/a.jpg", "instances": []}],
     "queries": [{"file": "jpg/q.jpg", "box": [1, 2, 30, 40],
                  "relevant": {"easy": ["jpg/a.jpg"], "hard": [], "junk": []}}]}

``"distractors"`` is a folder of further images that show nothing that is searched for. ``"crop"`` says whether
boxes of queries, and at object level all boxes, are cut out, as in ``Model.query``; ``context`` where it is missing.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.datasets.box_frames import Frames
from objemb.datasets.protocols import INSTANCES, EvaluationProtocol, protocol_named
from objemb.images.names import composed, find_spelled
from objemb.images.sources import SkippedImage, find_images
from objemb.structures import BOX_TOLERANCE, Box, Scalar, are_fractions
from objemb.structures.fields import ReadOnlyDict

_OWN_KEYS = ("file", "instance", "instances", "box", "relevant")
# shared by all entries, because there may be a million distractors without them
_NO_ATTRIBUTES: Mapping[str, Scalar] = ReadOnlyDict()
_NO_GRADES: Mapping[str, tuple[str, ...]] = ReadOnlyDict()


@dataclass(frozen=True, slots=True)
class SetEntry:
    """A database image, a database object or a query.

    Attributes:
        file: Path of the photo, relative to the set; equal strings are the same photo.
        instances: The instances that the photo, or the box, shows.
        box: The box, xyxy in EXIF-corrected original pixels, or None for the whole photo.
        attributes: All other keys of the entry.
        relevant: For a query, the images of each grade; empty if relevance is given by its instances.
    """

    file: str
    instances: tuple[str, ...]
    box: Box | None = None
    attributes: Mapping[str, Scalar] = field(default_factory=lambda: _NO_ATTRIBUTES)
    relevant: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_GRADES)


@dataclass(frozen=True)
class EvaluationSet:
    """The contents of a JSON file of images and queries.

    Attributes:
        path: The JSON file; photos are relative to its folder.
        name: Its name, or the name of the file.
        images: The database photos, followed by the distractors.
        objects: The objects with boxes in them; may be empty.
        queries: The queries.
        protocol: The protocol of the evaluation.
        distractors: Number of images from the folder of distractors.
        crop: How the boxes of queries, and at object level all boxes, are cut out, as in ``Model.query``.
    """

    path: Path
    name: str
    images: tuple[SetEntry, ...]
    objects: tuple[SetEntry, ...]
    queries: tuple[SetEntry, ...]
    protocol: EvaluationProtocol = INSTANCES
    distractors: int = 0
    crop: str = "context"

    def photo(self, file: str) -> Path:
        """The path of an entry's photo, whatever the Unicode normal form of its name."""
        return self.path.parent / find_spelled(self.path.parent, file)[0]

    def missing_photos(self) -> list[str]:
        """A line for each photo that does not exist."""
        files = dict.fromkeys(e.file for e in (*self.images, *self.objects, *self.queries))
        return [f"{file}: no such photo" for file in files if not self.photo(file).is_file()]


def read_evaluation_set(path: str | Path) -> EvaluationSet:
    """Read and check a JSON file of images and queries.

    Photos are opened only if they have boxes and the file gives their ``width`` and ``height``: if their size differs,
    the boxes are rotated or scaled accordingly, see :mod:`objemb.ops.frames`.

    Raises:
        FileNotFoundError: The file does not exist. ValueError: It is not of this format, or its boxes were made for
            other photos; the message names the file and the first wrong entries.
    """
    path = Path(path)
    data = _read_json(path)
    reader = _Reader()
    protocol = reader.protocol(data)
    images = reader.entries(data, "images")
    objects = reader.entries({"objects": [], **data}, "objects")
    queries = reader.entries(data, "queries")
    reader.expect_photos_of(objects, images)
    reader.expect_lists(queries, images, protocol)
    distractors = reader.distractors(data, path.parent, images)
    frames = Frames(reader.sizes, path.parent)
    objects, queries = (
        tuple(e if e.box is None else replace(e, box=frames.place(e.file, e.box)) for e in entries)
        for entries in (objects, queries)
    )
    reader.problems += frames.problems
    if reader.problems:
        raise ValueError(f"{path}: expected the format of an evaluation set, found{checks.lines(reader.problems)}")
    return EvaluationSet(
        path=path,
        name=str(data.get("name", path.stem)),
        images=images + distractors,
        objects=objects,
        queries=queries,
        protocol=protocol,
        distractors=len(distractors),
        crop=str(data.get("crop", "context")),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a JSON file of images and queries, found no such file")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, brackets without end
        raise ValueError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object with 'images' and 'queries', found {type(data).__name__}")
    return data


class _Reader:
    """Reads entries and collects all problems with them, so that they can be reported together."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.sizes: dict[str, tuple[float, float]] = {}  # (width, height) of the photos that say so

    def entries(self, data: Mapping[str, object], part: str) -> tuple[SetEntry, ...]:
        rows = data.get(part)
        if not isinstance(rows, list):
            found = type(rows).__name__ if part in data else "no such key"
            self.problems.append(f"{part}: expected a list, found {found}")
            return ()
        entries: dict[tuple[object, ...], SetEntry] = {}
        for number, row in enumerate(rows):
            try:
                entry = self._entry(row, part)
                key = (entry.file,) if part == "images" else (entry.file, entry.box, entry.instances)
                if key in entries:
                    raise ValueError("expected each entry once, found it twice")
                entries[key] = entry
            except ValueError as error:
                shown = f" ({row['file']})" if isinstance(row, Mapping) and "file" in row else ""
                self.problems.append(f"{part}[{number}]{shown}: {error}")
        return tuple(entries.values())

    def expect_photos_of(self, objects: Sequence[SetEntry], images: Sequence[SetEntry]) -> None:
        known = {e.file for e in images}
        for file in dict.fromkeys(e.file for e in objects):
            if file not in known:
                self.problems.append(f"objects: expected photos that are among the images, found {file!r}")

    def expect_lists(
        self, queries: Sequence[SetEntry], images: Sequence[SetEntry], protocol: EvaluationProtocol
    ) -> None:
        """Check that lists of relevant images name grades of the protocol and images of the set, each image once."""
        known = {e.file for e in images}
        for number, query in enumerate(queries):
            where = f"queries[{number}] ({query.file})"
            if protocol.graded and not query.relevant:
                self.problems.append(f"{where}: expected the key 'relevant', as {protocol.name!r} needs it, found none")
            for grade in query.relevant:
                if grade not in protocol.grades:
                    grades = checks.listed(protocol.grades)
                    self.problems.append(f"{where}: relevant: expected grades among {grades}, found {grade!r}")
            files = [file for listed in query.relevant.values() for file in listed]
            self.problems += [
                f"{where}: relevant: expected images of the set, found {file!r}" for file in files if file not in known
            ]
            self.problems += [
                f"{where}: relevant: expected each image once, found {file!r} {count} times"
                for file, count in Counter(files).items()
                if count > 1
            ]

    def protocol(self, data: Mapping[str, Any]) -> EvaluationProtocol:
        name = data.get("protocol", INSTANCES.name)
        if isinstance(name, str) and len(name.split()) > 1:  # a remark for people
            return INSTANCES
        try:
            return protocol_named(name)
        except ValueError as error:
            self.problems.append(str(error))
            return INSTANCES

    def distractors(self, data: Mapping[str, object], folder: Path, images: Sequence[SetEntry]) -> tuple[SetEntry, ...]:
        """The images of the folder of distractors, except those that are already images of the set."""
        name = data.get("distractors")
        if name is None:
            return ()
        if not isinstance(name, str) or not (folder / name).is_dir():
            self.problems.append(f"distractors: expected a folder, found none at {name!r}")
            return ()
        known = {composed(e.file) for e in images}
        photos = (f for f in find_images(folder / name) if not isinstance(f, SkippedImage))
        files = (posixpath.normpath(posixpath.join(name, f.id)) for f in photos)
        return tuple(SetEntry(file, ()) for file in files if composed(file) not in known)

    def _entry(self, row: object, part: str) -> SetEntry:
        if not isinstance(row, Mapping):
            raise ValueError(f"expected an object, found {type(row).__name__}")
        file = row.get("file")
        if not isinstance(file, str) or not file:
            raise ValueError(f"expected the key 'file' with a path, found {checks.listed(row)}")
        file = posixpath.normpath(file)
        if all(_is_number(row.get(side)) and row[side] >= 1 for side in ("width", "height")):
            self.sizes.setdefault(file, (row["width"], row["height"]))
        box = None if part == "images" else _box(row.get("box"), self.sizes.get(file))
        if part == "objects" and box is None:
            raise ValueError("expected the key 'box' with [x1, y1, x2, y2], found none")
        attributes = {k: v for k, v in row.items() if k not in _OWN_KEYS and isinstance(v, Scalar)}
        relevant = _relevant(row["relevant"]) if part == "queries" and "relevant" in row else _NO_GRADES
        instances = () if relevant and "instance" not in row else _instances(row, part)
        return SetEntry(file, instances, box, attributes or _NO_ATTRIBUTES, relevant)


def _relevant(lists: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(lists, Mapping) or not lists:
        raise ValueError(f"expected 'relevant' as lists of images by grade, found {lists!r}")
    for grade, files in lists.items():
        if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
            raise ValueError(f"relevant: expected a list of images as {grade!r}, found {files!r}")
    return {grade: tuple(posixpath.normpath(f) for f in files) for grade, files in lists.items()}


def _instances(row: Mapping[str, object], part: str) -> tuple[str, ...]:
    """The instances of an entry; an image or a query may have several or, with an empty list, none."""
    if part != "objects" and "instances" in row:
        names = row["instances"]
    elif "instance" in row:
        names = [row["instance"]]
    else:
        wanted = "'instance'" if part == "objects" else "'instance' or 'instances'"
        raise ValueError(f"expected the key {wanted}, found {checks.listed(row)}")
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"expected instances as non-empty strings, found {names!r}")
    return tuple(dict.fromkeys(names))


def _box(value: object, size: tuple[float, float] | None) -> Box | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(_is_number(v) for v in value):
        raise ValueError(f"expected box as [x1, y1, x2, y2], found {value!r}")
    x1, y1, x2, y2 = (float(v) for v in value)
    if are_fractions(value, size):
        raise ValueError(
            f"expected box as [x1, y1, x2, y2] in pixels, found fractions of the photo, from 0 to 1: {value}"
        )
    width, height = size or (math.inf, math.inf)
    inside = min(x1, y1) >= -BOX_TOLERANCE and x2 <= width + BOX_TOLERANCE and y2 <= height + BOX_TOLERANCE
    if not (inside and x1 <= x2 and y1 <= y2):
        raise ValueError(f"expected box with 0 <= x1 <= x2 <= {width:g} and 0 <= y1 <= y2 <= {height:g}, found {value}")
    return (x1, y1, x2, y2)


def _is_number(value: object) -> bool:
    # no photo is so large; False for NaN
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
