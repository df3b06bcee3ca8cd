"""A model in PyTorch: a method with its weights."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch

from objemb import checks, config, registry
from objemb.backbones.base import Backbone
from objemb.card import Provenance
from objemb.describers.base import Describer
from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector
from objemb.devices import DTYPES, find_device, find_precision
from objemb.layers.precision import networks_in
from objemb.layers.whitening import Whitening
from objemb.local_features.base import LocalExtractor
from objemb.models.base import WHOLE, EmbeddingModel, OpenQuery
from objemb.models.origins import untrained
from objemb.models.pipeline import (
    AnyAggregator,
    AnyDescriber,
    FeaturePipeline,
    VectorPipeline,
    connected,
    vector_describer,
)
from objemb.models.state import model_fingerprint, model_tensors
from objemb.regions.base import RegionSource
from objemb.rerank.base import Reranker
from objemb.structures import Described, MatchKernel, Photo, Regions
from objemb.types import Settings


@dataclass(frozen=True, eq=False, repr=False)
class Model(EmbeddingModel):
    """A model that runs in PyTorch.

    Attributes:
        describer: Describes photos by regions with vectors, or by local features.
        aggregator: Aggregates the regions to the rows of an index: vectors, or visual words.
        settings: The resolved config, without the origin of weights.
        provenance: Origin of the model: weight files with checksums, the command, versions.
        device: Device of its networks.
        rerankers: The re-rankers of the method, in order; vectors and fingerprint do not depend on them.
        path: Folder from which it was loaded, None if it was built in memory.
        precision: Precision of its networks: ``fp32``, ``bf16`` or ``fp16``. Later steps and the vectors are float32 in
            any case. The fingerprint does not depend on it.
    """

    describer: AnyDescriber
    aggregator: AnyAggregator
    settings: Settings
    provenance: Provenance = field(default_factory=Provenance)
    device: str = "cpu"
    rerankers: tuple[Reranker, ...] = ()
    path: Path | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, tuple(DTYPES))

    @functools.cached_property
    def pipeline(self) -> VectorPipeline | FeaturePipeline:
        """Describer and aggregator combined. Raises ``ValueError`` if they do not fit together."""
        return connected(self.describer, self.aggregator)

    @property
    def dim(self) -> int:
        """Length of the vectors, or of the residuals of visual words."""
        return self.pipeline.dim

    @property
    def gives(self) -> type[Described]:
        """Type of the rows: :class:`~objemb.structures.RegionDescriptors` or
        :class:`~objemb.structures.VisualWords`."""
        return self.aggregator.gives

    @property
    def kernel(self) -> MatchKernel | None:
        """The kernel that compares its visual words; None for a model of vectors."""
        return self.aggregator.kernel

    @property
    def whitening(self) -> Whitening | None:
        """The whitening of the describer's vectors, or None."""
        return self.describer.whitening if isinstance(self.describer, Describer) else None

    def vector_describer(self, who: str) -> Describer:
        """The describer of a model of vectors.

        Args:
            who: Name of what needs it, for the message.

        Raises:
            ValueError: The describer computes local features.
        """
        return vector_describer(self.describer, who)

    @functools.cached_property
    def fingerprint(self) -> str:
        """64 hexadecimal digits; vectors of models with the same fingerprint are comparable."""
        return model_fingerprint(self.settings, model_tensors(self.describer, self.aggregator))

    @property
    def untrained(self) -> list[str]:
        """Keys of the networks with random weights, such as ``describer.backbone``; empty for a trained model."""
        return untrained(self.settings, self.provenance)

    @property
    def computation(self) -> dict[str, object]:
        """See :attr:`EmbeddingModel.computation`."""
        return {"device": self.device.partition(":")[0], "precision": self.precision}

    @property
    def fitted_on(self) -> dict[str, str]:
        """See :attr:`EmbeddingModel.fitted_on`."""
        fitted = {name: part.fitted_on for name, part in self.pipeline.fitted_parts().items()}
        return fitted if self.whitening is None else {**fitted, "whitening": self.whitening.fitted_on}

    @property
    def own_boxes(self) -> str | None:
        """See :attr:`EmbeddingModel.own_boxes`."""
        return None if self.detector is None else self.detector.content_hash()

    @property
    def decode_side(self) -> int | None:
        """The longest side in pixels at which the model uses a photo, None for full resolution."""
        return self.describer.decode_side()

    @property
    def preprocessing(self) -> dict[str, object]:
        """Description of the preprocessing of pixels, for the model card; the settings are authoritative."""
        network = self.detector if self.describer.backbone is None else self.describer.backbone
        colours = {}
        if isinstance(network, (Backbone, NetworkDetector)):
            known = {"mean": network.mean, "std": network.std}
            colours = {k: [round(v, 6) for v in values.flatten().tolist()] for k, values in known.items()}
        extractor = self.settings["describer"].get("extractor")
        return {"orientation": "EXIF applied", "colour": "RGB from 0 to 1", **colours, "extractor": extractor}

    @property
    def per_region(self) -> bool:
        """See :attr:`EmbeddingModel.per_region`."""
        return self.aggregator.per_region

    @property
    def has_detector(self) -> bool:
        """See :attr:`EmbeddingModel.has_detector`."""
        return self.detector is not None

    @property
    def photo_describer(self) -> AnyDescriber:
        """See :attr:`EmbeddingModel.photo_describer`."""
        return self.describer

    @property
    def detector(self) -> Detector | None:
        """The model's own detector, None if boxes have to be given."""
        return self.describer.detector

    @torch.inference_mode()
    def _rows(
        self, photos: Sequence[Photo], given: Sequence[Regions] | None, max_regions: int | None
    ) -> list[Described]:
        """See :meth:`EmbeddingModel._rows`."""
        pipeline = (self if max_regions is None else self.limited(max_regions)).pipeline
        with self.computing():
            return pipeline.rows(photos, given)

    @torch.inference_mode()
    def _regions_of(self, photo: Photo) -> Regions:
        """See :meth:`EmbeddingModel._regions_of`."""
        with self.computing():
            return cast(RegionSource, self.describer.regions).find([photo])[0]

    @torch.inference_mode()
    def _objects_of(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`EmbeddingModel._objects_of`."""
        with self.computing():
            return cast(RegionSource, self.describer.regions).objects(photos)

    @torch.inference_mode()
    def _query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """See :meth:`EmbeddingModel._query_whole`."""
        with self.computing():
            return self.pipeline.query_whole(photos)

    @torch.inference_mode()
    def _query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """See :meth:`EmbeddingModel._query_boxes`."""
        with self.computing():
            return self.pipeline.query_boxes(photos, boxes, crop)

    def shapes_of(self, query: OpenQuery) -> Hashable | None:
        """See :meth:`EmbeddingModel.shapes_of`."""
        if isinstance(query.boxes, str):
            shapes = None if query.boxes != WHOLE else self.pipeline.query_shapes(query.photo, None, query.crop)
        else:
            shapes = self.pipeline.query_shapes(query.photo, query.boxes, query.crop)
        return None if shapes is None else (query.crop, isinstance(query.boxes, str), shapes)

    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """See :meth:`EmbeddingModel.least_cut_side`."""
        return self.pipeline.least_cut_side(boxes, crop)

    def computing(self) -> AbstractContextManager[None]:
        """See :meth:`EmbeddingModel.computing`."""
        return networks_in(DTYPES[self.precision])

    def whitened(self, whitening: Whitening | None) -> Model:
        """A copy with another whitening, or without one; networks are shared."""
        whitening = None if whitening is None else whitening.to(self.device)
        return replace(self, describer=self.vector_describer("whitening").whitened(whitening))

    def limited(self, max_regions: int) -> Model:
        """See :meth:`EmbeddingModel.limited`."""
        return replace(self, describer=self.describer.limited(max_regions))

    def reranked(self, steps: Sequence[Settings]) -> Model:
        """See :meth:`EmbeddingModel.reranked`."""
        settings = config.resolve({**self.settings, "rerank": list(steps)})
        built = tuple(registry.build(Reranker, step) for step in settings["rerank"])
        return replace(self, settings=settings, rerankers=built)

    def with_local_features(self, extractor: LocalExtractor) -> Model:
        """A copy of a model of local features with another extractor of the same features, such as one that caches
        them; networks are shared.

        Raises:
            ValueError: This is a model of vectors.
        """
        describer = self.describer
        if not isinstance(describer, FeatureDescriber):
            raise ValueError(f"local_features: expected a model of local features, found {self!r}")
        return replace(self, describer=describer.with_local_features(extractor))

    def to(self, device: str, precision: str | None = None) -> Model:
        """Move the model to another device. The networks are moved, so this object must not be used any more.

        Args:
            device: As for :func:`objemb.load`.
            precision: As for :func:`objemb.load`; None keeps the current one.

        Returns:
            The model on the other device.
        """
        found = find_device(device)
        exact = self.precision if precision is None else find_precision(precision, found)
        return replace(self, describer=self.describer.to(found), device=found, precision=exact)

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write a model folder for :func:`objemb.load`, atomically.

        Args:
            folder: The folder to create.
            force: Whether to replace an existing model.

        Raises:
            FileExistsError: The folder exists and is not a model, or is one and ``force`` is false.
        """
        from objemb.models.build import save_model

        save_model(self, folder, force=force)
