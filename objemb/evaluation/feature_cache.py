"""A cache of the local features of photos, shared by models that use the same features in different ways.

Codebook, aggregation and kernel do not change the features of a photo, and computing the features takes most of the
time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.evaluation.cache import ArrayCache, key_of
from objemb.local_features.base import LocalExtractor
from objemb.models import EmbeddingModel, Model
from objemb.models.state import model_fingerprint
from objemb.structures import LocalFeatures, Photo
from objemb.types import Settings
from objemb.version import __version__

#: Subfolder of a cache that holds the features.
FOLDER = "local_features"


class FeatureCache:
    """The features of one extractor.

    Args:
        folder: Folder of the cache of an evaluation.
        facts: JSON-ready facts that determine the extractor's features of a photo.
        on_note: As for :class:`~objemb.evaluation.cache.ArrayCache`.

    Attributes:
        spared: Seconds it originally took to compute all features that were loaded from the cache so far.
    """

    def __init__(self, folder: Path, facts: dict[str, object], on_note: Callable[[str], None]) -> None:
        self._arrays = ArrayCache(folder / FOLDER, on_note)
        self._facts = facts
        self.spared = 0.0

    def load(self, photo: Photo, size: float | None) -> LocalFeatures | None:
        """The features of a photo; None if they are not in the cache.

        Args:
            photo: Identified by its pixels, not its file; a part that was cut out is a photo like any other.
            size: The ``size`` setting of the extractor, in pixels.
        """
        entry = self._arrays.load(self._key(photo, size))
        if entry is None:
            return None
        self.spared += entry.about["seconds"]
        cells = entry.arrays["cells"]
        return LocalFeatures(
            photo.size,
            cells[:, :2],
            entry.arrays["vectors"],
            scales=cells[:, 2],
            sides=cells[:, 3],
            strengths=cells[:, 4],
        )

    def store(self, photo: Photo, size: float | None, features: LocalFeatures, seconds: float) -> None:
        """Store the features of a photo, with the ``seconds`` that it took to compute them."""
        columns = (features.points, *(c[:, None] for c in (features.scales, features.sides, features.strengths)))
        arrays = {"vectors": features.vectors, "cells": np.concatenate(columns, axis=1)}
        self._arrays.store(self._key(photo, size), arrays, {"photo": photo.id, "seconds": seconds})

    def _key(self, photo: Photo, size: float | None) -> str:
        pixels = hashlib.sha256(photo.pixels.tobytes()).hexdigest()
        of_photo = {"pixels": pixels, "shape": photo.pixels.shape, "original": photo.size, "size": size}
        return key_of({**self._facts, **of_photo})


class CachedExtractor(LocalExtractor):
    """An extractor that reads features from a cache, and computes and stores those that are missing.

    Args:
        extractor: Computes the features.
        cache: Stores the features.
    """

    def __init__(self, extractor: LocalExtractor, cache: FeatureCache) -> None:
        super().__init__(size=extractor.size, count=extractor.count, backbone=extractor.backbone)
        self.extractor = extractor
        self.scales = extractor.scales
        self.cache = cache

    @property
    def dim(self) -> int:
        """See :attr:`LocalExtractor.dim`."""
        return self.extractor.dim

    def decode_side(self) -> int | None:
        """See :meth:`LocalExtractor.decode_side`."""
        return self.extractor.decode_side()

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Self:
        """See :meth:`LocalExtractor.for_part`."""
        return type(self)(self.extractor.for_part(part, whole), self.cache)

    def shared_detector(self) -> NetworkDetector | None:
        """See :meth:`LocalExtractor.shared_detector`."""
        return self.extractor.shared_detector()

    def _extract(self, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        features = [self.cache.load(photo, self.size) for photo in photos]
        missing = [number for number, of_photo in enumerate(features) if of_photo is None]
        if missing and seen is not None:  # all were seen together
            missing = list(range(len(photos)))
        start = time.perf_counter()
        computed = self.extractor.extract([photos[number] for number in missing], seen)
        seconds = (time.perf_counter() - start) / max(1, len(missing))
        for number, of_photo in zip(missing, computed, strict=True):
            self.cache.store(photos[number], self.size, of_photo, seconds)
            features[number] = of_photo
        return [of_photo for of_photo in features if of_photo is not None]

    def _samples(self, part: str, photos: Sequence[Photo]) -> list[Tensor]:
        """See :meth:`LocalExtractor._samples`; samples are not cached."""
        return [self.extractor.samples(part.partition(".")[2], photos)]


def with_feature_cache(
    model: EmbeddingModel, folder: Path | None, on_note: Callable[[str], None]
) -> tuple[EmbeddingModel, FeatureCache | None]:
    """A model that caches the local features of photos, and its cache. Networks are shared with the given model.

    Without local features, or without a folder, the model itself and None are returned.
    """
    describer = model.photo_describer
    if folder is None or not isinstance(model, Model) or not isinstance(describer, FeatureDescriber):
        return model, None
    settings: Settings = model.settings["describer"]["local_features"]
    tensors = {"local_features": dict(describer.local_features.state_dict())}
    facts: dict[str, object] = {
        "version": __version__,
        "part": "local_features",
        "extractor": model_fingerprint({"local_features": settings}, tensors),
        **model.computation,
    }
    cache = FeatureCache(folder, facts, on_note)
    return model.with_local_features(CachedExtractor(describer.local_features, cache)), cache
