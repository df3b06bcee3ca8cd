"""Small copies of the folders that benchmarks come in."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from objemb.datasets import benchmarks
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set

#: Width and height of the photos.
SIZE = (40, 30)


def write_photos(root: Path, names: Iterable[str], folder: str = "jpg", ending: str = ".jpg") -> None:
    """A photo of 40 x 30 pixels under each name."""
    for number, name in enumerate(names):
        file = root / folder / f"{name}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (17 * number % 256, 5, 90)).save(file)


def write_lists(file: Path, images: Any, queries: Any, entries: Any) -> None:
    """A pickle as programs of the field write it."""
    file.write_bytes(pickle.dumps({"imlist": images, "qimlist": queries, "gnd": entries}))


def write_texts(folder: Path, query: str, text: str, **lists: Iterable[str]) -> None:
    """The four files of a query."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{query}_query.txt").write_text(text)
    for grade in ("good", "ok", "junk"):
        (folder / f"{query}_{grade}.txt").write_text("".join(f"{name}\n" for name in lists.get(grade, ())))


def prepared(name: str, root: Path, **options: Any) -> tuple[EvaluationSet, dict[str, Any]]:
    """The set of a benchmark, and what its file says."""
    file = benchmarks.prepare(name, root, **options)
    return read_evaluation_set(file), json.loads(file.read_text())
