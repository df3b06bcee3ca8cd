"""Boxes given on a command line: a file, or single boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from objemb.cli.output import note

if TYPE_CHECKING:
    from objemb.detectors.stored_boxes import StoredBoxes
    from objemb.models.base import EmbeddingModel
    from objemb.structures import Box

#: What may be a box behind the name of a photo.
_NUMBERS = re.compile(r"[-+0-9.,e ]+")
#: Number of problems of a file that are shown.
SHOWN = 20


def stored_boxes(file: Path | None, model: EmbeddingModel) -> StoredBoxes | None:
    """The boxes of ``--boxes``, with their masks if the model's extractor uses masks."""
    from objemb.detectors.stored_boxes import StoredBoxes

    if file is None:
        return None
    masks = model.settings["describer"].get("extractor", {}).get("masks", False)
    return StoredBoxes(file, masks=masks)


@contextmanager
def reporting_boxes(given: StoredBoxes | None) -> Iterator[None]:
    """Call :func:`report_boxes` at the end of the block, even after an error, which unusable boxes may explain."""
    try:
        yield
    finally:
        report_boxes(given)


def report_boxes(given: StoredBoxes | None, listing: Path | None = None) -> None:
    """Print the first boxes of a file that could not be used, and how many were; ``listing`` contains all of them."""
    if given is None:
        return
    if given.adjusted:
        note(
            f"note: {len(given.adjusted)} photos differ in size from {given.file}; "
            "their boxes were rotated or scaled accordingly"
        )
    if given.fractional_ids:
        note(f"note: ids in {given.file} are written as 1.0; they were read as 1")
    if not given.problems:
        return
    for entry, reason in given.problems[:SHOWN]:
        note(f"boxes: {entry}: {reason}")
    if len(given.problems) > SHOWN:
        place = "" if listing is None else f", all in {listing}"
        note(f"boxes: and {len(given.problems) - SHOWN} more{place}")
    left_out = f"; {len(given.left_out)} photos have none" if given.left_out else ""
    note(f"boxes: {given.used} of {given.entries} boxes of {given.file} were used{left_out}")


def parse_view(option: str, text: str) -> tuple[Path, list[Box] | None]:
    """The photo and the box, if one is named, of ``--like PHOTO[:X1,Y1,X2,Y2]``.

    A file whose name ends in a colon and numbers is meant if it exists.
    """
    name, colon, box = text.rpartition(":")
    if not colon or Path(text).exists() or not _NUMBERS.fullmatch(box):
        return Path(text), None
    return Path(name), [parse_box(box, option)]


def parse_box(text: str, option: str = "--box") -> Box:
    """The box of ``--box X1,Y1,X2,Y2``, edges in pixels; not yet checked against its photo."""
    from objemb.structures import are_fractions

    expected = f"{option}: expected X1,Y1,X2,Y2 in pixels such as 40,60,180,220"
    try:
        x1, y1, x2, y2 = (float(v) for v in text.split(","))
    except ValueError:
        raise ValueError(f"{expected}, found {text!r}") from None
    if are_fractions((x1, y1, x2, y2), None):
        raise ValueError(f"{expected}, found fractions of the photo, from 0 to 1: {text!r}")
    if not (x1 < x2 and y1 < y2):
        corners = f"; if that is x, y, width, height, write {x1:g},{y1:g},{x1 + x2:g},{y1 + y2:g}"
        likely = min(x1, y1) >= 0 and min(x2, y2) > 0
        raise ValueError(f"{expected}, with X1 < X2 and Y1 < Y2, found {text!r}{corners if likely else ''}")
    return (x1, y1, x2, y2)
