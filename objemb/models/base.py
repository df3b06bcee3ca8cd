"""The contract of a model, independent of its runtime, as used by indexing, search and the commands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from objemb import checks
from objemb.card import Provenance
from objemb.images.decode import MAX_PIXELS
from objemb.images.inputs import BoxesLike, ImageLike, as_encoded, as_photo, as_regions
from objemb.images.sources import SkippedImage
from objemb.models.stream import Sources, process_stream
from objemb.structures import Described, MatchKernel, Photo, Regions
from objemb.types import Settings

if TYPE_CHECKING:  # these need PyTorch
    from objemb.describers.base import Describer
    from objemb.describers.capabilities import FeatureDescriber
    from objemb.detectors.base import Detector
    from objemb.rerank.base import Reranker

#: How a box of a query is described; see :meth:`EmbeddingModel.query`.
CROPS = ("context", "crop", "scaled", "whole")
#: What a box of a query becomes: a region of its photo, or a cut, either at the scale of its photo or at the size of a
#: photo.
REGION, PART, ALONE = "region", "part", "alone"
#: Words for the boxes of a query: the whole photo, the boxes of the model's detector, or both.
WHOLE, DETECTOR, BOTH = "whole", "detector", "both"
QUERY_BOXES = (WHOLE, DETECTOR, BOTH)
#: Photos of queries that are decoded and described at a time.
QUERIES_AT_ONCE = 8
#: A detection whose IoU with the whole photo exceeds this is a duplicate of the whole photo.
SAME_AS_WHOLE = 0.8


@dataclass(frozen=True, eq=False)
class OpenQuery:
    """A query whose photo is decoded: what :meth:`EmbeddingModel.open_query` returns.

    Attributes:
        image: The photo as it was given, which may be decoded again, at a higher resolution.
        photo: The decoded photo.
        boxes: The boxes to describe, or ``whole``, ``detector`` or ``both``.
        crop: How a box is described, see :meth:`EmbeddingModel.query`.
        max_pixels: Maximum number of pixels of the image.
    """

    image: ImageLike
    photo: Photo
    boxes: Regions | str
    crop: str
    max_pixels: int


class EmbeddingModel(ABC):
    """A model as opened by :func:`objemb.load`: describes photos for an index, and queries for a search.

    Rows of models with the same fingerprint are comparable, independent of the runtime.

    Attributes:
        settings: The resolved config, without the origin of weights.
        provenance: Origin of the model: weight files with checksums, the command, versions.
        device: Where it runs, such as ``cpu``.
        path: Folder from which it was loaded, None if it was built in memory.
        precision: Precision of its networks. Later steps and the vectors are float32 in any case. The fingerprint does
            not depend on it.
    """

    settings: Settings
    provenance: Provenance
    device: str
    path: Path | None
    precision: str

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.settings['describer']['name']!r}, dim={self.dim}, fingerprint={self.fingerprint[:12]!r})"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """64 hexadecimal digits; vectors of models with the same fingerprint are comparable."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors, or of the residuals of visual words."""

    @property
    @abstractmethod
    def gives(self) -> type[Described]:
        """Type of the rows: :class:`~objemb.structures.RegionDescriptors` or
        :class:`~objemb.structures.VisualWords`."""

    @property
    @abstractmethod
    def kernel(self) -> MatchKernel | None:
        """The kernel that compares its visual words; None for a model of vectors."""

    @property
    @abstractmethod
    def per_region(self) -> bool:
        """Whether an index has one row per region rather than one row per photo."""

    @property
    @abstractmethod
    def has_detector(self) -> bool:
        """Whether the model has a detector; if not, boxes have to be given."""

    @property
    @abstractmethod
    def decode_side(self) -> int | None:
        """The longest side in pixels at which the model uses a photo, None for full resolution."""

    @property
    @abstractmethod
    def untrained(self) -> list[str]:
        """Keys of the networks with random weights, such as ``describer.backbone``; empty for a trained model."""

    @property
    @abstractmethod
    def computation(self) -> dict[str, object]:
        """What beside the fingerprint decides the last digits of vectors, such as the precision: for keys of a cache,
        JSON-ready."""

    @property
    @abstractmethod
    def fitted_on(self) -> dict[str, str]:
        """For each part that was learned without labels, the record of the photos it was fitted on; the whitening is
        ``whitening``."""

    @property
    def own_boxes(self) -> str | None:
        """The checksum of the file of the model's own boxes; None if there is no such file."""
        return None

    @property
    @abstractmethod
    def rerankers(self) -> tuple[Reranker, ...]:
        """The re-rankers of the method, in order; vectors and fingerprint do not depend on them."""

    @property
    @abstractmethod
    def photo_describer(self) -> Describer | FeatureDescriber | None:
        """The describer with which re-rankers describe parts of photos; None for a model that runs without PyTorch."""

    @abstractmethod
    def limited(self, max_regions: int) -> Self:
        """A copy with at most ``max_regions`` boxes of its detector per photo, in addition to the whole image; networks
        are shared.

        Raises:
            ValueError: The boxes are chosen in a graph.
        """

    @abstractmethod
    def reranked(self, steps: Sequence[Settings]) -> Self:
        """A copy with other re-rankers, which shares everything else.

        Args:
            steps: Settings of the re-rankers, in order.

        Raises:
            ValueError: Unknown names, keys or values.
        """

    @abstractmethod
    def computing(self) -> AbstractContextManager[None]:
        """A context in which networks compute in the model's precision, for callers that use its parts directly."""

    @abstractmethod
    def least_cut_side(self, boxes: Regions, crop: str) -> float | None:
        """Longest side, in original pixels, of the smallest box that is cut out and described at the size of a photo;
        None if no box is.

        Args:
            boxes: The boxes of a query.
            crop: As for :meth:`query`.
        """

    @abstractmethod
    def _rows(
        self, photos: Sequence[Photo], given: Sequence[Regions] | None, max_regions: int | None
    ) -> list[Described]:
        """Rows of photos for an index.

        Args:
            photos: At least one photo.
            given: Regions of each photo to describe, including the whole image; None for the model's own regions.
            max_regions: Maximum number of boxes of its detector per photo, best first, in addition to the whole image;
                None for all.
        """

    def _expect_regions(self, given: bool, max_regions: int | None) -> None:
        """Raise ``ValueError`` if photos cannot be described with these arguments.

        Args:
            given: Whether boxes are given.
            max_regions: As for :meth:`_rows`.
        """
        del given, max_regions

    def _as_taken(self, photo: Photo) -> Photo:
        """Resize a test photo to a size that the model accepts."""
        return photo

    @abstractmethod
    def _regions_of(self, photo: Photo) -> Regions:
        """The regions that would be indexed, the whole image first; called only if there is a detector."""

    def _objects_of(self, photos: Sequence[Photo]) -> list[Regions]:
        """The regions that queries without boxes are searched for, the whole image first: those that would be indexed,
        without boxes that only cover the photo; called only if there is a detector."""
        return [self._regions_of(photo) for photo in photos]

    @abstractmethod
    def _query_whole(self, photos: Sequence[Photo]) -> list[Described]:
        """The single query row of each photo as a whole."""

    @abstractmethod
    def _query_boxes(self, photos: Sequence[Photo], boxes: Sequence[Regions], crop: str) -> list[Described]:
        """One query row per box of each photo, in order and in the frame of the photo."""

    @property
    def about(self) -> dict[str, object]:
        """Description of the model for an index (``Index.create(model=model.about)``), JSON-ready.

        It contains the absolute path of the model, with which ``objemb search`` opens it again.
        """
        path = None if self.path is None else str(self.path.absolute())
        facts = {"path": path, "settings": self.settings, "provenance": self.provenance}
        return {**facts, "precision": self.precision, "untrained": self.untrained}

    def query_side(self, crop: str) -> int | None:
        """As :attr:`decode_side`, for query photos whose boxes are described as set by ``crop``, see :meth:`query`."""
        return self.decode_side if self.least_cut_side(Regions.whole((1, 1)), crop) is None else None

    def describe(self, image: ImageLike, boxes: BoxesLike | None = None) -> Described:
        """Describe one image: its regions with their vectors or visual words, to be added to an index.

        Args:
            image: A path, bytes or an open binary file, a PIL image, an array ``(H, W, 3)`` or tensor ``(3, H, W)``,
                RGB (or grey, with alpha, or floats from 0 to 1), or a Photo; for details see
                :func:`objemb.images.inputs.as_photo`. Large JPEG files are decoded at a reduced size, but images in
                memory are used as they are, so that the cosine of their vectors to those of the file may be some
                thousandths below 1.
            boxes: Boxes ``(x1, y1, x2, y2)`` in original pixels to describe instead of the model's own regions.

        Returns:
            Without boxes: the rows for an index, region 0 is the whole image. With boxes: one row per box, in order.
            Vectors are float32 unit vectors ``(N, dim)``; models of local features may return
            :class:`~objemb.structures.VisualWords` instead (see :attr:`gives`).

        Raises:
            FileNotFoundError, UnreadableImageError: The file does not exist or is not a readable image.
            ValueError, TypeError: The image has an unsupported shape or type, or boxes are outside the image.
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
        """Describe a query: given boxes, the whole image, the boxes of the detector, or the latter two.

        Args:
            image: As for :meth:`describe`.
            boxes: Boxes to search for, ``(x1, y1, x2, y2)`` in original pixels, or one of these words. ``whole``: the
                whole image as one object. ``detector``: the boxes of the model's detector, or the whole image if it
                finds none. ``both``: the whole image, and the boxes of the detector whose IoU with it is at most 0.8.
                None, the default of ``objemb search``: ``both`` for a model with a detector and one row per region,
                ``whole`` for all others.
            crop: How a box is described. ``context``: like the rows that it is compared with: within its photo by
                methods with one row per region, cut out at the scale of its photo by methods with one row per image.
                ``crop``: cut out and resized like an image of its own. ``scaled``: cut out at the scale of its photo
                (the convention of retrieval benchmarks); for extractors that resize every region (``crop`` and
                ``pyramid``) this is the same as ``crop``, and ``one_pass`` describes the box within its photo instead.
                ``whole``: the vector is that of the whole image, and the box is only reported. For models of local
                features, ``context`` uses the features of the photo that lie in the box.
            max_pixels: Maximum number of pixels; a larger file is refused before it is decoded.

        Returns:
            One row per box, with boxes in original pixels of the image.

        Raises:
            FileNotFoundError, UnreadableImageError, ValueError, TypeError: As for :meth:`describe`.
        """
        return self.query_many([image], [boxes], crop=crop, max_pixels=max_pixels)[0]

    def query_many(
        self,
        images: Sequence[ImageLike],
        boxes: Sequence[BoxesLike | str | None] | None = None,
        *,
        crop: str = "context",
        max_pixels: int = MAX_PIXELS,
    ) -> list[Described]:
        """Describe several queries, eight photos at a time; those of equal shape share a forward pass.

        Args:
            images: Images as for :meth:`describe`.
            boxes: The boxes of each image, as for :meth:`query`; None for the default of every image.
            crop, max_pixels: As for :meth:`query`.

        Returns:
            One description per image, the same as that of :meth:`query`.

        Raises:
            FileNotFoundError, UnreadableImageError, ValueError, TypeError: As for :meth:`describe`.
        """
        given = [None] * len(images) if boxes is None else list(boxes)
        if len(given) != len(images):
            raise ValueError(f"boxes: expected an entry for each of {len(images)} images, found {len(given)}")
        self.check_queries(given, crop)
        described: list[Described] = []
        for start in range(0, len(images), QUERIES_AT_ONCE):
            some = slice(start, start + QUERIES_AT_ONCE)
            opened = [
                self.open_query(image, wanted, crop=crop, max_pixels=max_pixels)
                for image, wanted in zip(images[some], given[some], strict=True)
            ]
            described += self.query_opened(opened)
        return described

    def open_query(
        self,
        image: ImageLike,
        boxes: BoxesLike | str | None = None,
        *,
        crop: str = "context",
        max_pixels: int = MAX_PIXELS,
    ) -> OpenQuery:
        """The first half of :meth:`query`, for programs that decode and describe on different threads: the decoded
        photo and the checked boxes of a query. No network runs.

        Args:
            image, boxes, crop, max_pixels: As for :meth:`query`.

        Raises:
            FileNotFoundError, UnreadableImageError, ValueError, TypeError: As for :meth:`describe`.
        """
        self.check_queries([boxes], crop)
        default = BOTH if self.has_detector and self.per_region else WHOLE
        wanted = default if boxes is None else boxes
        image = as_encoded(image)  # read once, but possibly decoded twice
        photo = as_photo(image, self.decode_side, max_pixels=max_pixels)
        if crop == "whole" and isinstance(wanted, str):  # if every box is described by the whole image, one suffices
            wanted = WHOLE
        regions = wanted if isinstance(wanted, str) else as_regions(wanted, photo.size)
        return self._reopened(OpenQuery(image, photo, regions, crop, max_pixels))

    def query_opened(self, queries: Sequence[OpenQuery]) -> list[Described]:
        """The second half of :meth:`query_many`: describe opened queries; those of equal shape share a forward pass.

        Args:
            queries: Of any sizes; all are held in memory.

        Returns:
            One description per query.

        Raises:
            FileNotFoundError, UnreadableImageError, ValueError: As for :meth:`query`, for the boxes of a detector that
                need a higher resolution than it.
        """
        queries = self._detected(queries)
        rows: dict[int, Described] = {}
        whole = [number for number, query in enumerate(queries) if isinstance(query.boxes, str)]
        if whole:
            rows.update(zip(whole, self._query_whole([queries[n].photo for n in whole]), strict=True))
        for crop in dict.fromkeys(query.crop for query in queries):
            boxed = {
                number: query.boxes
                for number, query in enumerate(queries)
                if query.crop == crop and isinstance(query.boxes, Regions)
            }
            if boxed:
                described = self._query_boxes([queries[n].photo for n in boxed], list(boxed.values()), crop)
                rows.update(zip(boxed, described, strict=True))
        return [rows[number] for number in range(len(queries))]

    def shapes_of(self, query: OpenQuery) -> Hashable | None:
        """What decides the shapes of the arrays from which networks describe a query, and so how they round: queries
        for which it is equal may share forward passes in :meth:`query_opened`, and whether they are then described as
        each is alone, to the last bit, depends only on it and on their number. None for a query that shares no pass, or
        whose shapes are not known before."""
        del query
        return None

    def check_queries(self, boxes: Sequence[BoxesLike | str | None], crop: str) -> None:
        """Check what can be checked of queries before their photos are opened: ``crop``, and words for boxes.

        Raises:
            ValueError: One of them is none of the known words, or needs a detector that the model does not have.
        """
        checks.one_of("crop", crop, CROPS)
        words = {one for one in boxes if isinstance(one, str)}
        for word in sorted(words):
            checks.one_of("boxes", word, QUERY_BOXES)
        if words - {WHOLE} and crop != "whole":
            self._expect_detector()

    def _reopened(self, query: OpenQuery) -> OpenQuery:
        """A query whose photo has the resolution that its boxes need, which may be higher than that of the whole."""
        if isinstance(query.boxes, str) or query.crop == "whole" or query.photo.scale == (1.0, 1.0):
            return query
        part = self.least_cut_side(query.boxes, query.crop)
        if part is None:
            return query
        return replace(query, photo=as_photo(query.image, self.decode_side, part, query.max_pixels))

    def _detected(self, queries: Sequence[OpenQuery]) -> list[OpenQuery]:
        """Queries with boxes in place of the words ``detector`` and ``both``, or with the word ``whole``."""
        words = [query.boxes if isinstance(query.boxes, str) else WHOLE for query in queries]
        asked = [number for number, word in enumerate(words) if word != WHOLE]
        found = self._objects_of([queries[number].photo for number in asked]) if asked else []
        detected = list(queries)
        for number, regions in zip(asked, found, strict=True):
            query = queries[number]
            if len(regions) < 2:
                detected[number] = replace(query, boxes=WHOLE)
            else:
                boxes = photo_and_objects(regions) if words[number] == BOTH else regions[1:]
                detected[number] = self._reopened(replace(query, boxes=boxes))
        return detected

    def rows(self, photos: Sequence[Photo], given: Sequence[Regions] | None = None) -> list[Described]:
        """The rows of decoded photos for an index.

        Args:
            photos: At least one photo.
            given: Regions of each photo to describe, including the whole image; None for the model's own regions.

        Raises:
            ValueError: The model takes no given regions.
        """
        self._expect_regions(given is not None, None)
        return self._rows(photos, given, None)

    def detect(self, image: ImageLike) -> Regions:
        """The boxes that would be indexed, best first, without the whole image.

        Raises:
            ValueError: The model has no detector.
        """
        self._expect_detector()
        return self._regions_of(as_photo(image, self.decode_side))[1:]

    def _expect_detector(self) -> None:
        if not self.has_detector:
            raise ValueError("detect: expected a model with a detector, found one without")

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
            sources: Folders, list files, CSV or Parquet tables, COCO files, images; or ``ImageRef`` items; or images as
                for :meth:`describe`, including an array ``(B, H, W, 3)`` or tensor ``(B, 3, H, W)`` of several images.
                The ids of images in memory are their numbers, from ``0``.
            batch_size: Photos per batch; halved automatically if memory is short.
            workers: Number of threads or processes that decode photos.
            boxes: Source of boxes instead of the model's own regions, such as ``StoredBoxes``.
            max_regions: Maximum number of boxes per photo, best first, in addition to the whole image; None for all.
            max_pixels: Skip photos with more pixels, before they are decoded.
            on_skip: Called with each image that could not be read or described; by default a warning is logged.

        Yields:
            The rows of each photo, for an index.

        Raises:
            Exception: A network failed for a photo and also for a test photo, so that the photo is not the cause.
        """
        checks.whole("batch_size", batch_size)
        if max_regions is not None:
            checks.whole("max_regions", max_regions, 0)
        self._expect_regions(boxes is not None, max_regions)

        def given_of(photos: Sequence[Photo]) -> list[Regions] | None:
            return None if boxes is None else given_regions(boxes, photos, max_regions)

        def works(photo: Photo) -> None:
            # stored boxes count the photos that request them, and can fail for each
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
    """The whole image and all given boxes of each photo, without any selection by score.

    Args:
        boxes: Source of the boxes, such as ``StoredBoxes``.
        photos: The photos.
        most: Maximum number of boxes, best first, in addition to the whole image; None for all.
    """
    return [found[:most].with_whole() for found in boxes.detect(photos)]


def least_longest_side(boxes: Regions) -> float | None:
    """The smallest of the boxes' longest sides; None if there are no boxes."""
    return float((boxes.boxes[:, 2:] - boxes.boxes[:, :2]).max(axis=1).min()) if len(boxes) else None


def photo_and_objects(found: Regions) -> Regions:
    """The whole photo, which is region 0, and the other boxes that do not nearly cover it."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    areas = sides[:, 0] * sides[:, 1]  # each box is inside the photo, so its share of the area is the IoU
    less = areas <= SAME_AS_WHOLE * areas[0]
    less[0] = True
    return found[less]
