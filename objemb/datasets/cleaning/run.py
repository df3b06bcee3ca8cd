"""Cleaning of a folder of classes, from photos to lists, boxes and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from objemb.datasets.cleaning.classes import ClassMatches, CleanedClass
from objemb.datasets.cleaning.page import cleaning_page
from objemb.datasets.cleaning.pairs import candidate_pairs, pair_tiles
from objemb.datasets.cleaning.processes import CHUNK, Workers, find_features, match_tile
from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.datasets.cleaning.store import FeatureStore, StoredPhoto
from objemb.datasets.cleaning.writing import write_lists
from objemb.datasets.ingredients import instance_names
from objemb.disk import write_whole
from objemb.images import ImageRef, SkippedImage, find_images
from objemb.types import Float32Array, Int64Array

#: Starts a meter from the name of the work, that of its unit and the total; returns the function that counts.
Meters: TypeAlias = Callable[[str, str, float], Callable[[float], None]]


@dataclass(frozen=True)
class GlobalDescriptor:
    """What finds the photos that are similar as a whole.

    Attributes:
        fingerprint: Text that identifies it: vectors of an earlier call with the same one are used again.
        describe: Gives unit vectors float32 ``(D,)`` of photos by path; photos that it leaves out have no partners.
    """

    fingerprint: str
    describe: Callable[[Sequence[str]], Mapping[str, Float32Array]]


#: Folder of the features and matches within the output folder.
STORE = "work"


def clean(
    sources: Sequence[str | Path],
    folder: str | Path,
    settings: CleaningSettings | None = None,
    *,
    names: str | Path | None = None,
    descriptor: GlobalDescriptor | None = None,
    workers: int = 1,
    meters: Meters = lambda what, unit, total: lambda count: None,
) -> dict[str, object]:
    """Keep the photos of each class that show the same thing.

    Within a class, pairs of photos are matched (:func:`objemb.datasets.cleaning.pairs.match_photos`), and the largest
    connected component of the graph of pairs that count is kept. The output folder has

    - ``clean.csv``: the kept photos with their instances, for the training data ``folder`` and all commands that read
      lists;
    - ``boxes.json``: the kept photos with the box of the common object, in COCO's format with ``instance``;
    - ``train.csv``, ``val.csv``, ``boxes_train.json``, ``boxes_val.json``, with ``settings.val_share``: the same, split
      by class;
    - ``dropped.csv``: the other photos with the reason, unreadable ones among them;
    - ``report.html``: figures of the classes, and examples of pairs;
    - ``work/``: features and results of matching, which the next call reads instead of computing them. It may be
      removed.

    Photos that cannot be read are reported. Features of two times 32 photos and the pairs of one class that count are
    in memory at a time.

    Args:
        sources: Folders with a sub-folder for each class, lists with a column ``instance``, images; see
            :func:`objemb.images.find_images`.
        folder: The output folder, created if necessary.
        settings: Settings of matching and of the choice.
        names: A file of class names to use instead, see :func:`objemb.datasets.ingredients.instance_names`.
        descriptor: Finds the ``settings.candidates``.
        workers: Number of processes; it does not affect the files.
        meters: Shows progress.

    Returns:
        Numbers of photos and classes, and paths.

    Raises:
        ValueError: There is no photo, no class has two readable photos, or candidates are asked for without
            ``descriptor``.
        ImportError: OpenCV is not installed.
        ObjembError: A process was killed.
    """
    settings, root = settings or CleaningSettings(), Path(folder)
    if settings.candidates is not None and descriptor is None:
        raise ValueError(
            f"candidates: expected a model that finds the {settings.candidates} most similar photos, found none"
        )
    classes, skipped = _photos_of_classes(sources, names)
    store = root / STORE
    store.mkdir(parents=True, exist_ok=True)
    with Workers(store, settings, workers) as pool:
        matches = _with_features(classes, settings, pool, skipped, meters)
        if not any(len(of_class.photos) > 1 for of_class in matches):
            raise ValueError(
                f"sources: expected classes of at least two readable photos, found {len(matches)} classes with "
                f"{sum(len(of_class.photos) for of_class in matches)} readable and {len(skipped)} unreadable photos"
            )
        pairs = _candidates(matches, settings, descriptor, FeatureStore(store, settings), meters)
        cleaned = list(_matched(matches, pairs, settings, pool, meters))
    report = write_lists(root, cleaned, skipped, settings)
    page = root / "report.html"
    write_whole(page, cleaning_page(cleaned, skipped, FeatureStore(store, settings), settings))
    return report | {"page": str(page)}


def _photos_of_classes(
    sources: Sequence[str | Path], names: str | Path | None
) -> tuple[dict[str, list[str]], list[SkippedImage]]:
    """Paths of the photos of each class, and entries that name no photo of a class."""
    name_of = instance_names(names)
    classes: dict[str, list[str]] = {}
    skipped: list[SkippedImage] = []
    for ref in find_images(sources):
        name = name_of(ref) if isinstance(ref, ImageRef) else None
        if isinstance(ref, SkippedImage):
            skipped.append(ref)
        elif name is None:
            skipped.append(SkippedImage(ref.id, str(ref.path), "it has no class"))
        else:
            classes.setdefault(name, []).append(str(ref.path))
    return dict(sorted(classes.items())), skipped


def _with_features(
    classes: Mapping[str, Sequence[str]],
    settings: CleaningSettings,
    pool: Workers,
    skipped: list[SkippedImage],
    meters: Meters,
) -> list[ClassMatches]:
    """The classes with their readable photos, whose features are in the store; others are added to ``skipped``."""
    photos = {name: [StoredPhoto.of(path, settings) for path in paths] for name, paths in classes.items()}
    listed = [photo for of_class in photos.values() for photo in of_class]
    advance = meters("finding features", "photos", len(listed))
    outcomes: dict[str, tuple[int, int] | str] = {}
    chunks = [listed[start : start + CHUNK] for start in range(0, len(listed), CHUNK)]
    for chunk, done in zip(chunks, pool.map(find_features, chunks), strict=True):
        outcomes |= {photo.key: outcome for photo, outcome in zip(chunk, done, strict=True)}
        advance(len(chunk))
    matches = []
    for name, of_class in photos.items():
        readable, sizes = [], []
        for photo in of_class:
            outcome = outcomes[photo.key]
            if isinstance(outcome, str):
                skipped.append(SkippedImage(photo.path, photo.path, outcome))
            else:
                readable.append(photo)
                sizes.append(outcome)
        matches.append(ClassMatches(name, readable, sizes))
    return matches


def _candidates(
    matches: Sequence[ClassMatches],
    settings: CleaningSettings,
    descriptor: GlobalDescriptor | None,
    store: FeatureStore,
    meters: Meters,
) -> list[Int64Array | None]:
    """The pairs to match of each class; None for all."""
    count = settings.candidates
    chosen: list[Int64Array | None] = [None] * len(matches)
    if count is None or descriptor is None:
        return chosen
    large = [number for number, of_class in enumerate(matches) if len(of_class.photos) > count + 1]
    advance = meters("describing", "photos", sum(len(matches[number].photos) for number in large))
    for number in large:
        photos = matches[number].photos
        known, vectors = store.vectors(photos, descriptor.fingerprint, descriptor.describe)
        chosen[number] = known[candidate_pairs(vectors, count)]
        advance(len(photos))
    return chosen


def _matched(
    matches: Sequence[ClassMatches],
    pairs: Sequence[Int64Array | None],
    settings: CleaningSettings,
    pool: Workers,
    meters: Meters,
) -> Iterator[CleanedClass]:
    """The classes after matching, each as soon as its last pairs are done."""
    total = sum(
        len(of_class.photos) * (len(of_class.photos) - 1) // 2 if chosen is None else len(chosen)
        for of_class, chosen in zip(matches, pairs, strict=True)
    )
    advance = meters("matching", "pairs", total)

    def tiles() -> Iterator[tuple[int, Int64Array]]:
        for number, (of_class, chosen) in enumerate(zip(matches, pairs, strict=True)):
            for tile in pair_tiles(len(of_class.photos), chosen):
                yield number, tile

    def tasks() -> Iterator[tuple[list[StoredPhoto], Int64Array, Int64Array]]:
        for number, tile in tiles():
            numbers, local = np.unique(tile, return_inverse=True)
            photos = matches[number].photos
            yield [photos[n] for n in numbers.tolist()], local.reshape(-1, 2), numbers

    open_class = 0
    for (number, tile), result in zip(tiles(), pool.map(match_tile, tasks()), strict=True):
        while open_class < number:
            yield matches[open_class].cleaned(settings)
            open_class += 1
        matches[number].add(tile, result)
        advance(len(tile))
    for of_class in matches[open_class:]:
        yield of_class.cleaned(settings)
