"""Boxes from COCO files: instances (ground truth) or results (what a detector found)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objemb import checks

INSTANCES_KEYS = ("images", "annotations", "categories")
RESULT_KEYS = ("image_id", "category_id", "bbox")


@dataclass(frozen=True)
class StoredImage:
    """An image that a file knows; ``size`` is ``(height, width)`` if it says so."""

    id: str
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class StoredBox:
    """A box in pixels of its image, as the file has it: finite, with an area, perhaps beyond the image.

    ``instance`` names the very object, in files of objemb's own generators.
    """

    entry: str
    image: str
    box: tuple[float, float, float, float]
    score: float
    label: int
    segmentation: Any
    instance: str | None


@dataclass(frozen=True)
class CocoFile:
    """What could be read.

    Attributes:
        images: In the order of the file.
        boxes: All usable ones.
        classes: Names of the labels: categories by rising id.
        problems: ``(entry, reason)`` of everything that was left out.
    """

    images: tuple[StoredImage, ...]
    boxes: tuple[StoredBox, ...]
    classes: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]


def read_coco(file: str | Path, images: str | Path | None = None) -> CocoFile:
    """Read an instances file, or a results file with or without the instances file that names images and categories.

    Without one, images and categories are called by their numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a COCO file; the message says what was found. Single bad entries are only recorded.
    """
    content = _read_json(file)
    if isinstance(content, Mapping):
        _check_instances(content, file)
        if images is not None:
            raise ValueError(f"images: expected None, for {file} names its images itself, found {images}")
        known, entries, kind = content, content["annotations"], "annotations"
    else:
        entries, kind = _checked_results(content, file), "results"
        known = _implied(entries) if images is None else _read_json(images)
        _check_instances(known, images or file)
    problems: list[tuple[str, str]] = []
    stored = {i.id: i for i in _images(known["images"], problems)}
    categories = _categories(known["categories"], problems)
    boxes = tuple(_boxes(kind, entries, stored.keys(), list(categories), problems))
    return CocoFile(tuple(stored.values()), boxes, tuple(categories.values()), tuple(problems))


def _read_json(file: str | Path) -> Any:
    try:
        return json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected a COCO file in JSON, found {error}") from error


def _check_instances(content: Any, file: str | Path) -> None:
    expected = f"expected the keys {checks.listed(INSTANCES_KEYS)} of COCO instances, or a list of COCO results"
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: {expected}; found {type(content).__name__}")
    wrong = [k for k in INSTANCES_KEYS if not isinstance(content.get(k), list)]
    if wrong:
        raise ValueError(f"{file}: {expected}; found {checks.listed(list(content)[:10])}, without a list {wrong[0]!r}")


def _checked_results(content: Any, file: str | Path) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError(f"{file}: expected COCO instances or a list of COCO results, found {type(content).__name__}")
    if content and not any(isinstance(e, Mapping) and set(RESULT_KEYS) <= set(e) for e in content):
        first = list(content[0])[:10] if isinstance(content[0], Mapping) else type(content[0]).__name__
        raise ValueError(f"{file}: expected COCO results with the keys {checks.listed(RESULT_KEYS)}, found {first}")
    return content


def _implied(entries: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Images and categories of which only the numbers are known."""
    usable = [e for e in entries if isinstance(e, Mapping)]
    images = dict.fromkeys(i for e in usable if isinstance(i := e.get("image_id"), (int, str)))
    categories = {c for e in usable if _is_id(c := e.get("category_id"))}
    return {
        "images": [{"id": i, "file_name": str(i)} for i in images],
        "annotations": [],
        "categories": [{"id": c, "name": str(c)} for c in categories],
    }


def _images(entries: Iterable[Any], problems: list[tuple[str, str]]) -> Iterator[StoredImage]:
    seen = set()
    for number, entry in enumerate(entries):
        name = f"images[{number}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("file_name"), str):
            problems.append((name, "expected the keys 'id' and 'file_name'"))
        elif not isinstance(entry.get("id"), (int, str)):
            problems.append((name, f"expected a number or a string as id, found {entry.get('id')!r}"))
        elif str(entry["id"]) in seen:
            problems.append((name, f"id {entry['id']!r} occurs twice; the first is used"))
        else:
            seen.add(str(entry["id"]))
            size = (entry.get("height"), entry.get("width"))
            known = all(type(s) is int and s > 0 for s in size)
            yield StoredImage(str(entry["id"]), entry["file_name"], size if known else None)  # type: ignore[arg-type]


def _categories(entries: Iterable[Any], problems: list[tuple[str, str]]) -> dict[int, str]:
    """Names by id, rising."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not _is_id(entry.get("id")) or not isinstance(entry.get("name"), str):
            problems.append((f"categories[{number}]", "expected a number 'id' and a string 'name'"))
        elif entry["id"] in names:
            problems.append((f"categories[{number}]", f"id {entry['id']} occurs twice; the first is used"))
        else:
            names[entry["id"]] = entry["name"]
    return dict(sorted(names.items()))


def _boxes(
    kind: str, entries: Iterable[Any], images: Iterable[str], categories: list[int], problems: list[tuple[str, str]]
) -> Iterator[StoredBox]:
    known, labels = set(images), {c: i for i, c in enumerate(categories)}
    for number, entry in enumerate(entries):
        name = _entry_name(kind, number, entry)
        try:
            yield _box(name, entry, known, labels)
        except ValueError as error:
            problems.append((name, str(error)))


def _box(name: str, entry: Any, images: set[str], labels: dict[int, int]) -> StoredBox:
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected a mapping, found {type(entry).__name__}")
    missing = [k for k in RESULT_KEYS if k not in entry]
    if missing:
        raise ValueError(f"expected the keys {checks.listed(RESULT_KEYS)}, found no {missing[0]!r}")
    image, category, score = entry["image_id"], entry["category_id"], entry.get("score", 1.0)
    if not isinstance(image, (int, str)) or str(image) not in images:
        raise ValueError(f"unknown image_id {image!r}")
    if not _is_id(category) or category not in labels:
        raise ValueError(f"unknown category_id {category!r}")
    if entry.get("iscrowd"):
        raise ValueError("a crowd, not one object (iscrowd)")
    if not _is_number(score):
        raise ValueError(f"expected a finite score, found {score!r}")
    instance = entry.get("instance")
    return StoredBox(
        entry=name,
        image=str(image),
        box=_edges(entry["bbox"]),
        score=score,
        label=labels[category],
        segmentation=entry.get("segmentation"),
        instance=instance if isinstance(instance, str) else None,
    )


def _entry_name(kind: str, number: int, entry: Any) -> str:
    """Its place in the file and, where it has one, its id."""
    known = isinstance(entry, Mapping) and isinstance(entry.get("id"), (int, str))
    return f"{kind}[{number}] (id {entry['id']})" if known else f"{kind}[{number}]"


def _edges(bbox: Any) -> tuple[float, float, float, float]:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(v) for v in bbox):
        raise ValueError(f"expected a bbox of four finite numbers x, y, width, height, found {bbox!r}")
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        raise ValueError(f"expected a bbox with width and height above 0, found {bbox!r}")
    return x, y, x + width, y + height


def _is_id(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e9
