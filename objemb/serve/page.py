"""The files of the page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

#: Files by the paths under which they are served, and their types.
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("main", "api", "boxes", "dom", "filter", "hits", "library", "query")
    },
}


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: Its bytes.
        type: Its media type.
        mark: Its tag, which browsers compare.
    """

    content: bytes
    type: str
    mark: str


def read_files() -> dict[str, PageFile]:
    """All files of the page, by their paths."""
    folder = files("objemb.serve") / "static"
    pages = {}
    for path, (name, type_) in FILES.items():
        content = (folder / name).read_bytes()
        pages[path] = PageFile(content, type_, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return pages
