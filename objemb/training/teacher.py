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
from objemb.ops.arrays import as_tensor
from objemb.ops.normalize import l2
from objemb.structures import Photo, Regions
from objemb.training.cache import VectorCache


class Teacher:
    """A model whose vectors of given boxes are the targets of a student; any objemb model will do.

    It is no ``nn.Module``: as an attribute of one it is not part of its tree, so neither the student's state nor its
    optimiser ever sees it. Its networks are frozen and in eval mode, and its whitening is what it was when the teacher
    was made, so that teacher and student share one space from the first step to the last.

    The two kinds of Chen, Davis and Lim ("An analysis of object embeddings for image retrieval", 2019) are two
    settings of :class:`~objemb.describers.pooled_regions.PooledRegions`: the extractor ``crop`` gives each box a
    forward pass of its own, ``map`` pools all of them from the map of one pass.

    Args:
        model: The model; it is copied.
        cache: Folder for vectors that were computed, None to keep them in memory alone.
        capacity: Vectors to keep in memory.

    Attributes:
        dim: Length D of the vectors.
        fingerprint: Of the model.
        settings: Of the model.
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
        """The teacher in a model folder, or one that settings of a describer make.

        Args:
            source: A folder that ``objemb model build`` or a training made, or ``{"name": "pooled_regions", ...}``.
            cache: See the class.
            capacity: See the class.

        Raises:
            FileNotFoundError: No model folder.
            TypeError, ValueError: Neither a path nor settings that can be built.
        """
        if isinstance(source, Mapping):
            return cls(build_model({"describer": dict(source)}), cache=cache, capacity=capacity)
        if isinstance(source, (str, Path)):
            return cls(load_model(source), cache=cache, capacity=capacity)
        raise TypeError(f"teacher: expected a model folder or the settings of a describer, found {source!r}")

    def start(self, head: Head) -> None:
        """Let the head of a student start from the teacher's own layers; see :meth:`Head.initialise`.

        Raises:
            TypeError: A head that has no such layers.
            ValueError: A teacher without a backbone, or layers that do not fit.
        """
        head.initialise(self._describer.needed_backbone("teacher"), self._whitening)

    def to(self, device: torch.device | str) -> Teacher:
        """Move the networks to the device that they run on; the vectors come back to the CPU."""
        self._describer.to(device)
        return self

    def vectors(self, photos: Sequence[Photo], regions: Sequence[Regions], *, unit: bool = True) -> list[Tensor]:
        """Vectors of given boxes.

        Each photo is described on its own, with all of its boxes, so that its vectors are the same to the last bit
        whatever it shares a batch with, and whether they come from the cache or not.

        Args:
            photos: The photos.
            regions: Per photo its boxes in original pixels; zero boxes are a normal case.
            unit: Whether to bring the vectors to unit length. Without it they are as their whitening projects them, for
                :func:`~objemb.losses.distillation.l2_loss`; a teacher without a whitening has unit vectors only.

        Returns:
            Per photo float32 ``(N, D)`` on the CPU.
        """
        vectors = [self._of_photo(photo, of_photo) for photo, of_photo in zip(photos, regions, strict=True)]
        return [l2(f) if unit else f for f in vectors]

    def expect_dim(self, dim: int) -> None:
        """Raise ``ValueError`` for a student whose vectors have another length."""
        if dim != self.dim:
            raise ValueError(
                f"teacher: expected vectors of length {dim}, as those of the student, found {self.dim}; give the "
                f"student head.dim={self.dim}, or the teacher a whitening (objemb model build --whiten-dim {dim})"
            )

    @property
    def parameters(self) -> int:
        """Number of parameters, a detector's among them."""
        return sum(p.numel() for p in self._describer.parameters())

    @torch.no_grad()
    def compute(self, photo: Photo, regions: Regions) -> Tensor:
        """Vectors of the boxes of one photo before unit length, float32 ``(N, D)``, past the cache."""
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
