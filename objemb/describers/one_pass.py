"""One pass: the detector's own network also describes the objects."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from objemb import checks
from objemb.describers._one_pass_program import OnePassProgram
from objemb.describers._windows import windows_around
from objemb.describers.base import RowOfRegions
from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectorPass, NetworkDetector, NetworkInput
from objemb.heads.base import Head
from objemb.layers.precision import computed
from objemb.ops.boxes import scale
from objemb.ops.tensors import as_tensor, l2
from objemb.ops.windows import OCTAVES, Windows, input_windows, of_other_size, window_shapes
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.regions.union import Union
from objemb.registry import plugin
from objemb.structures import Photo, Regions

#: What windows are cut from.
WINDOWS_FROM = ("photo", "input")


@plugin
class OnePass(BoxEmbedder):
    """A detector with an embedding head: boxes and their vectors from one forward pass of its backbone.

    ::

        photo ── backbone ── feature pyramid ──┬── detector's heads ── boxes in original pixels ── selection
                                               │                                                      │
                                               └──────────────── embedding head ──── final boxes ─────┘

    The head pools the features of the final boxes, one of which is the whole image. For given boxes the detector's
    heads are not run. This is the student of a distillation, whose teacher needs several passes, such as
    :class:`~objemb.describers.pooled_regions.PooledRegions` with crops (Chen, Davis and Lim, "An analysis of object
    embeddings for image retrieval", 2019). The vectors of an untrained head are not useful.

    **Object size.** A head works only for objects of about the sizes on which it was trained, in cells of its level,
    and not, for instance, for a picture that a product fills. With ``object_side``, a box that is more than ``sqrt(2)``
    times larger or smaller is described from a *window*: the photo around it, resized so that the longer side of the
    box is ``object_side`` pixels, run through the layers up to the head's level only. For a head on a low level of the
    trunk this is a small part of the detector's cost. Training, index and query treat a box in the same way, and the
    vector of a picture hardly depends on its resolution. The vector of a box in its photo differs from that of the same
    pixels cut out, because it includes context.

    Args:
        detector: Detects objects and computes the feature pyramid; it is configured with its own weights.
        head: Computes vectors of boxes from levels of the detector; the constructor connects it to them.
        min_score: Boxes with a lower score are dropped, see :class:`~objemb.regions.detections.Detections`.
        nms_iou: A box whose IoU with a better one of *any* class exceeds this is dropped; 1 keeps all.
        max_regions: Maximum number of boxes per photo, in addition to the whole image.
        beside: Further sources of regions, such as ``patchify``, for photos in which few boxes are detected, see
            :class:`~objemb.regions.union.Union`. Their boxes are described like all others.
        fill_to: They are used only in photos with fewer boxes than this; None to use them in all photos.
        object_side: Longer side, in pixels of the network's input, at which the head describes objects; None to
            describe each box at its own size. ``samples`` times the stride of the head's level gives one cell per
            sample.
        windows_from: What windows are cut from: the ``photo`` as it was decoded, which is finer where it has more
            pixels, or the network's ``input``, as Detectron2 does, which has no more.

    Attributes:
        regions: The selection of boxes, which contains the detector.
        head: The embedding head.
        levels: Names of the detector's levels that the head uses.

    Raises:
        TypeError: The detector has no feature pyramid, such as stored boxes.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        head: Head,
        min_score: float = 0.5,
        nms_iou: float = 0.5,
        max_regions: int = 20,
        object_side: float | None = None,
        windows_from: str = "photo",
        beside: Sequence[RegionSource] | None = None,
        fill_to: int | None = None,
    ) -> None:
        if not isinstance(detector, NetworkDetector):
            raise TypeError(f"detector: expected a network such as torchvision_rcnn, found {type(detector).__name__}")
        regions: RegionSource = Detections(
            detector=detector, min_score=min_score, nms_iou=nms_iou, max_regions=max_regions
        )
        if beside:
            regions = Union(of=[regions, *beside], max_regions=max_regions, fill_to=fill_to)
        elif fill_to is not None:
            raise ValueError(
                f"fill_to: expected sources that fill up photos in beside, found none and fill_to {fill_to}"
            )
        super().__init__(regions=regions)
        self.levels = head.connect(detector.levels(), detector.pyramid)
        self.head = head
        self.object_side = None if object_side is None else checks.positive("object_side", object_side)
        self.windows_from = checks.one_of("windows_from", windows_from, WINDOWS_FROM)

    @property
    def detector(self) -> NetworkDetector:
        """The detector."""
        return cast(NetworkDetector, self.regions.detector)  # checked by the constructor

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return self.head.dim

    def decode_side(self) -> int | None:
        """See :meth:`Describer.decode_side`."""
        return self.detector.decode_side()

    def program(self, max_detections: int, row: RowOfRegions | None = None) -> OnePassProgram:
        """See :meth:`Describer.program`."""
        windows = self.object_side, self.windows_from == "input", self._multiple, OCTAVES
        return OnePassProgram(self, tuple(self.levels), max_detections, row, *windows)

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`."""
        described: dict[int, tuple[Regions, Tensor]] = {}
        for numbers in self._batches(photos, given):
            of_batch = self._of_batch([photos[i] for i in numbers], [given[i] for i in numbers])
            described.update(zip(numbers, of_batch, strict=True))
        in_order = [described[i] for i in range(len(photos))]
        return [regions for regions, _ in in_order], torch.cat([vectors for _, vectors in in_order])

    def embed_boxes(
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        batch: NetworkInput,
        features: Mapping[str, Tensor] | None = None,
        *,
        unit: bool = True,
        projected: bool = True,
    ) -> Tensor:
        """See :meth:`BoxEmbedder.embed_boxes`."""
        boxes = [_in_network(*one) for one in zip(regions, batch.image_sizes, strict=True)]
        numbers: list[Tensor] = []

        def blocks() -> Iterator[Tensor]:
            for of_block, samples in self._sampled(photos, regions, boxes, batch, features):
                numbers.append(of_block)
                yield samples

        pooled = self.head.vectors(blocks(), unit=False, projected=False)
        vectors = pooled[torch.cat(numbers).argsort().to(pooled.device)]
        if projected and self.head.project is not None:
            # the boxes of one photo at a time: a product of more rows rounds in another way
            of_photos = vectors.split([len(of_photo) for of_photo in regions])
            vectors = torch.cat([self.head.project(of_photo) for of_photo in of_photos]).float()
        return l2(vectors) if unit else vectors

    def pass_shapes(self, photo: Photo, regions: Regions) -> Hashable:
        """See :meth:`Describer.pass_shapes`: windows, and the photo if a box is described in it."""
        decoded = photo.pixels.shape[1], photo.pixels.shape[2]
        seen = self.detector.network_size(decoded)
        boxes = _in_network(regions, seen)
        apart = self._apart([boxes]).tolist()
        in_photo = None if all(apart) else (decoded, len(apart) - sum(apart))
        if self.object_side is None:
            return in_photo
        if self.windows_from == "photo":
            seen, boxes = decoded, scale(as_tensor(regions.boxes), photo.scale)
        return in_photo, tuple(window_shapes(seen, boxes, apart, self.object_side, self._multiple))

    def _sampled(
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        boxes: Sequence[Tensor],
        batch: NetworkInput,
        features: Mapping[str, Tensor] | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of boxes and their features for the head: first boxes described in their photo, then windows."""
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
        for windows, of_windows in self._windows(photos, regions, boxes, batch, apart.tolist(), self.object_side):
            maps = computed(device, self.detector.maps, of_windows, self.levels)
            for samples in self.head.sampled([maps[name] for name in self.levels], list(windows.boxes[:, None])):
                yield torch.tensor(windows.numbers), samples

    def _windows(
        self,
        photos: Sequence[Photo],
        regions: Sequence[Regions],
        boxes: Sequence[Tensor],
        batch: NetworkInput,
        chosen: Sequence[bool],
        side: float,
    ) -> Iterator[tuple[Windows, NetworkInput]]:
        """Windows of the chosen boxes, and the same as input of the network."""
        if self.windows_from == "input":
            for windows in input_windows(batch.tensors, batch.image_sizes, boxes, chosen, side, self._multiple):
                size = (windows.pixels.shape[2], windows.pixels.shape[3])
                yield windows, NetworkInput(windows.pixels, [size] * len(windows.pixels))
            return
        for windows in windows_around(photos, regions, chosen, side, self.detector.mean, self._multiple):
            yield windows, self.detector.normalised(windows.pixels.to(batch.tensors.device))

    @property
    def _multiple(self) -> int:
        """Sides of windows are multiples of this, as the levels of a feature pyramid require."""
        coarsest = max(stride for _, stride in self.detector.levels().values())
        return max(16, coarsest if set(self.levels) & set(self.detector.pyramid) else max(self.head.strides))

    def _apart(self, boxes: Sequence[Tensor]) -> Tensor:
        """bool ``(sum of N,)``: whether each box, in pixels of the network's input, is described from a window."""
        every = torch.cat([torch.zeros(0, 4), *boxes])
        if self.object_side is None:
            return torch.zeros(len(every), dtype=torch.bool)
        return of_other_size(every, self.object_side)

    def _batches(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> Iterator[list[int]]:
        """Indices of the photos of each forward pass: either all with given boxes or all without."""
        for numbers in self.detector.groups(photos):
            without = [i for i in numbers if given[i] is None]
            with_boxes = [i for i in numbers if given[i] is not None]
            yield from filter(None, (without, with_boxes))

    def _of_batch(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> Iterator[tuple[Regions, Tensor]]:
        """Regions and vectors of each photo, from one forward pass; boxes are given for all photos or for none."""
        batch, features = self.detector.preprocess(photos), None
        regions = [g for g in given if g is not None]
        if not regions:
            features = computed(batch.tensors.device, self.detector.features, batch)
            regions = self.regions.find_in(DetectorPass(batch, features), photos)
        vectors = self.embed_boxes(photos, regions, batch, features)
        return zip(regions, vectors.split([len(r) for r in regions]), strict=True)


def _in_network(regions: Regions, size: tuple[int, int]) -> Tensor:
    """Boxes in pixels of the network's input, in which the image has the ``size`` ``(height, width)``."""
    return scale(as_tensor(regions.boxes), (size[0] / regions.size[0], size[1] / regions.size[1]))
