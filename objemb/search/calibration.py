"""Calibrates the scores of an index with queries whose object is not in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from objemb import checks
from objemb.checks import ArtefactMismatchError
from objemb.images.sources import ImageRef, find_images
from objemb.index.collection import ImageCollection
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.models.base import EmbeddingModel
from objemb.ops.upper_tail import fit_upper_tail
from objemb.search.indexing import ids_of
from objemb.structures import RegionDescriptors

#: Number of query rows unless another is given.
QUERIES = 1000
#: With fewer query rows, or fewer images in the index, nothing is estimated.
MIN_QUERIES, MIN_IMAGES = 100, 50
#: The name of the classes of boxes, in place of a metadata column.
LABEL = "label"
#: A calibration is made anew when a larger share of the images is new.
REFRESH_SHARE = 0.25
#: Images of the same name with which the boxes of an image are compared.
COMPARED = 20
#: Query rows that are searched at once.
AT_ONCE = 64


def calibrate(
    index: ImageCollection,
    *,
    instance: str | None = None,
    on: Sequence[str | Path] = (),
    model: EmbeddingModel | None = None,
    queries: int = QUERIES,
) -> Calibration:
    """Fit the distribution of the best scores of queries whose object is not in an index, and store it there.

    The upper tail is a generalised Pareto distribution, see :func:`objemb.ops.upper_tail.fit_upper_tail`.

    Args:
        index: An index of vectors.
        instance: A metadata column with the name of the object that a photo shows, or ``label`` for the class of a box:
            rows of the index are searched for, and all photos with the same name are left out.
        on: Sources of photos that show none of the indexed objects, as for ``EmbeddingModel.stream``, instead; all
            their regions are searched for.
        model: The model of the index, needed with ``on``.
        queries: Maximum number of query rows.

    Raises:
        ValueError: Neither or both of ``instance`` and ``on`` are given, or there are too few rows or images to tell.
        ArtefactMismatchError: The index contains visual words, or the model is another one.
    """
    checks.whole("queries", queries, MIN_QUERIES)
    if index.schema.name != UnitVectors.name:
        raise ArtefactMismatchError(
            f"{index.address}: expected an index of vectors, since scores of visual words depend on the number of "
            f"words of the query, found one of {index.schema.name!r}"
        )
    if (instance is None) == (not on):
        raise ValueError(
            "calibrate: expected either a column that names the objects (instance, --instance) or photos that show "
            f"none of them (on, --on), found {'both' if on else 'neither'}"
        )
    if len(index) < MIN_IMAGES:
        raise ValueError(f"{index.address}: expected at least {MIN_IMAGES} images to tell, found {len(index)}")
    next_image, images = index.next_image, len(index)
    if instance is not None:
        asked = list(_leaving_out(index, instance, queries))
        source: dict[str, object] = {"instance": instance, "queries": queries}
    else:
        asked = _of_photos(index, on, model, queries)
        source = {"on": [str(Path(path).absolute()) for path in on], "queries": queries}
    scores = _best_scores(index, asked)
    if len(scores) < MIN_QUERIES:
        raise ValueError(
            f"{index.address}: expected at least {MIN_QUERIES} query rows with other photos to compare to tell, found "
            f"{len(scores)}"
        )
    fit = fit_upper_tail(np.array(list(scores.values())))
    objects = len({asked[number].shows for number in scores})
    made = Calibration(fit, len(scores), objects, images, next_image, source)
    index.set_calibration(made)
    return made


def refresh_calibration(
    index: ImageCollection, model: EmbeddingModel, on_note: Callable[[str], None] = lambda text: None
) -> None:
    """Make the calibration of an index anew if more than a quarter of its images are new.

    Args:
        index: The index; nothing is done if it has no calibration.
        model: Its model.
        on_note: Called with a message before it is made, and if it cannot be made.
    """
    made = index.calibration
    if made is None or index.added_since(made.next_image) <= REFRESH_SHARE * max(1, len(index)):
        return
    on_note("calibrating the scores anew")
    try:
        calibrate_again(index, made, model)
    except (ValueError, OSError) as error:
        on_note(f"note: the calibration is that of {made.images} images: {error}")


def calibrate_again(index: ImageCollection, made: Calibration, model: EmbeddingModel) -> Calibration:
    """Calibrate an index from the source of another calibration, as :func:`calibrate` does; ``model`` is that of the
    index."""
    source = made.source
    return calibrate(
        index,
        instance=source.get("instance"),  # type: ignore[arg-type]
        on=source.get("on", ()),  # type: ignore[arg-type]
        model=model,
        queries=source.get("queries", QUERIES),  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class _Asked:
    """A query row.

    Attributes:
        row: One row.
        shows: The object, or the photo, that it shows.
        left_out: The images that may show the same.
    """

    row: RegionDescriptors
    shows: object
    left_out: frozenset[str]


def _leaving_out(index: ImageCollection, instance: str, queries: int) -> Iterator[_Asked]:
    """Rows of the index that show a named object, evenly spread over its images, and the images that may show it.

    Where boxes have labels, these are the images that share any object with the image of the row, whose boxes may
    overlap. Where an image has one name and several boxes, nothing says which of them shows the object: it is taken to
    be the one that is most similar to a box of another image of the same name.
    """
    images: dict[object, dict[str, None]] = {}
    rows: list[tuple[str, int, object]] = []
    for stored in index.images():
        if instance == LABEL:
            described = index.get(stored.id)
            labels = [] if described is None else described.regions.label_names
            named: list[tuple[int, object]] = [(row, label) for row, label in enumerate(labels) if label is not None]
        else:
            value = stored.metadata.get(instance)
            named = [] if value is None else [(-1, value)]
        for row, name in named:
            images.setdefault(name, {})[stored.id] = None
            rows.append((stored.id, row, name))
    if not rows:
        wanted = "labels of boxes that name" if instance == LABEL else "a metadata column that names"
        raise ValueError(f"instance: expected {wanted} objects, found no image with {instance!r}")
    picked = np.linspace(0, len(rows), min(queries, len(rows)), endpoint=False).astype(int).tolist()
    for image, row, name in (rows[number] for number in picked):
        described = index.get(image)
        if not isinstance(described, RegionDescriptors) or not len(described):
            continue
        if row < 0:
            others = [other for other in islice(images[name], COMPARED + 1) if other != image]
            row = _shown(index, described, others)
            if row < 0:
                continue
        shown = [name] if instance != LABEL else [label for label in described.regions.label_names if label is not None]
        yield _Asked(described[[row]], name, frozenset().union(*(images[label] for label in shown)))


def _shown(index: ImageCollection, described: RegionDescriptors, others: Sequence[str]) -> int:
    """The row that is most similar to a row of other images of the same name; -1 if nothing tells."""
    if len(described) == 1:
        return 0
    compared = index.rows_of_images(others).vectors
    return int((described.vectors @ compared.T).max(axis=1).argmax()) if len(compared) else -1


def _of_photos(
    index: ImageCollection, sources: Sequence[str | Path], model: EmbeddingModel | None, queries: int
) -> list[_Asked]:
    """Rows of other photos, evenly spread, and the images of the index that are the same file."""
    if model is None:
        raise ValueError("model: expected the model of the index together with photos (on), found none")
    index.check_fingerprint(model.fingerprint)
    found = [ref for ref in find_images(sources) if isinstance(ref, ImageRef)]
    # ids of several sources may be equal
    refs = [
        replace(found[n], id=str(found[n].path))
        for n in np.linspace(0, len(found), min(queries, len(found)), endpoint=False).astype(int)
    ]
    stamps = index.stamps()
    rows: list[_Asked] = []
    for described in model.stream(refs):
        own = frozenset(ids_of(stamps, Path(described.image)))
        rows += [_Asked(row, described.image, own) for row in described if isinstance(row, RegionDescriptors)]
    return [rows[n] for n in np.linspace(0, len(rows), min(queries, len(rows)), endpoint=False).astype(int)]


def _best_scores(index: ImageCollection, asked: Sequence[_Asked]) -> dict[int, float]:
    """The best score of each query row among the other images, by its number, where there are any."""
    scores: dict[int, float] = {}
    ordered = sorted(range(len(asked)), key=lambda n: len(asked[n].left_out))  # those that leave out many together
    for first in range(0, len(ordered), AT_ONCE):
        some = ordered[first : first + AT_ONCE]
        answers = index.search_many(
            [asked[n].row for n in some], 1, exclude=[asked[n].left_out for n in some], runners_up=0
        )
        scores.update((n, answer[0].score) for n, answer in zip(some, answers, strict=True) if len(answer))
    return scores
