"""What sources of photos give."""

from __future__ import annotations

from pathlib import Path

from objemb.images import ImageRef, find_images
from tests.images.samples import write


def touch(folder: Path, *names: str) -> None:
    for name in names:
        write(folder / name, b"")


def ids(*sources: str | Path) -> list[str]:
    return [found.id for found in find_images(sources)]


def refs(source: Path) -> list[ImageRef]:
    found = list(find_images([source]))
    assert all(isinstance(f, ImageRef) for f in found), found
    return found  # type: ignore[return-value]
