"""The frozen model that a student follows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from objemb import checks
from objemb.heads.base import Head
from objemb.models import Model, build_model, load_model
from objemb.ops.tensors import as_tensor, l2
from objemb.structures import Photo, RegionDescriptors, Regions
from objemb.training.cache import VectorCache


class Teacher:
    """A model whose vectors of given boxes are the targets of a student; any objemb model can be a teacher.

    It is deliberately not an ``nn.Module``, so that it is part of neither the state nor the optimiser of a student that
    has it as an attribute. Its networks are frozen and in eval mode, and its whitening is fixed when the teacher is
    created, so that teacher and student share one embedding space throughout.

    The two teachers of Chen, Davis and Lim ("An analysis of object embeddings for image retrieval", 2019) are two
    settings of :class:`~objemb.describers.pooled_regions.PooledRegions`: with the extractor ``crop`` each box has its
    own forward pass; with ``map`` all boxes are pooled from the feature map of a single pass.

    Args:
        model: The model; it is copied.
        cache: Folder in which computed vectors are cached, None to cache them in memory only.
        capacity: Maximum number of vectors in memory.

    Attributes:
        dim: Length D of the vectors.
        fingerprint: Fingerprint of the model.
        settings: Settings of the model.
    """

    def __init__(self, model: Model, *, cache: str | Path | None = None, capacity: int = 100_000) -> None:
        self.dim, self.fingerprint, self.settings = model.dim, model.fingerprint, model.settings
        describer = copy.deepcopy(model.vector_describer("teacher")).requires_grad_(False)
        self._whitening = describer.whitening
        self._describer = describer.whitened(None)
        self._cache = VectorCache(self.fingerprint, self.dim, cache, capacity=capacity)

    @classmethod
    def open(
        cls, source: str | Path | Mapping[str, object], *, cache: str | Path | None = None, capacity: int = 100_000
    ) -> Teacher:
        """Open a model folder as a teacher, or build one from the settings of a describer.

        Args:
            source: A folder written by ``objemb model build`` or ``objemb train``, or
                ``{"name": "pooled_regions", ...}``.
            cache: See the class.
            capacity: See the class.

        Raises:
            FileNotFoundError: The path is not a model folder.
            TypeError, ValueError: ``source`` is neither a path nor valid settings.
        """
        if isinstance(source, Mapping):
            return cls(build_model({"describer": dict(source)}), cache=cache, capacity=capacity)
        if isinstance(source, (str, Path)):
            return cls(load_model(source), cache=cache, capacity=capacity)
        raise TypeError(f"teacher: expected a model folder or the settings of a describer, found {source!r}")

    def start(self, head: Head) -> None:
        """Initialise the head of a student with the teacher's layers; see :meth:`Head.initialise`.

        Raises:
            TypeError: The head has no such layers.
            ValueError: The teacher has no backbone, or its layers do not fit.
        """
        head.initialise(self._describer.needed_backbone("teacher"), self._whitening)

    def to(self, device: torch.device | str) -> Teacher:
        """Move the networks to a device; vectors are returned on the CPU."""
        self._describer.to(device)
        return self

    def vectors(self, photos: Sequence[Photo], regions: Sequence[Regions], *, unit: bool = True) -> list[Tensor]:
        """Vectors of given boxes.

        Each photo is described separately, with all of its boxes, so that its vectors are bit-identical in any batch
        and whether or not they come from the cache.

        Args:
            photos: The photos.
            regions: Boxes of each photo in original pixels; zero boxes are a normal case.
            unit: Whether to normalise the vectors. If not, they are as projected by the whitening, for
                :func:`~objemb.losses.distillation.l2_loss`; without a whitening they are unit vectors in any case.

        Returns:
            Per photo float32 ``(N, D)`` on the CPU.
        """
        vectors = [self._of_photo(photo, of_photo) for photo, of_photo in zip(photos, regions, strict=True)]
        return [l2(f) if unit else f for f in vectors]

    def describe(self, photos: Sequence[Photo], regions: Sequence[Regions]) -> list[RegionDescriptors]:
        """The unit vectors of given boxes, computed without the cache, since augmented photos do not come again."""
        return [
            RegionDescriptors(photo.id, boxes, l2(self.compute(photo, boxes)))
            for photo, boxes in zip(photos, regions, strict=True)
        ]

    def expect_dim(self, dim: int) -> None:
        """Raise ``ValueError`` unless the student's vectors have the length of the teacher's."""
        if dim != self.dim:
            raise ValueError(
                f"teacher: expected vectors of the student's length {dim}, found {self.dim}; set the student's "
                f"head.dim={self.dim}, or give the teacher a whitening (objemb model build --whiten-dim {dim})"
            )

    @property
    def whitened(self) -> bool:
        """Whether its vectors are whitened."""
        return self._whitening is not None

    @property
    def parameters(self) -> int:
        """Number of parameters, including those of a detector."""
        return sum(p.numel() for p in self._describer.parameters())

    @torch.no_grad()
    def compute(self, photo: Photo, regions: Regions) -> Tensor:
        """Compute vectors of the boxes of one photo without the cache, not normalised, float32 ``(N, D)``."""
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            vectors = as_tensor(self._describer.describe([photo], [regions])[0].vectors)
            return vectors if self._whitening is None else self._whitening.map(vectors)

    def _of_photo(self, photo: Photo, regions: Regions) -> Tensor:
        if len(regions) == 0:
            return torch.zeros(0, self.dim)
        boxes = Regions(regions.boxes, regions.size)
        known = self._cache.get(photo, boxes)
        if known is not None:
            return known
        vectors = checks.finite(f"teacher's vectors of {photo.id!r}", self.compute(photo, boxes))
        self._cache.put(photo, boxes, vectors)
        return vectors
