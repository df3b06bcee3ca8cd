"""The lists of kept and dropped photos, and the boxes of the kept ones."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.cleaning.classes import CleanedClass
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.datasets.ingredients import split_names
from objemb.disk import write_whole
from objemb.images import SkippedImage
from objemb.version import __version__

#: The only category of the boxes: a detector of it is class-agnostic.
CATEGORY = "object"


@dataclass(frozen=True)
class _KeptPhoto:
    """A kept photo: its row of the list, and its entry in the file of boxes."""

    name: str
    row: tuple[str, str, str, int]
    image: AnnotatedImage


def write_lists(
    root: Path, classes: Sequence[CleanedClass], skipped: Sequence[SkippedImage], settings: CleaningSettings
) -> dict[str, object]:
    """Write ``clean.csv``, ``dropped.csv``, ``boxes.json``, ``summary.json``, and the lists of a split.

    Args:
        root: The output folder.
        classes: The classes after cleaning.
        skipped: Photos that could not be read.
        settings: All settings.

    Returns:
        Numbers and paths, without those of single classes.
    """
    kept: list[_KeptPhoto] = []
    dropped: list[tuple[str, str, str]] = []
    for of_class in classes:
        for photo, instance in enumerate(of_class.instances()):
            path = _relative(of_class.photos[photo].path, root)
            if instance is None:
                dropped.append((path, of_class.name, of_class.why_dropped(photo)))
            else:
                kept.append(_kept_photo(of_class, photo, path, instance))
    dropped += [(_relative(entry.path, root), "", entry.reason) for entry in skipped]
    _write_table(root / "dropped.csv", ("path", "class", "reason"), dropped)
    written = {"list": "clean.csv", "boxes": "boxes.json", "dropped": "dropped.csv"}
    _write_kept(root / "clean.csv", root / "boxes.json", kept, settings)
    if settings.val_share > 0:
        parts = split_names({photo.name for photo in kept}, settings.val_share, (), settings.seed)
        for part, names in zip(("train", "val"), parts, strict=True):
            written |= {part: f"{part}.csv", f"boxes_{part}": f"boxes_{part}.json"}
            chosen = [photo for photo in kept if photo.name in set(names)]
            _write_kept(root / f"{part}.csv", root / f"boxes_{part}.json", chosen, settings)
    report: dict[str, object] = {
        "classes": len(classes),
        "photos": sum(len(of_class.photos) for of_class in classes),
        "kept": len(kept),
        "instances": len({photo.row[1] for photo in kept}),
        "classes_without_photos": sum(not of_class.kept for of_class in classes),
        "unreadable": len(skipped),
        "pairs": sum(of_class.tried for of_class in classes),
        "pairs_that_agree": sum(of_class.edges for of_class in classes),
        **{what: str(root / name) for what, name in written.items()},
    }
    by_class = [_summary(of_class) for of_class in classes]
    text = json.dumps({"settings": asdict(settings), **report, "by_class": by_class}, indent=1)
    write_whole(root / "summary.json", text + "\n")
    return report


def _kept_photo(of_class: CleanedClass, photo: int, path: str, instance: str) -> _KeptPhoto:
    height, width = of_class.sizes[photo].tolist()
    box, start = (
        [round(value, 1) for value in boxes[photo].tolist()] for boxes in (of_class.boxes.boxes, of_class.boxes.start)
    )
    more = {"instance": instance, "start": start}
    image = AnnotatedImage(path, (height, width), [AnnotatedObject(box, CATEGORY, more)])
    return _KeptPhoto(of_class.name, (path, instance, of_class.name, int(of_class.best[photo])), image)


def _write_kept(table: Path, boxes: Path, kept: Sequence[_KeptPhoto], settings: CleaningSettings) -> None:
    _write_table(table, ("path", "instance", "class", "inliers"), [photo.row for photo in kept])
    about = {"description": "photos of classes whose local features agree", "version": __version__}
    write_instances(boxes, [photo.image for photo in kept], [CATEGORY], about | {"settings": asdict(settings)})


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
