"""The lists of kept and dropped photos, and the boxes of the kept ones."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.cleaning.classes import CleanedClass
from objemb.disk import write_whole
from objemb.images import SkippedImage
from objemb.version import __version__

#: The only category of the boxes: a detector of it is class-agnostic.
CATEGORY = "object"


def write_lists(
    root: Path, classes: Sequence[CleanedClass], skipped: Sequence[SkippedImage], settings: Mapping[str, object]
) -> dict[str, object]:
    """Write ``clean.csv``, ``dropped.csv``, ``boxes.json`` and ``summary.json``.

    Args:
        root: The output folder.
        classes: The classes after cleaning.
        skipped: Photos that could not be read.
        settings: All settings, for the record.

    Returns:
        Numbers and paths, without those of single classes.
    """
    kept, dropped, images = [], [], []
    for of_class in classes:
        for photo, instance in enumerate(of_class.instances()):
            path = _relative(of_class.photos[photo].path, root)
            if instance is None:
                dropped.append((path, of_class.name, of_class.why_dropped(photo)))
                continue
            kept.append((path, instance, of_class.name, int(of_class.best[photo])))
            height, width = of_class.sizes[photo].tolist()
            box = [round(value, 1) for value in of_class.boxes.boxes[photo].tolist()]
            images.append(
                AnnotatedImage(path, (height, width), [AnnotatedObject(box, CATEGORY, {"instance": instance})])
            )
    dropped += [(_relative(entry.path, root), "", entry.reason) for entry in skipped]
    _write_table(root / "clean.csv", ("path", "instance", "class", "inliers"), kept)
    _write_table(root / "dropped.csv", ("path", "class", "reason"), dropped)
    about = {"description": "photos of classes whose local features agree", "version": __version__}
    write_instances(root / "boxes.json", images, [CATEGORY], about | {"settings": dict(settings)})
    report = {
        "classes": len(classes),
        "photos": sum(len(of_class.photos) for of_class in classes),
        "kept": len(kept),
        "instances": len({instance for _, instance, _, _ in kept}),
        "classes_without_photos": sum(not of_class.kept for of_class in classes),
        "unreadable": len(skipped),
        "pairs": sum(of_class.tried for of_class in classes),
        "pairs_that_agree": sum(of_class.edges for of_class in classes),
        "list": str(root / "clean.csv"),
        "boxes": str(root / "boxes.json"),
        "dropped": str(root / "dropped.csv"),
    }
    by_class = [_summary(of_class) for of_class in classes]
    text = json.dumps({"settings": dict(settings), **report, "by_class": by_class}, indent=1)
    write_whole(root / "summary.json", text + "\n")
    return report


def _summary(of_class: CleanedClass) -> dict[str, object]:
    """The figures of a class, JSON-ready."""
    return {
        "name": of_class.name,
        "photos": len(of_class.photos),
        "kept": of_class.kept,
        "views": [len(view) for view in of_class.views],
        "pairs": of_class.tried,
        "pairs_that_agree": of_class.edges,
        "rounds": of_class.boxes.rounds,
        "boxes_settled": of_class.boxes.settled,
    }


def _relative(path: str, root: Path) -> str:
    """A path as the lists name it: relative to their folder, absolute on another drive."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:
        return Path(path).as_posix()


def _write_table(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file; bytes of names that are no UTF-8 are written as they are, so that they lead to their files."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    write_whole(file, text.getvalue().encode("utf-8", "surrogateescape"))
