"""Ground truth as text files, four for each query, as for the Oxford and Paris buildings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from objemb.datasets.benchmarks._photos import Photos, stem
from objemb.datasets.benchmarks._problems import Problems

#: The lists of a query, each in a separate file.
GRADES = ("good", "ok", "junk")
#: Prefix of the names of query images in the files for Oxford.
PREFIX = "oxc1_"
QUERY = "_query.txt"


@dataclass(frozen=True)
class TextQuery:
    """A query.

    Attributes:
        name: Of its files, such as ``all_souls_1``.
        image: Name of its image.
        box: Four numbers as they are written.
        lists: Names of images, by grade.
    """

    name: str
    image: str
    box: tuple[float, ...]
    lists: Mapping[str, tuple[str, ...]]

    @property
    def landmark(self) -> str:
        """The landmark of the query: its name without the number."""
        return self.name.rpartition("_")[0] or self.name


def text_folders(root: Path) -> list[Path]:
    """The folders at or below ``root`` that contain text files of queries, sorted."""
    return sorted({file.parent for file in root.rglob(f"*{QUERY}")})


def read_texts(folder: Path, photos: Photos) -> list[TextQuery]:
    """The queries of a folder, sorted by name.

    ``NAME_query.txt`` holds the name of an image and a box, ``x1 y1 x2 y2`` in pixels; ``NAME_good.txt``,
    ``NAME_ok.txt`` and ``NAME_junk.txt`` hold a name of an image per line. Names that the photos leave out are left
    out here.

    Raises:
        BadGroundTruthError: The message names the files and lines that are wrong.
    """
    with Problems(folder) as problems:
        files = sorted(folder.glob(f"*{QUERY}"))
        queries = [_read_query(file, photos, problems) for file in files]
    return [query for query in queries if query is not None]


def _read_query(file: Path, photos: Photos, problems: Problems) -> TextQuery | None:
    name = file.name.removesuffix(QUERY)
    lists = {grade: _read_list(file.with_name(f"{name}_{grade}.txt"), photos, problems) for grade in GRADES}
    words = file.read_text(encoding="utf-8", errors="replace").split()
    box = _numbers(words[1:])
    if len(words) != 5 or box is None:
        found = " ".join(words)[:80]
        problems.add(file.name, f"expected the name of an image and four numbers x1 y1 x2 y2, found {found!r}")
        return None
    image = stem(words[0].removeprefix(PREFIX))
    if image not in photos:
        problems.add(file.name, f"expected an image below {photos.folder}/, found none named {image!r}")
        return None
    problems.once(name, lists)
    return TextQuery(name, image, box, lists)


def _read_list(file: Path, photos: Photos, problems: Problems) -> tuple[str, ...]:
    if not file.is_file():
        problems.add(file.name, "expected a list of images, found no such file")
        return ()
    names = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name = stem(line.strip())
        if name in photos:
            names.append(name)
        elif name and name not in photos.left_out:
            problems.add(
                f"{file.name}:{number}", f"expected an image below {photos.folder}/, found none named {name!r}"
            )
    return tuple(names)


def _numbers(words: list[str]) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, words))
    except ValueError:
        return None
