"""Reading COCO files: instances (images, their boxes, categories) and results (the boxes of a detector)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.coco.units import LIMIT, expect_pixels

#: The only class of a file that is read class-agnostically.
OBJECT = "object"
#: Category of annotated objects without an instance, which are never queries.
DISTRACTOR = "distractor"
INSTANCES_KEYS = ("images", "annotations", "categories")
RESULT_KEYS = ("image_id", "category_id", "bbox")
#: An integer as a string, ``7``, or ``7.0`` as written by table programs that treat ids as floats.
WHOLE = re.compile(r"(\d+)(\.0*)?", re.ASCII)


@dataclass(frozen=True)
class CocoImage:
    """An image listed in a file; ``size`` is ``(height, width)`` if the file gives it."""

    id: str
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class CocoBox:
    """A box of a file: finite, with a positive area, not clipped to its image.

    Attributes:
        entry: Position of its annotation in the file, for messages.
        image: Id of its image.
        box: ``(x1, y1, x2, y2)`` edges in pixels of the image.
        score: Its score, 1 if the file has none.
        label: Its label, from 0.
        segmentation: Its segmentation in the file, unchecked; see :mod:`objemb.coco.masks`.
        instance: Name of its instance, in files written by ``objemb prepare-data``; None in others.
    """

    entry: str
    image: str
    box: tuple[float, float, float, float]
    score: float
    label: int
    segmentation: object
    instance: str | None


@dataclass(frozen=True)
class CocoFile:
    """The valid content of a file.

    Attributes:
        images: Images in the order of the file.
        boxes: All valid boxes.
        classes: Names of the labels: categories by increasing id.
        problems: ``(entry, reason)`` of everything that was left out.
        entries: Number of boxes in the file, valid or not.
        named: Whether the images have file names; otherwise their ids are used as ``file_name``.
        fractional_ids: Whether ids are written as ``7.0``, as tables write integers in columns with missing values.
    """

    images: tuple[CocoImage, ...]
    boxes: tuple[CocoBox, ...]
    classes: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    entries: int
    named: bool
    fractional_ids: bool


def read_coco(file: str | Path, images: str | Path | None = None) -> CocoFile:
    """Read an instances file or a results file.

    An id may be a number or a string; ``7``, ``7.0`` and ``"7"`` are the same.

    Args:
        file: The file of instances or results.
        images: For results, the instances file with their images and categories; without it, images and categories are
            named by their ids.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a COCO file, or its boxes are not x, y, width, height in pixels; the message says what was
            found. Single invalid entries are only recorded.
    """
    content = read_json(file)
    if isinstance(content, Mapping):
        _check_instances(content, file)
        if images is not None:
            raise ValueError(f"images: expected None, for {file} names its images itself, found {images}")
        known, entries, kind, named = content, content["annotations"], "annotations", True
    else:
        entries, kind = _checked_results(content, file), "results"
        named = images is not None
        known = _implied(entries) if images is None else read_json(images)
        _check_instances(known, images or file)
    problems: list[tuple[str, str]] = []
    stored = {i.id: i for i in _images(known["images"], problems)}
    categories = _categories(known["categories"], problems)
    boxes = tuple(_boxes(kind, entries, stored.keys(), list(categories), problems))
    expect_pixels(str(file), [b.box for b in boxes], [stored[b.image].size for b in boxes])
    return CocoFile(
        images=tuple(stored.values()),
        boxes=boxes,
        classes=tuple(categories.values()),
        problems=tuple(problems),
        entries=len(entries),
        named=named,
        fractional_ids=_fractional_ids(known["images"], known["categories"], entries),
    )


def file_name_of(entry: object, key: str = "file_name") -> str | None:
    """The ``file_name`` of an entry of ``images``, or a string with another ``key``; None if it has none."""
    name = entry.get(key) if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) and name else None


def read_json(file: str | Path) -> Any:
    """The content of a COCO file, unchecked.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not valid JSON.
    """
    try:
        return json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a COCO file in JSON, found: {error}") from error


def _check_instances(content: object, file: str | Path) -> None:
    expected = f"expected the keys {checks.listed(INSTANCES_KEYS)} of COCO instances, or a list of COCO results"
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: {expected}; found {type(content).__name__}")
    wrong = [k for k in INSTANCES_KEYS if not isinstance(content.get(k), list)]
    if wrong:
        raise ValueError(f"{file}: {expected}; found {checks.listed(list(content)[:10])}, without a list {wrong[0]!r}")


def _checked_results(content: object, file: str | Path) -> list[object]:
    if not isinstance(content, list):
        raise ValueError(f"{file}: expected COCO instances or a list of COCO results, found {type(content).__name__}")
    if content and not any(isinstance(e, Mapping) and set(RESULT_KEYS) <= set(e) for e in content):
        first = list(content[0])[:10] if isinstance(content[0], Mapping) else type(content[0]).__name__
        raise ValueError(f"{file}: expected COCO results with the keys {checks.listed(RESULT_KEYS)}, found {first}")
    return content


def _implied(entries: list[object]) -> dict[str, list[dict[str, object]]]:
    """Images and categories of results without an instances file, named by their ids."""
    usable = [e for e in entries if isinstance(e, Mapping)]
    images, categories = (
        dict.fromkeys(i for e in usable if (i := _id(e.get(key))) is not None) for key in ("image_id", "category_id")
    )
    return {
        "images": [{"id": i, "file_name": i} for i in images],
        "annotations": [],
        "categories": [{"id": c, "name": c} for c in categories],
    }


def _images(entries: Iterable[Any], problems: list[tuple[str, str]]) -> Iterator[CocoImage]:
    seen = set()
    for number, entry in enumerate(entries):
        name = f"images[{number}]"
        file_name = file_name_of(entry)
        if file_name is None:
            problems.append((name, "expected the keys 'id' and 'file_name'"))
        elif (id := _id(entry.get("id"))) is None:
            problems.append((name, f"expected a number or a string as id, found {checks.short(entry.get('id'))}"))
        elif id in seen:
            problems.append((name, f"id {checks.short(entry['id'])} occurs twice; the first is used"))
        else:
            seen.add(id)
            yield CocoImage(id, file_name, _size(entry))


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = (_id(image.get(key)) for key in ("height", "width"))
    if height is None or width is None or not (height.isdecimal() and width.isdecimal()):
        return None
    size = (int(height), int(width))
    return size if min(size) > 0 and max(size) < LIMIT else None


def _categories(entries: Iterable[Any], problems: list[tuple[str, str]]) -> dict[str, str]:
    """Names of categories by id: numbers in increasing order, then strings."""
    names: dict[str, str] = {}
    for number, entry in enumerate(entries):
        id = _id(entry.get("id")) if isinstance(entry, Mapping) else None
        if id is None or not isinstance(entry.get("name"), str):
            problems.append((f"categories[{number}]", "expected a number or a string 'id' and a string 'name'"))
        elif id in names:
            problems.append((f"categories[{number}]", f"id {id} occurs twice; the first is used"))
        else:
            names[id] = entry["name"]
    return dict(sorted(names.items(), key=lambda item: (0, int(item[0]), "") if _number(item[0]) else (1, 0, item[0])))


def _boxes(
    kind: str, entries: Iterable[Any], images: Iterable[str], categories: list[str], problems: list[tuple[str, str]]
) -> Iterator[CocoBox]:
    known, labels = set(images), {c: i for i, c in enumerate(categories)}
    for number, entry in enumerate(entries):
        name = _entry_name(kind, number, entry)
        try:
            yield _box(name, entry, known, labels)
        except ValueError as error:
            problems.append((name, str(error)))


def _box(name: str, entry: object, images: set[str], labels: dict[str, int]) -> CocoBox:
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected a mapping, found {type(entry).__name__}")
    missing = [k for k in RESULT_KEYS if k not in entry]
    if missing:
        raise ValueError(f"expected the keys {checks.listed(RESULT_KEYS)}, found no {missing[0]!r}")
    image, category, score = _id(entry["image_id"]), _id(entry["category_id"]), entry.get("score", 1.0)
    if image is None or image not in images:
        raise ValueError(f"unknown image_id {checks.short(entry['image_id'])}")
    if category is None or category not in labels:
        raise ValueError(f"unknown category_id {checks.short(entry['category_id'])}")
    if entry.get("iscrowd"):
        raise ValueError("a crowd, not one object (iscrowd)")
    if not _is_number(score):
        raise ValueError(f"expected a finite score, found {checks.short(score)}")
    instance = entry.get("instance")
    return CocoBox(
        entry=name,
        image=image,
        box=_edges(entry["bbox"]),
        score=score,
        label=labels[category],
        segmentation=entry.get("segmentation"),
        instance=instance if isinstance(instance, str) else None,
    )


def _entry_name(kind: str, number: int, entry: object) -> str:
    """The position of an entry in the file and, if it has one, its id."""
    id = _id(entry.get("id")) if isinstance(entry, Mapping) else None
    return f"{kind}[{number}]" if id is None else f"{kind}[{number}] (id {id})"


def _edges(bbox: object) -> tuple[float, float, float, float]:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(v) for v in bbox):
        raise ValueError(f"expected a bbox of four finite numbers x, y, width, height, found {checks.short(bbox)}")
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        raise ValueError(f"expected a bbox with width and height above 0, found {bbox!r}")
    return x, y, x + width, y + height


def _id(value: object) -> str | None:
    """An id as a string, the same for ``7``, ``7.0``, ``"7"`` and ``"7.0"``; None for an invalid id."""
    if type(value) is float and abs(value) < 2**53 and value.is_integer():
        value = int(value)
    if type(value) is int:
        return str(value) if abs(value) < 10**18 else None
    if not isinstance(value, str):
        return None
    whole = WHOLE.fullmatch(value)
    return whole[1] if whole else value


def _fractional_ids(images: Iterable[object], categories: Iterable[object], boxes: Iterable[object]) -> bool:
    keys = ((images, ("id",)), (categories, ("id",)), (boxes, ("image_id", "category_id")))
    return any(
        type(entry.get(key)) is float
        for part, names in keys
        for entry in part
        if isinstance(entry, Mapping)
        for key in names
    )


def _number(id: str) -> bool:
    return id.removeprefix("-").isdecimal() and len(id) < 20


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LIMIT
