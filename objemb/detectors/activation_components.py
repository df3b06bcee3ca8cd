"""Objects of no known class: boxes around what activates a classification network more than its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors._outputs import photo_regions
from objemb.detectors.base import Detector
from objemb.layers.frozen import Frozen
from objemb.layers.precision import computed
from objemb.ops.batches import group_equal
from objemb.ops.boxes import nms
from objemb.ops.components import component_boxes
from objemb.ops.images import as_batch, resize
from objemb.ops.tensors import as_tensor
from objemb.registry import plugin
from objemb.structures import Photo, Regions

#: Thresholds on the activation of a cell, in means of the map.
LEVELS = (0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0)
#: Added to the share of cells in which a channel is active, so that its weight is finite.
MIN_SHARE = 1e-3


@plugin
class ActivationComponents(Frozen, Detector):
    """Boxes of connected components of activation maps: class-agnostic, and without training on any boxes.

    ::

        photo ── backbone ── maps of strides 8, 16 ... ── sum of weighted channels ── thresholds ── components ── boxes

    The channels of a map are summed up with the logarithm of the inverse share of cells in which they are active as
    weight (as in Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated deep convolutional
    features", 2016, without its normalisation over channels, which makes weights too even). The boxes are those of
    the 8-connected components above a threshold, as in SCDA (Wei et al., "Selective convolutional descriptor
    aggregation", 2017), here above several thresholds and on several strides, since the size and the strength of an
    object are not known. The score of a box with the mean ``i`` inside, the mean ``o`` of the frame of one cell
    around it, and the share ``s`` of the photo is ``(i - o) / i * sqrt(s)``, above 0 and at most 1; boxes that are not
    more active than their frame are left out.

    Scores are small: select by their order (``min_score: 0`` in the source of regions) and by the maximum number of
    boxes per photo.

    Args:
        backbone: A network with maps of several strides.
        size: The longer side of the network's input, in pixels.
        finest: The smallest stride that is used.
        nms_iou: A box whose IoU with a better one exceeds this is dropped: most components are found above several
            thresholds.
        max_detections: Maximum number of boxes per photo.

    Raises:
        TypeError: The backbone has only one map.
        ImportError: SciPy is not installed.
    """

    backbone: Backbone

    def __init__(
        self,
        *,
        backbone: Backbone,
        size: int = 513,
        finest: int = 8,
        nms_iou: float = 0.7,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if not backbone.stages:
            raise TypeError(
                "backbone: expected one with maps of several strides, such as torchvision_cnn, found "
                f"{backbone.registry_name}"
            )
        self.backbone = backbone
        self.size = checks.whole("size", size, backbone.smallest)
        self.finest = checks.between("finest", finest, min(backbone.stages), max(backbone.stages))
        self.nms_iou = checks.between("nms_iou", nms_iou, 0, 1)
        self._offsets = {stride: offset for stride, offset in backbone.offsets().items() if stride >= self.finest}
        self.max_detections = checks.whole("max_detections", max_detections)

    @torch.no_grad()
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`Detector.detect`; the boxes have no labels other than 0."""
        shapes = [self._shape(photo) for photo in photos]
        regions: dict[int, Regions] = {}
        for rows in group_equal(shapes):
            images = [resize(as_tensor(photos[i].pixels), shapes[i]) for i in rows]
            sums = self._sums(as_batch(images, self.backbone.device))
            for number, i in enumerate(rows):
                regions[i] = self._regions({s: of_all[number] for s, of_all in sums.items()}, shapes[i], photos[i])
        return [regions[i] for i in range(len(photos))]

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`."""
        return self.size

    def _shape(self, photo: Photo) -> tuple[int, int]:
        """``(height, width)`` of the network's input: as the photo, with sides that the network takes."""
        height, width = photo.pixels.shape[1:]
        factor = self.size / max(height, width)
        multiple, least = self.backbone.multiple, self.backbone.smallest
        y, x = (max(least, round(side * factor)) for side in (height, width))
        return -(-y // multiple) * multiple, -(-x // multiple) * multiple

    def _sums(self, pixels: Tensor) -> dict[int, Tensor]:
        """The weighted sums over the channels of the maps of a batch, float32 ``(B, h, w)`` on the CPU, by stride."""

        def maps() -> dict[str, Tensor]:
            return {str(stride): map_ for stride, map_ in self.backbone.maps(pixels).items()}

        by_stride = computed(pixels.device, maps)
        return {stride: _activation(by_stride[str(stride)]).cpu() for stride in self._offsets}

    def _regions(self, sums: dict[int, Tensor], shape: tuple[int, int], photo: Photo) -> Regions:
        boxes, scores = [torch.zeros(0, 4)], [torch.zeros(0)]
        for stride, total in sums.items():
            cells = component_boxes(total > total.mean() * total.new_tensor(LEVELS)[:, None, None])
            contrast = _contrast(total.double(), cells)
            area = (cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1]) / total.numel()
            boxes.append(cells[contrast > 0].float() * stride + self._offsets[stride])
            scores.append((contrast * area.double().sqrt())[contrast > 0].float())
        together, of_boxes = torch.cat(scores), torch.cat(boxes)
        best = nms(of_boxes, together, self.nms_iou)[: self.max_detections]
        return photo_regions(of_boxes[best], shape, photo, scores=together[best], labels=torch.zeros_like(best))


def _activation(maps: Tensor) -> Tensor:
    """The sum over the channels of ``(B, C, h, w)``, each times ``log(1 / share of cells in which it is active)``:
    float32 ``(B, h, w)``, not negative."""
    positive = maps.float().clamp_min(0)
    active = (positive > 0).float().mean(dim=(2, 3))
    weights = -(active + MIN_SHARE).log().clamp_max(0)
    return (positive * weights[:, :, None, None]).sum(dim=1)


def _contrast(total: Tensor, cells: Tensor) -> Tensor:
    """``(i - o) / i`` of boxes, float64 ``(N,)``; 0 for a box without a frame, which is the whole map.

    Args:
        total: float64 ``(h, w)``, not negative.
        cells: int64 ``(N, 4)``, xyxy in cells, ``x2`` and ``y2`` exclusive.
    """
    height, width = total.shape
    integral = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    integral[1:, 1:] = total.cumsum(dim=0).cumsum(dim=1)

    def sums(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        inside = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
        return inside, ((x2 - x1) * (y2 - y1)).double()

    x1, y1, x2, y2 = cells.unbind(dim=1)
    inner, count = sums(x1, y1, x2, y2)
    left, top = (x1 - 1).clamp_min(0), (y1 - 1).clamp_min(0)
    outer, larger = sums(left, top, (x2 + 1).clamp_max(width), (y2 + 1).clamp_max(height))
    frame = larger - count
    mean = inner / count
    contrast = 1 - (outer - inner) / frame.clamp_min(1) / mean
    return torch.where((frame > 0) & (mean > 0), contrast, 0.0)
