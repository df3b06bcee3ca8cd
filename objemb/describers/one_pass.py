"""One pass: the network that finds the objects describes them as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.describers._windows import windows_around
from objemb.describers.base import Describer, checked_given
from objemb.detectors.base import Detector, NetworkDetector, NetworkInput
from objemb.heads.base import Head
from objemb.layers.precision import computed
from objemb.layers.whitening import Whitening
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import scale
from objemb.regions.detections import Detections
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions

#: A head that has learned one size knows objects up to half an octave smaller or larger.
OCTAVES = 0.5


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

    **Every size.** A head knows objects as large as those that it has learned, in cells of its level; of others, such
    as a picture that shows nothing but the product, it says little. With ``object_side`` a box that is more than
    ``sqrt(2)`` times larger or smaller than that is described from a *window*: the photo around it, resized so that its
    longer side is ``object_side`` pixels long, through the layers below the head's level alone. For a head on a low
    level of the trunk that is a small part of a detector's work. Training, index and query see a box alike, and a
    picture has nearly one vector whatever its number of pixels. A box in its photo and the same pixels cut out do not:
    around the one there is more to see.

    Args:
        detector: Finds objects and computes the feature pyramid; its weights are its own affair.
        head: Makes vectors of boxes from levels of the detector, to which it is connected here.
        min_score: Boxes below it are dropped; see :class:`~objemb.regions.detections.Detections` for this and the next.
        nms_iou: A box that overlaps a better one of *any* class by more than this is dropped; 1 keeps all.
        max_regions: At most so many boxes per photo, the whole image not counted.
        object_side: Longer side in pixels of the network's input at which the head sees objects; None to see each box
            as large as it is there. ``samples`` times the stride of the head's level gives it a cell for each sample.

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
        object_side: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(detector, NetworkDetector):
            raise TypeError(f"detector: expected a network such as torchvision_rcnn, found {type(detector).__name__}")
        self.regions = Detections(detector=detector, min_score=min_score, nms_iou=nms_iou, max_regions=max_regions)
        self.levels = head.connect(detector.levels(), detector.pyramid)
        self.head = head
        self.object_side = None if object_side is None else checks.positive("object_side", object_side)
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
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        batch: NetworkInput,
        features: Mapping[str, Tensor] | None = None,
        *,
        unit: bool = True,
    ) -> Tensor:
        """Vectors of boxes; with a gradient where one is wanted.

        Args:
            photos: The photos.
            regions: Per photo its boxes in original pixels; zero boxes are a normal case.
            batch: What the detector's ``preprocess`` gave of the photos.
            features: What its ``features`` gave of that batch; None where no one else needs them: then only the layers
                below the head run, and only if a box is described from them.
            unit: Whether to whiten, where there is a whitening, and bring to unit length; else the vectors are those
                of the head as they are, for a loss on their differences.

        Returns:
            float32 ``(sum of N, D)`` on the device of the network: the boxes of the first photo, then of the second ...
        """
        boxes = [_in_network(*one) for one in zip(regions, batch.image_sizes, strict=True)]
        numbers: list[Tensor] = []

        def blocks() -> Iterator[Tensor]:
            for of_block, samples in self._sampled(photos, regions, boxes, batch, features):
                numbers.append(of_block)
                yield samples

        vectors = self.head.vectors(blocks(), unit=unit)
        vectors = vectors[torch.cat(numbers).argsort().to(vectors.device)]
        return vectors if self.whitening is None or not unit else self.whitening(vectors)

    def _sampled(
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        boxes: Sequence[Tensor],
        batch: NetworkInput,
        features: Mapping[str, Tensor] | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of boxes, and what the head takes of them: of those that it sees in their photo, then of windows."""
        device, apart = batch.tensors.device, self._apart(boxes)
        if features is None and (len(apart) == 0 or not apart.all()):
            features = computed(device, self.detector.maps, batch, self.levels)
        if features is not None:
            shared = [b[~a] for b, a in zip(boxes, apart.split([len(b) for b in boxes]), strict=True)]
            numbers = (~apart).nonzero()[:, 0]
            for samples in self.head.sampled([features[name] for name in self.levels], shared):
                yield numbers[: len(samples)], samples
                numbers = numbers[len(samples) :]
        if self.object_side is None or not apart.any():
            return
        mean, multiple = self.detector.mean, self._multiple
        for windows in windows_around(photos, regions, apart.tolist(), self.object_side, mean, multiple):
            seen = self.detector.normalised(windows.pixels.to(device))
            maps = computed(device, self.detector.maps, seen, self.levels)
            for samples in self.head.sampled([maps[name] for name in self.levels], list(windows.boxes[:, None])):
                yield torch.tensor(windows.numbers), samples

    @property
    def _multiple(self) -> int:
        """Of what sides of windows are multiples: the levels of a pyramid are built upon one another."""
        coarsest = max(stride for _, stride in self.detector.levels().values())
        return max(16, coarsest if set(self.levels) & set(self.detector.pyramid) else max(self.head.strides))

    def _apart(self, boxes: Sequence[Tensor]) -> Tensor:
        """bool ``(sum of N,)``: the boxes, in pixels of the network's input, that get a window each."""
        sides = torch.cat([torch.zeros(0), *((b[:, 2:] - b[:, :2]).amax(dim=1) for b in boxes)])
        if self.object_side is None:
            return torch.zeros_like(sides, dtype=torch.bool)
        return (sides / self.object_side).log2().abs() > OCTAVES

    def _batches(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> Iterator[list[int]]:
        """Numbers of photos that share a forward pass: all of them with given boxes, or all without."""
        for numbers in self.detector.groups(photos):
            looking = [i for i in numbers if given[i] is None]
            told = [i for i in numbers if given[i] is not None]
            yield from filter(None, (looking, told))

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions]) -> list[RegionDescriptors]:
        """One forward pass of the backbone; ``given`` is of all photos or of none."""
        batch, features = self.detector.preprocess(photos), None
        found = list(given)
        if not given:
            features = computed(batch.tensors.device, self.detector.features, batch)
            found = [self.regions.select(d) for d in self.detector.regions(batch, features, photos)]
        vectors = self.embed(photos, found, batch, features)
        rows = vectors.cpu().split([len(f) for f in found])
        return [
            RegionDescriptors(photo.id, where, of_photo, photo.metadata)
            for photo, where, of_photo in zip(photos, found, rows, strict=True)
        ]


def _in_network(regions: Regions, seen: tuple[int, int]) -> Tensor:
    """Boxes in pixels of the network's input, in which the image is ``seen`` ``(height, width)`` large."""
    return scale(as_tensor(regions.boxes), (seen[0] / regions.size[0], seen[1] / regions.size[1]))
