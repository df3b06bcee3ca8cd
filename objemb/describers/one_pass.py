"""One pass: the network that finds the objects describes them as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from objemb.describers.base import Describer, checked_given
from objemb.detectors.base import Detector, NetworkDetector, NetworkInput
from objemb.heads.base import Head
from objemb.ops.boxes import scale
from objemb.ops.precision import computed
from objemb.ops.whitening import Whitening
from objemb.regions.detections import Detections
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions


@plugin
class OnePass(Describer):
    """A detector with an embedding head: boxes and their vectors from one forward pass of its backbone.

    ::

        photo ── backbone ── feature pyramid ──┬── detector's heads ── boxes in original pixels ── selection
                                               │                                                      │
                                               └──────────────── embedding head ──── final boxes ─────┘

    The head pools on the boxes that are returned, the whole image being one of them. Given boxes need no detector's
    heads at all. This is the student of a guided training, whose teacher needs several passes, such as
    :class:`~objemb.describers.pooled_regions.PooledRegions` with crops (Chen, Davis and Lim, "An analysis of object
    embeddings for image retrieval", 2019). Until it has been trained, its head gives vectors that mean little.

    Args:
        detector: Finds objects and computes the feature pyramid; its weights are its own affair.
        head: Makes vectors of boxes from levels of the detector, to which it is connected here.
        min_score: Boxes below it are dropped; see :class:`~objemb.regions.detections.Detections` for this and the next.
        nms_iou: A box that overlaps a better one of *any* class by more than this is dropped; 1 keeps all.
        max_regions: At most so many boxes per photo, the whole image not counted.

    Attributes:
        regions: The selection, and within it the detector.
        head: The embedding head.
        levels: Names of the detector's levels that it reads.
        whitening: Applied to the vectors of the head; None for none.

    Raises:
        TypeError: A detector without a feature pyramid, such as stored boxes.
    """

    whitening: Whitening | None

    def __init__(
        self,
        *,
        detector: Detector,
        head: Head,
        min_score: float = 0.5,
        nms_iou: float = 0.5,
        max_regions: int = 20,
    ) -> None:
        super().__init__()
        if not isinstance(detector, NetworkDetector):
            raise TypeError(f"detector: expected a network such as torchvision_rcnn, found {type(detector).__name__}")
        self.regions = Detections(detector=detector, min_score=min_score, nms_iou=nms_iou, max_regions=max_regions)
        self.levels = head.connect(detector.levels(), detector.pyramid)
        self.head = head
        self.whitening = None
        self.eval()

    @property
    def detector(self) -> NetworkDetector:
        """The detector."""
        return self.regions.detector  # type: ignore[return-value]

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.head.dim if self.whitening is None else self.whitening.dim

    def decode_side(self) -> int | None:
        """See :meth:`Describer.decode_side`."""
        return self.detector.decode_side()

    @torch.no_grad()
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`Describer.describe`."""
        given = checked_given(photos, regions)
        described: dict[int, RegionDescriptors] = {}
        for numbers in self._batches(photos, given):
            of_batch = self._describe([photos[i] for i in numbers], [g for i in numbers if (g := given[i]) is not None])
            described.update(zip(numbers, of_batch, strict=True))
        return [described[i] for i in range(len(photos))]

    def embed(
        self, batch: NetworkInput, features: Mapping[str, Tensor], regions: Sequence[Regions], *, unit: bool = True
    ) -> Tensor:
        """Vectors of boxes from maps that the detector has computed already; with a gradient where one is wanted.

        Args:
            batch: What the detector's ``preprocess`` gave.
            features: What its ``features`` gave of that batch.
            regions: Per photo of the batch its boxes in original pixels; zero boxes are a normal case.
            unit: Whether to whiten, where there is a whitening, and bring to unit length; else the vectors are those
                of the head as they are, for a loss on their differences.

        Returns:
            float32 ``(sum of N, D)`` on the device of the maps: the boxes of the first photo, then of the second ...
        """
        boxes = [_in_network(*one) for one in zip(regions, batch.image_sizes, strict=True)]
        vectors = self.head([features[name] for name in self.levels], boxes, unit=unit)
        return vectors if self.whitening is None or not unit else self.whitening(vectors)

    def _batches(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> Iterator[list[int]]:
        """Numbers of photos that share a forward pass: all of them with given boxes, or all without."""
        for numbers in self.detector.groups(photos):
            looking = [i for i in numbers if given[i] is None]
            told = [i for i in numbers if given[i] is not None]
            yield from filter(None, (looking, told))

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions]) -> list[RegionDescriptors]:
        """One forward pass of the backbone; ``given`` is of all photos or of none."""
        batch = self.detector.preprocess(photos)
        features = computed(batch.tensors.device, self.detector.features, batch)
        found = [g.to("cpu") for g in given] or [
            self.regions.select(detected) for detected in self.detector.regions(batch, features, photos)
        ]
        vectors = self.embed(batch, features, found)
        rows = vectors.cpu().split([len(f) for f in found])
        return [
            RegionDescriptors(photo.id, where, of_photo, photo.metadata)
            for photo, where, of_photo in zip(photos, found, rows, strict=True)
        ]


def _in_network(regions: Regions, seen: tuple[int, int]) -> Tensor:
    """Boxes in pixels of the network's input, in which the image is ``seen`` ``(height, width)`` large."""
    return scale(regions.boxes, (seen[0] / regions.size[0], seen[1] / regions.size[1]))
