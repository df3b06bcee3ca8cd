"""Local features of photos that are kept in a folder, so that models which differ in what they make of them share them.

A codebook, its form and its kernel do not change the features of a photo, and features are what takes the time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from objemb.describers.base import FeatureDescriber
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.evaluation.cache import ArrayCache, key_of
from objemb.local_features.base import LocalExtractor
from objemb.models import Model
from objemb.models.state import model_fingerprint
from objemb.structures import LocalFeatures, Photo
from objemb.version import __version__

#: The folder of features in that of a cache.
FOLDER = "local_features"


class FeatureCache:
    """The features of one extractor.

    Args:
        folder: Of the cache of an evaluation.
        facts: JSON-ready: all that decides what the extractor gives for a photo.
        on_note: As for :class:`~objemb.evaluation.cache.ArrayCache`.

    Attributes:
        spared: Seconds that it once took to compute what was loaded instead, up to now.
    """

    def __init__(self, folder: Path, facts: dict[str, object], on_note: Callable[[str], None]) -> None:
        self._arrays = ArrayCache(folder / FOLDER, on_note)
        self._facts = facts
        self.spared = 0.0

    def load(self, photo: Photo, size: float | None) -> LocalFeatures | None:
        """The features of a photo, None where they are not there.

        Args:
            photo: Known by its pixels, wherever its file lies; a part that was cut out is a photo like any other.
            size: Of the extractor.
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
        """Keep the features of a photo, and how many ``seconds`` it took to compute them."""
        columns = (features.points, *(c[:, None] for c in (features.scales, features.sides, features.strengths)))
        arrays = {"vectors": features.vectors, "cells": np.concatenate(columns, axis=1)}
        self._arrays.store(self._key(photo, size), arrays, {"photo": photo.id, "seconds": seconds})

    def _key(self, photo: Photo, size: float | None) -> str:
        pixels = hashlib.sha256(photo.pixels.tobytes()).hexdigest()
        of_photo = {"pixels": pixels, "shape": photo.pixels.shape, "original": photo.size, "size": size}
        return key_of({**self._facts, **of_photo})


class CachedExtractor(LocalExtractor):
    """An extractor that computes the features of photos which are not in a cache yet, and keeps them there.

    Args:
        extractor: Computes the features.
        cache: Keeps them.
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
        """See :meth:`LocalExtractor._samples`; these are not kept."""
        return [self.extractor.samples(part.partition(".")[2], photos)]


def with_feature_cache(
    model: Model, folder: Path | None, on_note: Callable[[str], None]
) -> tuple[Model, FeatureCache | None]:
    """A model that keeps the local features of photos, and where; the model itself, and None, without local features or
    without a folder. Networks are shared with the model."""
    describer = model.describer
    if folder is None or not isinstance(describer, FeatureDescriber):
        return model, None
    settings: dict[str, Any] = model.settings["describer"]["local_features"]
    tensors = {"local_features": dict(describer.local_features.state_dict())}
    facts: dict[str, object] = {
        "version": __version__,
        "part": "local_features",
        "extractor": model_fingerprint({"local_features": settings}, tensors),
        "device": model.device.partition(":")[0],
        "precision": model.precision,
    }
    cache = FeatureCache(folder, facts, on_note)
    return model.with_local_features(CachedExtractor(describer.local_features, cache)), cache
