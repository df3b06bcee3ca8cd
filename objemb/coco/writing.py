"""Writing COCO instances files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from objemb import checks
from objemb.disk import write_whole


@dataclass(frozen=True)
class AnnotatedObject:
    """An object of a file to write.

    Attributes:
        box: ``(x1, y1, x2, y2)`` edges in pixels of its image.
        category: Name of its category.
        more: Further keys of its annotation, such as ``score`` or ``segmentation``; JSON-ready.
    """

    box: Sequence[float]
    category: str
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of a file to write; ``size`` is ``(height, width)`` in pixels."""

    file_name: str
    size: tuple[int, int]
    objects: Sequence[AnnotatedObject] = ()


def write_instances(
    file: Path, images: Iterable[AnnotatedImage], categories: Sequence[str], info: Mapping[str, object] | None = None
) -> int:
    """Write a COCO file with boxes as x, y, width, height and ids from 1; returns the number of annotations.

    An existing file is replaced, see :func:`objemb.disk.replacing`.

    Args:
        file: The file to write.
        images: The images, including those without objects.
        categories: Names of the categories in the order of their ids.
        info: The entry ``info`` of the file; None to write none.

    Raises:
        ValueError: The category of an object is not among ``categories``.
        OSError: The file cannot be written.
    """
    ids = {name: number for number, name in enumerate(categories, 1)}
    listed: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id, image in enumerate(images, 1):
        height, width = image.size
        listed.append({"id": image_id, "file_name": image.file_name, "width": width, "height": height})
        for item in image.objects:
            x1, y1, x2, y2 = item.box
            place = {"id": len(annotations) + 1, "image_id": image_id}
            category_id = ids[checks.one_of("category", item.category, ids)]
            annotations.append({**place, "category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1], **item.more})
    content = {
        **({} if info is None else {"info": dict(info)}),
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    write_whole(file, json.dumps(content, separators=(",", ":")))
    return len(annotations)
