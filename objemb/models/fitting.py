"""Fitting the parts of a model to photos before it is used: codebooks and bases, then a whitening."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.keep import Keep
from objemb.detectors.base import Detector
from objemb.images.decode import MAX_PIXELS
from objemb.images.inputs import as_regions
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.layers.whitening import Whitening
from objemb.models.base import given_regions
from objemb.models.model import Model
from objemb.models.pairs import LabelledRegion, positive_pairs, read_labelled
from objemb.models.reservoir import Reservoir
from objemb.models.stream import process_stream
from objemb.ops.tensors import as_tensor
from objemb.structures import Photo, Regions
from objemb.structures.described import expect_vectors

#: Maximum number of vectors for a covariance; more do not improve it.
MAX_VECTORS = 100_000
#: Maximum number of elements of these vectors together, which limits the number of long vectors further.
MAX_ELEMENTS = 1 << 29


def expect_whitening(model: Model, dim: int | None, power: float) -> None:
    """Raise ``ValueError``, before any photo is described, if a model cannot have a whitening with these settings."""
    describer = model.vector_describer("whitening")
    if describer.whitening is not None:
        raise ValueError("whitening: expected a model without one, found one that is whitened")
    checks.between("power", power, 0, 1)
    if dim is not None and not 1 <= dim <= describer.dim:
        raise ValueError(f"dim: expected 1 to {describer.dim}, the length of the vectors before whitening, found {dim}")


def fit_parts(
    model: Model,
    photos: Sequence[str | Path] | Sequence[Photo],
    *,
    named: str | None = None,
    boxes: Detector | None = None,
    batch_size: int = 8,
    workers: int = 2,
    on_photo: Callable[[], None] = lambda: None,
    on_step: Callable[[int, int], None] = lambda done, of: None,
    on_skip: Callable[[SkippedImage], None] | None = None,
) -> Model:
    """Fit the :class:`~objemb.layers.fitted.Fitted` parts of a model, such as codebooks, to photos.

    All photos are described once for each unfitted part, in the order of the parts, since a part may depend on earlier
    ones. If there are more vectors than a part needs (``Fitted.needed``), a uniform sample is used.

    Args:
        model: Any model; it is not changed. A model without unfitted parts is returned as it is.
        photos: Folders, lists or images, or photos in memory; not those on which the model will be evaluated.
        named: Name of the photos in the provenance; by default their paths.
        boxes: Source of boxes of the photos, None for the model's own regions.
        batch_size: Photos per batch.
        workers: Number of decoding workers.
        on_photo: Called after each photo, once per part that is fitted.
        on_step: Called with the progress of slow parts, see :meth:`objemb.layers.fitted.Fitted.fit`.
        on_skip: Called with each photo that could not be read or described, once per part that is fitted.

    Raises:
        ImportError: A library with which a part is fitted is not installed; raised before any photo is opened.
        ValueError: There are too few vectors for a part, or none of the boxes could be used. If the number of photos
            shows that there will be too few vectors, this is raised before any photo is opened.
    """
    waiting = model.pipeline.unfitted()
    if not waiting:
        return model
    _expect_to_learn(model, waiting, photos, boxed=boxes is not None)
    model = replace(model, describer=copy.deepcopy(model.describer), aggregator=copy.deepcopy(model.aggregator))
    for name in waiting:
        part = model.pipeline.fitted_parts()[name]
        sample = Reservoir(part.needed)
        count = 0
        for of_photos, vectors in _samples(model, name, photos, boxes, batch_size, workers, on_skip):
            sample.add(vectors)
            count += of_photos
            for _ in range(of_photos):
                on_photo()
        vectors = sample.vectors()
        if boxes is not None:
            boxes.expect_used()
        if len(vectors) == 0:
            raise ValueError(f"{name}: expected photos with vectors to learn from, found none that could be described")
        sources = photos if named is None else [named]
        part.fit(vectors, fitted_on=_in_words(len(vectors), "vectors", count, sources), on_step=on_step)
    return model


def fit_whitening(
    model: Model,
    photos: Sequence[str | Path],
    *,
    boxes: Detector | None = None,
    dim: int | None = None,
    power: float = 0.5,
    batch_size: int = 8,
    workers: int = 2,
    on_photo: Callable[[], None] = lambda: None,
    on_step: Callable[[int, int], None] = lambda done, of: None,
    on_skip: Callable[[SkippedImage], None] | None = None,
) -> Model:
    """Fit a PCA whitening to the regions of photos, before aggregation.

    It is fitted to the regions that are aggregated: if the aggregator sums the regions of the R-MAC grid without the
    whole image, the whole image is left out here as well (Tolias, Sicre and Jegou 2015; Gordo et al. 2017).

    Unfitted parts are fitted first, to the same photos, see :func:`fit_parts`.

    Args:
        model: A model without whitening; it is not changed.
        photos: Folders, lists or images; not those on which the model will be evaluated.
        boxes: Source of boxes of the photos, None for the model's own regions.
        dim: Dimensions to keep, None for all.
        power: Shrinkage, see :class:`objemb.layers.whitening.Whitening`.
        batch_size: Photos per batch.
        workers: Number of decoding workers.
        on_photo: Called after each photo, once per part that is fitted and once for the whitening.
        on_step: As for :func:`fit_parts`.
        on_skip: As for :func:`fit_parts`, and once more for the whitening.

    Returns:
        The fitted model with the whitening.

    Raises:
        ValueError: The model has a whitening, there are too few vectors for ``dim``, or none of the boxes could be
            used (a whitening of whole photos would be a different one).
    """
    expect_whitening(model, dim, power)
    model = fit_parts(
        model,
        photos,
        boxes=boxes,
        batch_size=batch_size,
        workers=workers,
        on_photo=on_photo,
        on_step=on_step,
        on_skip=on_skip,
    )
    sample = Reservoir(min(MAX_VECTORS, max(1, MAX_ELEMENTS // model.dim)))
    count = 0
    by_region = replace(model, aggregator=Keep())
    for one in by_region.stream(photos, batch_size=batch_size, workers=workers, boxes=boxes, on_skip=on_skip):
        of_photo = as_tensor(expect_vectors("whitening", one).vectors)
        sample.add(of_photo[model.aggregator.first_counted(one.regions) :])
        count += 1
        on_photo()
    if boxes is not None:
        boxes.expect_used()
    vectors = sample.vectors()
    if len(vectors) == 0:
        raise ValueError("whitening: expected photos with regions, found none that could be described")
    return whiten(model, vectors, dim=dim, power=power, fitted_on=_in_words(len(vectors), "regions", count, photos))


def fit_learned_whitening(
    model: Model,
    pairs: str | Path,
    *,
    dim: int | None = None,
    power: float = 0.0,
    ridge: float = 0.0,
    batch_size: int = 8,
    workers: int = 2,
    on_photo: Callable[[], None] = lambda: None,
    on_skip: Callable[[SkippedImage], None] | None = None,
) -> Model:
    """Fit a whitening to pairs of photos or boxes that show the same instance.

    The labelled boxes are described, independent of the model's own regions.

    Args:
        model: A fitted model without whitening; it is not changed.
        pairs: Photos of the same instances, see :func:`objemb.models.pairs.read_labelled`; not those of the evaluation.
        dim: Dimensions to keep, None for all.
        power: As for :meth:`objemb.layers.whitening.Whitening.fit_pairs`.
        ridge: As for :meth:`objemb.layers.whitening.Whitening.fit_pairs`; needed if there are fewer pairs than
            dimensions.
        batch_size: Photos per batch.
        workers: Number of decoding workers.
        on_photo: Called after each photo.
        on_skip: Called with each photo that could not be read or described; its pairs are left out.

    Returns:
        The model with the whitening; networks are shared.

    Raises:
        FileNotFoundError: ``pairs`` is neither a file nor a folder.
        NotFittedError: A part of the model is not fitted.
        ValueError: The model has a whitening, there are no pairs, or there are too few vectors for ``dim``.
    """
    expect_whitening(model, dim, power)
    vectors: list[Tensor] = []
    instances: list[str] = []
    count = 0
    for named, found in _labelled_vectors(model, read_labelled(pairs), batch_size, workers, on_skip):
        instances += named
        vectors.append(found)
        count += 1
        on_photo()
    rows = positive_pairs(instances)
    if len(rows) == 0:
        raise ValueError(f"{pairs}: expected pairs of photos that can be described, found none")
    words = f"{len(rows)} pairs, {_in_words(len(instances), 'regions', count, [pairs])}"
    fitted = Whitening.fit_pairs(torch.cat(vectors), rows, dim, power, ridge=ridge, fitted_on=words)
    return model.whitened(fitted)


def whiten(
    model: Model, vectors: Tensor, *, dim: int | None = None, power: float = 0.5, fitted_on: str = "vectors"
) -> Model:
    """Fit a PCA whitening to vectors of a model.

    Args:
        model: A model without whitening; it is not changed.
        vectors: float ``(N, D)`` vectors of single regions, of the kind that will be searched.
        dim: Dimensions to keep, None for all.
        power: Shrinkage, see :class:`objemb.layers.whitening.Whitening`.
        fitted_on: Description of the vectors, for the provenance.

    Returns:
        The model with the whitening; networks are shared.

    Raises:
        ValueError: There are too few vectors for ``dim``.
    """
    return model.whitened(Whitening.fit(vectors, dim, power, fitted_on=fitted_on))


def _expect_to_learn(
    model: Model, parts: Sequence[str], photos: Sequence[str | Path] | Sequence[Photo], *, boxed: bool
) -> None:
    """Raise the errors of parts that are known from the number of photos alone."""
    most = {part: model.pipeline.most_samples(part, boxed=boxed) for part in parts}
    count = 0 if all(of_photo is None for of_photo in most.values()) else _count(photos)
    for part, of_photo in most.items():
        model.pipeline.fitted_parts()[part].expect(None if of_photo is None else of_photo * count)


def _count(photos: Sequence[str | Path] | Sequence[Photo]) -> int:
    """The number of photos, including those that cannot be read."""
    paths = [one for one in photos if isinstance(one, (str, Path))]
    in_memory: list[object] = [one for one in photos if not isinstance(one, (str, Path))]
    several = [len(one) for one in in_memory if isinstance(one, (np.ndarray, Tensor)) and one.ndim == 4]
    found = sum(1 for _ in find_images(paths)) if paths else 0
    return found + len(in_memory) - len(several) + sum(several)


def _samples(
    model: Model,
    part: str,
    photos: Sequence[str | Path] | Sequence[Photo],
    boxes: Detector | None,
    batch_size: int,
    workers: int,
    on_skip: Callable[[SkippedImage], None] | None,
) -> Iterator[tuple[int, Tensor]]:
    """Per batch, the number of photos and the vectors to which a part is fitted."""

    @torch.inference_mode()
    def sampled(batch: Sequence[Photo]) -> list[tuple[int, Tensor]]:
        given = None if boxes is None else given_regions(boxes, batch)
        return [(len(batch), model.pipeline.samples(part, batch, given))]

    return process_stream(
        photos,
        sampled,
        side=model.decode_side,
        batch_size=batch_size,
        workers=workers,
        max_pixels=MAX_PIXELS,
        on_skip=on_skip,
        works=lambda photo: model.pipeline.samples(part, [photo]),
    )


def _labelled_vectors(
    model: Model,
    labelled: Sequence[LabelledRegion],
    batch_size: int,
    workers: int,
    on_skip: Callable[[SkippedImage], None] | None,
) -> Iterator[tuple[list[str], Tensor]]:
    """Per photo, the instances that it shows and their vectors."""
    by_photo: dict[str, list[LabelledRegion]] = {}
    for one in labelled:
        by_photo.setdefault(str(one.path), []).append(one)

    @torch.inference_mode()
    def described(batch: Sequence[Photo]) -> list[tuple[list[str], Tensor]]:
        known = [by_photo[photo.id] for photo in batch]
        boxes = [[one.box or (0.0, 0.0, p.size[1], p.size[0]) for one in k] for p, k in zip(batch, known, strict=True)]
        given = [as_regions(b, p.size) for p, b in zip(batch, boxes, strict=True)]
        described_batch = model.vector_describer("whitening").describe(batch, given)
        return [
            ([one.instance for one in k], as_tensor(f.vectors)) for k, f in zip(known, described_batch, strict=True)
        ]

    return process_stream(
        [ImageRef(path, Path(path)) for path in by_photo],
        described,
        side=model.decode_side,
        batch_size=batch_size,
        workers=workers,
        max_pixels=MAX_PIXELS,
        on_skip=on_skip,
        works=lambda photo: model.describer.describe([photo], [Regions.whole(photo.size)]),
    )


def _in_words(count: int, kind: str, photos: int, sources: Sequence[object]) -> str:
    return f"{count} {kind} of {photos} photos: {', '.join(str(p) for p in sources)}"
