"""A model: one method with its weights, from a photo to the rows of an index."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer, FeatureDescriber
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector
from objemb.devices import DTYPES, find_device, find_precision
from objemb.images.decode import MAX_PIXELS
from objemb.images.sources import SkippedImage
from objemb.layers.precision import networks_in
from objemb.layers.whitening import Whitening
from objemb.local_features.base import LocalExtractor
from objemb.models.inputs import BoxesLike, ImageLike, as_encoded, as_photo, as_regions
from objemb.models.origins import untrained
from objemb.models.pipeline import (
    BOTH,
    CROPS,
    QUERY_BOXES,
    WHOLE,
    AnyAggregator,
    AnyDescriber,
    Pipeline,
    connected,
    photo_and_objects,
    vector_describer,
)
from objemb.models.state import model_fingerprint, model_tensors
from objemb.models.stream import Sources, process_stream
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.rerank.base import Reranker
from objemb.structures import Described, MatchKernel, Photo, Regions


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """What :func:`objemb.load` opens.

    Attributes:
        describer: Photos to regions with vectors, or with local features.
        aggregator: Regions to the rows of an index: vectors, or visual words.
        settings: The resolved config, without the origin of weights.
        provenance: Where the model comes from: weight files with checksums, the command, versions.
        device: Where it runs.
        rerankers: What the method does with results, in order; vectors and fingerprint do not depend on it.
        path: The folder that it was loaded from, None for one that was only built.
        precision: How its networks compute: ``fp32``, ``bf16`` or ``fp16``. What comes after them, and the vectors, are
            float32. The fingerprint does not depend on it.
    """

    describer: AnyDescriber
    aggregator: AnyAggregator
    settings: Mapping[str, Any]
    provenance: Mapping[str, object] = field(default_factory=dict)
    device: str = "cpu"
    rerankers: tuple[Reranker, ...] = ()
    path: Path | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, tuple(DTYPES))

    def __repr__(self) -> str:
        return f"Model({self.settings['describer']['name']!r}, dim={self.dim}, fingerprint={self.fingerprint[:12]!r})"

    @functools.cached_property
    def pipeline(self) -> Pipeline[Any]:
        """Describer and aggregator as one. Raises ``ValueError`` where they do not fit together."""
        return connected(self.describer, self.aggregator)

    @property
    def dim(self) -> int:
        """Length of the vectors, or of the residuals of visual words."""
        return self.pipeline.dim

    @property
    def gives(self) -> type[Described]:
        """What the rows are: :class:`~objemb.structures.RegionDescriptors` or
        :class:`~objemb.structures.VisualWords`."""
        return self.aggregator.gives

    @property
    def kernel(self) -> MatchKernel | None:
        """How its visual words are compared; None for a model of vectors."""
        return self.aggregator.kernel

    @property
    def whitening(self) -> Whitening | None:
        """The whitening of the describer's vectors; None for none."""
        return self.describer.whitening if isinstance(self.describer, Describer) else None

    def vector_describer(self, who: str) -> Describer:
        """The describer of a model that gives vectors of regions.

        Args:
            who: What needs it, for the message.

        Raises:
            ValueError: The describer gives local features.
        """
        return vector_describer(self.describer, who)

    @functools.cached_property
    def fingerprint(self) -> str:
        """64 hex digits; models with the same fingerprint give vectors that may be compared."""
        return model_fingerprint(self.settings, model_tensors(self.describer, self.aggregator))

    @property
    def untrained(self) -> list[str]:
        """Keys of the networks that have random values, such as ``describer.backbone``; empty for one that can see."""
        return untrained(self.settings, self.provenance)

    @property
    def about(self) -> dict[str, object]:
        """What an index should remember of the model that made it (``Index.create(model=model.about)``), JSON-ready.

        By its absolute path ``objemb search`` finds the model again.
        """
        path = None if self.path is None else str(self.path.absolute())
        facts = {"path": path, "settings": self.settings, "provenance": self.provenance}
        return {**facts, "precision": self.precision, "untrained": self.untrained}

    @property
    def decode_side(self) -> int | None:
        """The longest side of a photo in pixels that is of use, None for full resolution."""
        return self.describer.decode_side()

    def query_side(self, crop: str) -> int | None:
        """As :attr:`decode_side`, for photos with boxes that :meth:`query` sees as ``crop`` says."""
        alone = self.pipeline.least_cut_side(Regions.whole((1, 1)), crop)
        return self.decode_side if alone is None else None

    @property
    def preprocessing(self) -> dict[str, object]:
        """How pixels reach the network, for people and for other programs; the settings rule."""
        network = self.detector if self.describer.backbone is None else self.describer.backbone
        colours = {}
        if isinstance(network, (Backbone, NetworkDetector)):
            known = {"mean": network.mean, "std": network.std}
            colours = {k: [round(v, 6) for v in values.flatten().tolist()] for k, values in known.items()}
        extractor = self.settings["describer"].get("extractor")
        return {"orientation": "EXIF applied", "colour": "RGB from 0 to 1", **colours, "extractor": extractor}

    @property
    def detector(self) -> Detector | None:
        """The model's own detector, None where boxes have to be given."""
        return self.describer.detector

    @torch.inference_mode()
    def describe(self, image: ImageLike, boxes: BoxesLike | None = None) -> Described:
        """The regions of one image with their vectors, or its visual words, as they go into an index.

        Args:
            image: A path, bytes or an open binary file, a PIL image, an array ``(H, W, 3)`` or tensor ``(3, H, W)``,
                RGB (grey and alpha too, and floats from 0 to 1), or a Photo; :func:`objemb.models.inputs.as_photo`
                tells it exactly. A JPEG's decoder scales it down where it is large; what was decoded before is not, so
                that its vector may differ from that of the file by a cosine of some thousandths.
            boxes: Boxes in original pixels to describe instead of looking for some: ``(x1, y1, x2, y2)`` rows.

        Returns:
            Without boxes: the rows for an index, region 0 the whole image. With boxes: one row per box, in their order.
            Vectors are float32 unit vectors ``(N, dim)``; a model of local features may give
            :class:`~objemb.structures.VisualWords` instead (:attr:`gives`).

        Raises:
            FileNotFoundError, UnreadableImageError: The file is missing or no image.
            ValueError, TypeError: An image of another shape or type, boxes outside the image.
        """
        if boxes is not None:
            return self.query(image, boxes)
        photo = as_photo(image, self.decode_side)
        with self.computing():
            rows: Described = self.pipeline.rows([photo])[0]
        return rows

    @torch.inference_mode()
    def query(
        self,
        image: ImageLike,
        boxes: BoxesLike | str | None = None,
        *,
        crop: str = "context",
        max_pixels: int = MAX_PIXELS,
    ) -> Described:
        """The rows to search with: given boxes, the whole image, what the detector finds in it, or both of these.

        Args:
            image: As for :meth:`describe`.
            boxes: Boxes to search for, in original pixels. Or one of the words ``whole``: the whole image as one
                object; ``detector``: the boxes of the model's detector (the whole image where it finds none); ``both``:
                the whole image, and the boxes of the detector that do not cover it (an IoU of at most 0.8). None, as
                ``objemb search`` without a box: ``both`` for a model with a detector whose index has a row for every
                region, ``whole`` for all others.
            crop: How a box is seen. ``context``: as what it is compared with was seen when it was indexed: in its
                photo, where boxes are indexed; a method with one row per image cuts it out, at the scale of its photo.
                ``crop``: cut out and described as an image of its own, at the size of one. ``scaled``: cut out at the
                scale of its photo, whatever is indexed (the convention of the retrieval benchmarks); ways to look that
                bring every region to one size (extractors ``crop`` and ``pyramid``) have no other scale, and a detector
                that describes by itself (``one_pass``), which does, sees the box in its photo instead. ``whole``: the
                whole image is searched for, and the box only says what in it is meant. Of a model of local features,
                ``context`` means the features of the photo that lie in the box.
            max_pixels: A larger file is refused before it is decoded.

        Returns:
            One row per box, boxes in original pixels of the image.
        """
        checks.one_of("crop", crop, CROPS)
        image = as_encoded(image)  # read once, decoded perhaps twice
        if boxes is None:
            boxes = BOTH if self.detector is not None and self.aggregator.per_region else WHOLE
        if isinstance(boxes, str):
            checks.one_of("boxes", boxes, QUERY_BOXES)
        photo = as_photo(image, self.decode_side, max_pixels=max_pixels)
        given = self._meant(photo, boxes, crop) if isinstance(boxes, str) else as_regions(boxes, photo.size)
        if given is None:
            with self.computing():
                row: Described = self.pipeline.query_whole(photo)
            return row
        part = None if crop == "whole" else self.pipeline.least_cut_side(given, crop)
        if part is not None and photo.scale != (1.0, 1.0):  # a part needs pixels that the whole does not
            photo = as_photo(image, self.decode_side, part, max_pixels)
        with self.computing():
            rows: Described = self.pipeline.query_boxes(photo, given, crop)
        return rows

    @torch.inference_mode()
    def detect(self, image: ImageLike) -> Regions:
        """The boxes that would be indexed, best first, without the whole image.

        Raises:
            ValueError: The model has no detector.
        """
        return self._regions_of(as_photo(image, self.decode_side))[1:]

    def _regions_of(self, photo: Photo) -> Regions:
        """The regions that would be indexed, the whole image first."""
        source = self.describer.regions
        if source is None or source.detector is None:
            raise ValueError("detect: expected a model with a detector, found one that takes boxes as they are given")
        with self.computing():
            return source.find([photo])[0]

    def _meant(self, photo: Photo, word: str, crop: str) -> Regions | None:
        """The boxes that a word of :data:`~objemb.models.pipeline.QUERY_BOXES` stands for; None for the image alone."""
        if word == WHOLE or crop == "whole":  # where every box is seen as the whole image, one will do
            return None
        regions = self._regions_of(photo)
        wanted = photo_and_objects(regions) if word == BOTH else regions[1:]
        return wanted if len(regions) > 1 else None

    def stream(
        self,
        sources: Sources,
        *,
        batch_size: int = 8,
        workers: int = 2,
        boxes: Detector | None = None,
        max_regions: int | None = None,
        max_pixels: int = MAX_PIXELS,
        on_skip: Callable[[SkippedImage], None] | None = None,
    ) -> Iterator[Described]:
        """Describe many photos, in order, in bounded memory.

        Args:
            sources: Folders, list files, CSV or Parquet tables, COCO files, images; or ``ImageRef`` items; or images
                as :meth:`describe` takes them, an array ``(B, H, W, 3)`` or tensor ``(B, 3, H, W)`` of many among them.
                Those in memory have their numbers as ids, from ``0``.
            batch_size: Photos at once; halved by itself where memory does not suffice.
            workers: Decoding threads or processes beside the network.
            boxes: Where boxes come from instead of the model's own regions, such as ``StoredBoxes``.
            max_regions: At most this many boxes per photo, best first, beside the whole image; None for all.
            max_pixels: Larger photos are skipped, before they are decoded.
            on_skip: Called with each image that could not be read or described; by default a warning is logged.

        Yields:
            Per photo its rows for an index.

        Raises:
            Exception: What a network raises for a photo, where it raises for any other too: then it is not the photo.
        """
        checks.whole("batch_size", batch_size)

        source = given_boxes(boxes, max_regions)
        pipeline = (self if max_regions is None else self.limited(max_regions)).pipeline

        @torch.inference_mode()
        def describe(photos: Sequence[Photo]) -> list[Described]:
            given = None if source is None else source.find(photos)
            with self.computing():
                return pipeline.rows(photos, given)

        def works(photo: Photo) -> None:
            # stored boxes count the photos that they are asked for, and can fail for each of them
            given = None if source is None or source.decode_side() == 0 else source.find([photo])
            with self.computing():
                pipeline.rows([photo], given)

        return process_stream(
            sources,
            describe,
            side=self.decode_side,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            on_skip=on_skip,
            works=works,
        )

    def computing(self) -> AbstractContextManager[None]:
        """A ``with`` block in which the networks compute in the model's precision, for those who call parts of it."""
        return networks_in(DTYPES[self.precision])

    def whitened(self, whitening: Whitening | None) -> Model:
        """This model with another whitening of its vectors, or with none; networks are shared with this one."""
        whitening = None if whitening is None else whitening.to(self.device)
        return replace(self, describer=self.vector_describer("whitening").whitened(whitening))

    def limited(self, max_regions: int) -> Model:
        """This model with at most ``max_regions`` boxes of its detector per photo, beside the whole image; networks are
        shared with this one."""
        return replace(self, describer=self.describer.limited(max_regions))

    def with_local_features(self, extractor: LocalExtractor) -> Model:
        """This model of local features with another extractor of the same features, such as one that keeps them;
        networks are shared with this one.

        Raises:
            ValueError: It is a model of vectors.
        """
        describer = self.describer
        if not isinstance(describer, FeatureDescriber):
            raise ValueError(f"local_features: expected a model of local features, found {self!r}")
        return replace(self, describer=describer.with_local_features(extractor))

    def to(self, device: str, precision: str | None = None) -> Model:
        """This model on another device. Its networks move, so that the old handle does not describe any more.

        Args:
            device: As for :func:`objemb.load`.
            precision: Likewise; None keeps that of now.
        """
        found = find_device(device)
        exact = self.precision if precision is None else find_precision(precision, found)
        return replace(self, describer=self.describer.to(found), device=found, precision=exact)

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the model folder that :func:`objemb.load` opens, at once or not at all.

        Raises:
            FileExistsError: The folder exists (a model may be replaced with ``force``).
        """
        from objemb.models.build import save_model

        save_model(self, folder, force=force)


def given_boxes(boxes: Detector | None, max_regions: int | None = None) -> RegionSource | None:
    """The whole image and boxes from elsewhere, all of them: whoever made them has chosen them. None gives None."""
    if boxes is None:
        return None
    most = sys.maxsize if max_regions is None else max_regions
    return Detections(detector=boxes, min_score=None, nms_iou=1.0, max_regions=most)
