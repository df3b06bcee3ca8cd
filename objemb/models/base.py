"""The contract of a model, whatever computes it: what indexing, search and the commands need of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objemb import checks
from objemb.images.decode import MAX_PIXELS
from objemb.images.inputs import BoxesLike, ImageLike, as_encoded, as_photo, as_regions
from objemb.images.sources import SkippedImage
from objemb.models.stream import Sources, process_stream
from objemb.structures import Described, MatchKernel, Photo, Regions

if TYPE_CHECKING:  # these need PyTorch
    from objemb.describers.base import Describer, FeatureDescriber
    from objemb.detectors.base import Detector
    from objemb.rerank.base import Reranker

#: How a box of a query is described; see :meth:`EmbeddingModel.query`.
CROPS = ("context", "crop", "scaled", "whole")
#: What a query without boxes is searched for: the whole photo, what the model's detector finds in it, or both.
WHOLE, DETECTOR, BOTH = "whole", "detector", "both"
QUERY_BOXES = (WHOLE, DETECTOR, BOTH)
#: A box that was found and covers the photo by more than this (IoU of both) is the whole photo once more.
SAME_AS_WHOLE = 0.8


class EmbeddingModel(ABC):
    """What :func:`objemb.load` opens: photos to the rows of an index, and queries to rows to search with.

    Models with the same fingerprint give rows that may be compared, whatever computes them.

    Attributes:
        settings: The resolved config, without the origin of weights.
        provenance: Where the model comes from: weight files with checksums, the command, versions.
        path: The folder that it was loaded from, None for one that was only built.
        precision: How its networks compute. What comes after them, and the vectors, are float32. The fingerprint does
            not depend on it.
    """

    settings: Mapping[str, Any]
    provenance: Mapping[str, object]
    path: Path | None
    precision: str

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.settings['describer']['name']!r}, dim={self.dim}, fingerprint={self.fingerprint[:12]!r})"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hex digits; models with the same fingerprint give vectors that may be compared."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors, or of the residuals of visual words."""

    @property
    @abstractmethod
    def gives(self) -> type[Described]:
        """What the rows are: :class:`~objemb.structures.RegionDescriptors` or
        :class:`~objemb.structures.VisualWords`."""

    @property
    @abstractmethod
    def kernel(self) -> MatchKernel | None:
        """How its visual words are compared; None for a model of vectors."""

    @property
    @abstractmethod
    def per_region(self) -> bool:
        """Whether an index has a row for each region of a photo; else one for each photo."""

    @property
    @abstractmethod
    def has_detector(self) -> bool:
        """Whether it finds objects by itself; else boxes have to be given."""

    @property
    @abstractmethod
    def decode_side(self) -> int | None:
        """The longest side of a photo in pixels that is of use, None for full resolution."""

    @property
    @abstractmethod
    def untrained(self) -> list[str]:
        """Keys of the networks that have random values, such as ``describer.backbone``; empty for one that can see."""

    @property
    @abstractmethod
    def rerankers(self) -> tuple[Reranker, ...]:
        """What the method does with results, in order; vectors and fingerprint do not depend on it."""

    @property
    @abstractmethod
    def photo_describer(self) -> Describer | FeatureDescriber | None:
        """What re-rankers describe parts of photos with; None for a model that runs without PyTorch."""

    @abstractmethod
    def computing(self) -> AbstractContextManager[None]:
        """A ``with`` block in which the networks compute in the model's precision, for those who call parts of it."""

    @abstractmethod
    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """The longest side in original pixels of the least box that is cut out and described at the size of a photo;
        None where no box is.

        Args:
            boxes: Of a query.
            crop: As for :meth:`query`.
        """

    @abstractmethod
    def _rows(
        self, photos: Sequence[Photo], given: Sequence[Regions] | None, max_regions: int | None
    ) -> list[Described]:
        """Rows for an index, photo by photo.

        Args:
            photos: At least one.
            given: Per photo the regions to describe, the whole image among them; None for those that the model finds.
            max_regions: At most so many boxes of its detector per photo, best first, beside the whole image; None for
                all.
        """

    def _expect_regions(self, given: bool, max_regions: int | None) -> None:
        """Raise ``ValueError`` where photos cannot be described like that.

        Args:
            given: Whether boxes are given.
            max_regions: As for :meth:`_rows`.
        """
        del given, max_regions

    def _as_taken(self, photo: Photo) -> Photo:
        """A photo, made for a trial, of a size that the model takes."""
        return photo

    @abstractmethod
    def _regions_of(self, photo: Photo) -> Regions:
        """The regions that would be indexed, the whole image first; there is a detector."""

    @abstractmethod
    def _query_whole(self, photo: Photo) -> Described:
        """The one row to search with for a whole photo."""

    @abstractmethod
    def _query_boxes(self, photo: Photo, boxes: Regions, crop: str) -> Described:
        """One row for each box, in their order and in the frame of the photo."""

    @property
    def about(self) -> dict[str, object]:
        """What an index should remember of the model that made it (``Index.create(model=model.about)``), JSON-ready.

        By its absolute path ``objemb search`` finds the model again.
        """
        path = None if self.path is None else str(self.path.absolute())
        facts = {"path": path, "settings": self.settings, "provenance": self.provenance}
        return {**facts, "precision": self.precision, "untrained": self.untrained}

    def query_side(self, crop: str) -> int | None:
        """As :attr:`decode_side`, for photos with boxes that :meth:`query` sees as ``crop`` says."""
        return self.decode_side if self.least_cut_side(Regions.whole((1, 1)), crop) is None else None

    def describe(self, image: ImageLike, boxes: BoxesLike | None = None) -> Described:
        """The regions of one image with their vectors, or its visual words, as they go into an index.

        Args:
            image: A path, bytes or an open binary file, a PIL image, an array ``(H, W, 3)`` or tensor ``(3, H, W)``,
                RGB (grey and alpha too, and floats from 0 to 1), or a Photo; :func:`objemb.images.inputs.as_photo`
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
        return self._rows([photo], None, None)[0]

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
            boxes = BOTH if self.has_detector and self.per_region else WHOLE
        if isinstance(boxes, str):
            checks.one_of("boxes", boxes, QUERY_BOXES)
        photo = as_photo(image, self.decode_side, max_pixels=max_pixels)
        given = self._meant(photo, boxes, crop) if isinstance(boxes, str) else as_regions(boxes, photo.size)
        if given is None:
            return self._query_whole(photo)
        part = None if crop == "whole" else self.least_cut_side(given, crop)
        if part is not None and photo.scale != (1.0, 1.0):  # a part needs pixels that the whole does not
            photo = as_photo(image, self.decode_side, part, max_pixels)
        return self._query_boxes(photo, given, crop)

    def detect(self, image: ImageLike) -> Regions:
        """The boxes that would be indexed, best first, without the whole image.

        Raises:
            ValueError: The model has no detector.
        """
        self._expect_detector()
        return self._regions_of(as_photo(image, self.decode_side))[1:]

    def _expect_detector(self) -> None:
        if not self.has_detector:
            raise ValueError("detect: expected a model with a detector, found one that takes boxes as they are given")

    def _meant(self, photo: Photo, word: str, crop: str) -> Regions | None:
        """The boxes that one of :data:`QUERY_BOXES` stands for; None for the whole image alone."""
        if word == WHOLE or crop == "whole":  # where every box is seen as the whole image, one will do
            return None
        self._expect_detector()
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
        if max_regions is not None:
            checks.whole("max_regions", max_regions, 0)
        self._expect_regions(boxes is not None, max_regions)

        def given_of(photos: Sequence[Photo]) -> list[Regions] | None:
            return None if boxes is None else given_regions(boxes, photos, max_regions)

        def works(photo: Photo) -> None:
            # stored boxes count the photos that they are asked for, and can fail for each of them
            own = boxes is None or boxes.decode_side() == 0
            self._rows([self._as_taken(photo)], None if own else given_of([photo]), max_regions)

        return process_stream(
            sources,
            lambda photos: self._rows(photos, given_of(photos), max_regions),
            side=self.decode_side,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            on_skip=on_skip,
            works=works,
        )


def given_regions(boxes: Detector, photos: Sequence[Photo], most: int | None = None) -> list[Regions]:
    """Per photo the whole image and boxes from elsewhere, all of them: whoever made them has chosen them.

    Args:
        boxes: Where they come from, such as ``StoredBoxes``.
        photos: The photos.
        most: At most so many boxes, best first, beside the whole image; None for all.
    """
    return [found[:most].with_whole() for found in boxes.detect(photos)]


def least_longest_side(boxes: Regions) -> float | None:
    """The longest side of the box whose longest side is the least; None of none."""
    return float((boxes.boxes[:, 2:] - boxes.boxes[:, :2]).max(axis=1).min()) if len(boxes) else None


def photo_and_objects(found: Regions) -> Regions:
    """The whole photo, which is region 0, and the boxes behind it that show less than all of it."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    areas = sides[:, 0] * sides[:, 1]  # each lies in the whole photo, so its share of it is their IoU
    less = areas <= SAME_AS_WHOLE * areas[0]
    less[0] = True
    return found[less]
