"""The inference of a Faster R-CNN as a function of tensors that an exporter can trace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torchvision.ops
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import MultiScaleRoIAlign

from objemb.detectors._resize_program import ResizeProgram
from objemb.detectors.capabilities import TRUNK, DetectionProgram, PaddedBoxes
from objemb.layers.first_kept import FirstKept
from objemb.ops.tensors import padded_rows, rows_where

#: RoI align reads a box of this side, in network pixels, from the level whose number is ``CANONICAL_LEVEL``; Lin et al.
#: 2017, equation 1, with torchvision's shift against rounding.
CANONICAL_SIDE, CANONICAL_LEVEL, CANONICAL_SHIFT = 224.0, 4, 1e-6
#: Sides of final boxes in network pixels below which torchvision takes them for empty.
MIN_SIDE = 1e-2


class RcnnProgram(DetectionProgram):
    """Region proposals and box heads of torchvision's ``GeneralizedRCNN``, tensor for tensor (see
    ``torchvision.models.detection.rpn.RegionProposalNetwork.filter_proposals`` and
    ``roi_heads.RoIHeads.postprocess_detections``), but for what no tracer can follow: numbers of boxes that decide what
    is computed.

    Args:
        network: ``transform``, ``rpn`` and ``roi_heads``.
        strides: Of the levels that boxes are pooled from, by name, the finest first.
        colour: ``(3,)``: of the padding, in the units of the network's input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: GeneralizedRCNN, strides: Mapping[str, int], colour: Tensor) -> None:
        super().__init__()
        self.rpn, self.heads = network.rpn, network.roi_heads
        self.proposed = FirstKept(self.rpn.nms_thresh, int(self.rpn.post_nms_top_n()))  # of each level
        self.kept = FirstKept(self.heads.nms_thresh, int(self.heads.detections_per_img))
        self.strides = dict(strides)
        transform = network.transform
        mean, std = torch.tensor(transform.image_mean), torch.tensor(transform.image_std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)
        sides = (transform.min_size[-1], transform.max_size)
        self.resize = ResizeProgram(*sides, transform.size_divisible, mean, std, colour)

    def prepared(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`DetectionProgram.prepared`."""
        prepared: tuple[Tensor, Tensor] = self.resize(photos)
        return prepared

    def normalised(self, pixels: Tensor) -> Tensor:
        """See :meth:`DetectionProgram.normalised`."""
        return (pixels - self.mean) / self.std

    def forward(
        self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, min_score: float
    ) -> PaddedBoxes:
        """See :meth:`DetectionProgram.forward`."""
        levels = _pyramid(features)
        proposals, valid = self.proposals(levels, padded, size)
        pooled = self._pooled([levels[name] for name in self.strides], proposals)
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        return self._final(logits, deltas, proposals, valid, size, min_score)

    def proposals(self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`DetectionProgram.proposals`."""
        objectness, deltas = self.rpn.head(list(_pyramid(features).values()))
        before, after = self.rpn.pre_nms_top_n(), self.proposed.most
        cells: Sequence[Tensor] = self.rpn.anchor_generator.cell_anchors
        values, moves, anchors = [], [], []
        for level_scores, level_deltas, cell in zip(objectness, deltas, cells, strict=True):
            rows, columns = level_scores.shape[2:]
            of_level = level_scores[0].permute(1, 2, 0).reshape(-1)
            # small levels are padded, so that all levels yield the same number
            chosen = torch.cat([of_level, of_level.new_full((before,), -math.inf)]).topk(before)
            known = chosen.indices.clamp(max=of_level.shape[0] - 1)
            values.append(chosen.values)
            # of (4 A, rows * columns) deltas, four of each chosen anchor
            first = (known % len(cell)) * (4 * rows * columns) + known // len(cell)
            places = first[:, None] + torch.arange(4, device=first.device) * (rows * columns)
            moves.append(level_deltas.flatten()[places])
            anchors.append(anchors_by_number(cell, known, columns, (padded[0] // rows, padded[1] // columns)))
        best = torch.cat(values)
        coder = self.rpn.box_coder
        moved = decoded(coder.weights, coder.bbox_xform_clip, torch.cat(moves), torch.cat(anchors))
        candidates = clipped(moved, size)
        sides = candidates[:, 2:] - candidates[:, :2]
        large = (sides >= self.rpn.min_size).all(dim=1) & (best > -math.inf)
        probability = torch.sigmoid(best)
        probability = torch.where(large & (probability >= self.rpn.score_thresh), probability, -1.0)
        boxes, scores = [], []
        for of_level, probable in zip(candidates.split(before), probability.split(before), strict=True):
            kept = self.proposed(of_level, probable)
            boxes.append(padded_rows(of_level[kept], before))
            scores.append(padded_rows(probable[kept], before, -1.0))
        of_all = torch.cat([*scores, scores[0].new_full((after,), -1.0)])
        proposals = of_all.topk(after)
        everything = torch.cat([*boxes, boxes[0].new_zeros(after, 4)])
        return everything[proposals.indices], proposals.values >= 0

    def _pooled(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Pool each box from the level for its size: ``(P, C, s, s)``."""
        pool = self.heads.box_roi_pool
        strides = list(self.strides.values())
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        number = (CANONICAL_LEVEL + (sides / CANONICAL_SIDE).log2() + CANONICAL_SHIFT).floor().clamp(
            first, last
        ) - first
        rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
        if len(levels) == 1:
            return _roi_align(levels[0], rois, pool, strides[0])
        rows = [rows_where(number == level) for level in range(len(levels))]
        pooled = [
            _roi_align(level, rois[of_level], pool, stride)
            for level, of_level, stride in zip(levels, rows, strides, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()]

    def _final(
        self, logits: Tensor, deltas: Tensor, proposals: Tensor, valid: Tensor, size: Tensor, min_score: float
    ) -> PaddedBoxes:
        """The best boxes after non-maximum suppression within each class."""
        classes = logits.shape[1]
        of_classes = deltas.reshape(-1, classes, 4)[:, 1:]
        coder = self.heads.box_coder
        moved = decoded(coder.weights, coder.bbox_xform_clip, of_classes, proposals[:, None])
        boxes = clipped(moved.reshape(-1, 4), size)
        scores = (logits.softmax(dim=1) * valid[:, None])[:, 1:].reshape(-1)
        labels = torch.arange(classes - 1, device=boxes.device).repeat(proposals.shape[0])
        large = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(dim=1)
        candidates = rows_where(large & (scores > self.heads.score_thresh) & (scores >= min_score))
        boxes, scores, labels = boxes[candidates], scores[candidates], labels[candidates]
        apart = labels.to(boxes.dtype)[:, None] * (size.max() + 1)
        kept, most = self.kept(boxes + apart, scores), self.kept.most
        count = torch.ones_like(kept).sum().clamp(max=most)
        boxes, scores, labels = (padded_rows(rows[kept], most) for rows in (boxes, scores, labels))
        return PaddedBoxes(boxes, scores, labels, count)


def _pyramid(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The levels that heads read, in float32."""
    return {name: level.float() for name, level in features.items() if not name.startswith(TRUNK)}


def anchors_by_number(cell: Tensor, numbers: Tensor, columns: int, stride: tuple[int, int]) -> Tensor:
    """Anchors ``(N, 4)`` of a level by number, counted row by row, from the anchors ``(A, 4)`` of a cell at 0."""
    cells = numbers // len(cell)
    row = cells // columns
    y, x = row * stride[0], (cells - row * columns) * stride[1]  # exporters lack the remainder of a traced length
    return torch.stack([x, y, x, y], dim=1) + cell[numbers % len(cell)]


def decoded(weights: Sequence[float], most: float, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Boxes ``(..., 4)`` moved and scaled by ``deltas``, as by torchvision's ``BoxCoder.decode_single``.

    Args:
        weights: Divisors of the deltas: x, y, width, height.
        most: Upper limit for the logarithm of a factor on a side.
        deltas: float32 ``(..., 4)``.
        boxes: float32 ``(..., 4)``.
    """
    by_x, by_y, by_width, by_height = weights
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = boxes[..., :2] + 0.5 * sides
    moved = deltas[..., :2] / deltas.new_tensor([by_x, by_y]) * sides + centres
    scales = deltas[..., 2:] / deltas.new_tensor([by_width, by_height])
    half = 0.5 * (scales.clamp(max=most).exp() * sides)
    return torch.cat([moved - half, moved + half], dim=-1)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes to an image of ``size`` ``(height, width)``, a float tensor."""
    return torch.minimum(boxes.clamp_min(0), size.flip(0).repeat(2))


def _roi_align(level: Tensor, rois: Tensor, pool: MultiScaleRoIAlign, stride: int) -> Tensor:
    pooled: Tensor = torchvision.ops.roi_align(level, rois, pool.output_size, 1 / stride, pool.sampling_ratio)
    return pooled
