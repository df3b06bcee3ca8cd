"""Fitting a whitening to a model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from objemb.aggregators.keep import Keep
from objemb.detectors.base import Detector
from objemb.images.sources import SkippedImage
from objemb.models.model import Model
from objemb.ops.whitening import Whitening

#: More vectors do not make a better covariance; beyond this every second one is dropped, again and again.
MAX_VECTORS = 100_000


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
    on_skip: Callable[[SkippedImage], None] = lambda skipped: None,
) -> Model:
    """A model with a PCA whitening fitted on the regions of photos, before they are aggregated.

    Args:
        model: A model without whitening; it stays as it is.
        photos: Folders, lists or images; not those on which the model will be evaluated.
        boxes: Where boxes of the photos come from, None for the model's own regions.
        dim: Dimensions to keep, None for all.
        power: Shrinkage, see :class:`objemb.ops.whitening.Whitening`.
        batch_size: Photos at once.
        workers: Decoding workers.
        on_photo: Called after each photo.
        on_skip: Called with each photo that could not be described.

    Raises:
        ValueError: The model has a whitening, or too few vectors were found for ``dim``.
    """
    if getattr(model.describer, "whitening", None) is not None:
        raise ValueError("whitening: expected a model without one, found one that is whitened")
    sample = _Sample()
    count = 0
    by_region = replace(model, aggregator=Keep())
    for one in by_region.stream(photos, batch_size=batch_size, workers=workers, boxes=boxes, on_skip=on_skip):
        sample.add(one.vectors)
        count += 1
        on_photo()
    vectors = sample.vectors()
    names = ", ".join(str(p) for p in photos)
    fitted_on = f"{len(vectors)} regions of {count} photos: {names}"
    return whiten(model, vectors, dim=dim, power=power, fitted_on=fitted_on)


def whiten(
    model: Model, vectors: Tensor, *, dim: int | None = None, power: float = 0.5, fitted_on: str = "vectors"
) -> Model:
    """A model with a PCA whitening fitted on vectors that it has given.

    Args:
        model: A model without whitening; it stays as it is.
        vectors: float ``(N, D)`` of single regions, of the kind that will be searched.
        dim: Dimensions to keep, None for all.
        power: Shrinkage, see :class:`objemb.ops.whitening.Whitening`.
        fitted_on: What they are vectors of, in words.

    Raises:
        ValueError: Too few vectors for ``dim``.
    """
    fitted = Whitening.fit(vectors, dim, power, fitted_on=fitted_on)
    describer = copy.deepcopy(model.describer).eval()  # copying an fx graph forgets that it was in eval mode
    describer.whitening = fitted.to(model.device)  # type: ignore[assignment]
    return replace(model, describer=describer)


class _Sample:
    """At most ``MAX_VECTORS`` of all vectors that come by, evenly spread."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._step = 1
        self._seen = 0

    def add(self, vectors: Tensor) -> None:
        first = -self._seen % self._step
        self._kept += vectors[first :: self._step].clone().unbind(0)
        self._seen += len(vectors)
        if len(self._kept) > MAX_VECTORS:
            self._kept = self._kept[::2]
            self._step *= 2

    def vectors(self) -> Tensor:
        if not self._kept:
            raise ValueError("whitening: expected photos with regions, found none that could be described")
        return torch.stack(self._kept)
