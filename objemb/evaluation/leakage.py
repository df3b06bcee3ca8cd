"""Train-test leakage: photos of an evaluation set that a model was fitted or trained on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from objemb.card import CARD, Provenance, read_card
from objemb.datasets.evaluation_set import EvaluationSet
from objemb.disk import file_sha256
from objemb.images.sources import ImageRef, find_images
from objemb.models import EmbeddingModel

#: Settings of training data that are not paths of photos, or name more photos than were used.
NO_SOURCES = ("name", "names", "images", "split")


@dataclass(frozen=True)
class Leak:
    """A part that was fitted on photos of the evaluation set.

    Attributes:
        part: The fitted part, such as ``whitening``.
        sources: The folders, tables and photos it was fitted on that contain photos of the set.
        photos: Number of photos of the set in them.
    """

    part: str
    sources: tuple[str, ...]
    photos: int

    def __str__(self) -> str:
        photos = "photo" if self.photos == 1 else "photos"
        return (
            f"the {self.part} was fitted on {self.photos} {photos} of the evaluation set ({', '.join(self.sources)}), "
            "which makes the results too good"
        )


class SeenPhotos:
    """Recognises the photos of an evaluation set by path or content.

    Two photos are the same if their resolved paths are equal, or their sizes and bytes; only files of the same size are
    read. Photos that were resized or re-encoded are not recognised.

    Args:
        data: The set; distractors and missing photos are ignored.
    """

    def __init__(self, data: EvaluationSet) -> None:
        known = len(data.images) - data.distractors
        files = dict.fromkeys(e.file for e in (*data.images[:known], *data.queries))
        self._paths = {data.photo(file).resolve() for file in files}
        self._digests: dict[Path, str] = {}

    def among(self, source: str | Path) -> set[Path]:
        """The photos of the set in a folder, a table, another evaluation set or a photo; none if the source does not
        exist."""
        return {photo for path in _photos(Path(source)) for photo in self._same(path)}

    def _same(self, path: Path) -> list[Path]:
        place = path.resolve()
        if place in self._paths:
            return [place]
        same_size = self._by_size.get(_size(place), ())
        content = _digest(place) if same_size else ""
        return [p for p in same_size if content and self._digest_of(p) == content]

    @functools.cached_property
    def _by_size(self) -> Mapping[int, Sequence[Path]]:
        sizes: dict[int, list[Path]] = {}
        for path in self._paths:
            sizes.setdefault(_size(path), []).append(path)
        sizes.pop(0, None)  # missing and empty files match nothing
        return sizes

    def _digest_of(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = _digest(path)
        return self._digests[path]


def learned_from(model: EmbeddingModel, whitened_on: Sequence[Path] = ()) -> dict[str, list[str]]:
    """For each part of a model, the folders, tables and photos that it was fitted or trained on, as far as recorded.

    Args:
        model: The model.
        whitened_on: The sources that its whitening has just been fitted on, which the model records only as a text.
    """
    sources_of = {name: sources_in(record) for name, record in model.fitted_on.items()}
    if "whitening" in sources_of:
        sources_of["whitening"] += map(str, whitened_on)
    for place, provenance in _provenances("network", model.provenance):
        sources_of[place] = list(_paths((provenance.get("training") or {}).get("data")))
    return {part: sources for part, sources in sources_of.items() if sources}


def find_leaks(fitted_on: Mapping[str, Sequence[str]], data: EvaluationSet) -> list[Leak]:
    """The parts of a model that were fitted on photos of an evaluation set.

    Args:
        fitted_on: For each part, the folders, tables and photos it was fitted on; relative paths are relative to the
            current folder.
        data: The set.
    """
    leaks: list[Leak] = []
    if not any(fitted_on.values()):
        return leaks
    seen = SeenPhotos(data)
    for part, sources in fitted_on.items():
        shared = {str(source): seen.among(source) for source in dict.fromkeys(sources)}
        if photos := set().union(*shared.values()):
            leaks.append(Leak(part, tuple(source for source, held in shared.items() if held), len(photos)))
    return leaks


def sources_in(fitted_on: str) -> list[str]:
    """The paths in the record of a whitening or a codebook: words, a colon, and paths separated by commas."""
    return [name for name in (n.strip() for n in fitted_on.rpartition(": ")[2].split(", ")) if name]


def _photos(source: Path) -> list[Path]:
    """All photos of a source; empty if it is not a source of photos."""
    if not source.exists():
        return []
    with contextlib.suppress(ValueError):
        return [ref.path for ref in find_images([source]) if isinstance(ref, ImageRef)]
    return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _provenances(place: str, provenance: Provenance) -> Iterator[tuple[str, Provenance]]:
    """The provenance of a model, and of the model folders that its weights came from."""
    yield place, provenance
    for key, origin in (provenance.get("weights") or {}).items():
        folder = Path(str(origin.get("name")))
        if (folder / CARD).is_file():
            yield from _provenances(f"{key} of the {place}", read_card(folder).get("provenance", {}))


def _paths(data: object) -> Iterator[str]:
    """Paths in the settings of training data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key not in NO_SOURCES:
                yield from _paths(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _paths(value)
    elif isinstance(data, str):
        yield data
