"""The inference of Detectron2's R-CNNs as a function of tensors that an exporter can trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from objemb.detectors._rcnn_program import anchors_by_number, clipped, decoded
from objemb.detectors.capabilities import DetectionProgram, PaddedBoxes
from objemb.layers.first_kept import FirstKept
from objemb.ops.byte_resize import PILLOW, resized_parts
from objemb.ops.grid import lengths
from objemb.ops.tensors import padded_rows, rows_where

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN, ROIHeads
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

#: Scores of what is no proposal: below all logits, and finite.
NONE = -1e30
#: What Detectron2 adds to the side of a box, as a share of the canonical one, before it takes its logarithm.
SHIFT = 1e-8

Length = TypeVar("Length", int, Tensor)


@dataclass(frozen=True, eq=False)
class _Stage:
    """The box head of one stage: features of pooled boxes, and the layers that give logits and deltas of these."""

    head: Callable[[Tensor], Tensor]
    predictor: FastRCNNOutputLayers


class Detectron2Program(DetectionProgram):
    """Region proposals and box heads of Detectron2's ``GeneralizedRCNN``, tensor for tensor (see
    ``detectron2.modeling.proposal_generator.proposal_utils.find_top_rpn_proposals``, ``poolers.ROIPooler``,
    ``roi_heads.cascade_rcnn.CascadeROIHeads`` and ``roi_heads.fast_rcnn.fast_rcnn_inference_single_image``), but for
    what no tracer can follow: numbers of boxes that decide what is computed.

    Args:
        network: The network.
        sides: Of its input in pixels: the shorter one, and the greatest of the longer one.
        bgr: Whether the channels of its input are blue, green and red.

    Raises:
        TypeError: Other heads than ``StandardROIHeads``, ``CascadeROIHeads`` and ``Res5ROIHeads``, or rotated boxes.
        ValueError: The input is padded to a square that it may exceed.
    """

    def __init__(self, network: GeneralizedRCNN, sides: tuple[int, int], bgr: bool) -> None:
        super().__init__()
        from detectron2.modeling.proposal_generator.rpn import RPN
        from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads

        heads = network.roi_heads
        known = isinstance(heads, (StandardROIHeads, Res5ROIHeads))  # a cascade is a kind of the first
        if not known or type(network.proposal_generator) is not RPN:
            raise TypeError(
                "detector: expected StandardROIHeads, CascadeROIHeads or Res5ROIHeads behind an RPN in a Detectron2 "
                f"network that is exported, found {type(heads).__name__} behind "
                f"{type(network.proposal_generator).__name__}"
            )
        self.square = int(network.backbone.padding_constraints.get("square_size", 0))
        if 0 < self.square < sides[1]:
            raise ValueError(
                f"detector: expected max_size of at most {self.square}, the square that the input of this Detectron2 "
                f"network is padded to, found {sides[1]}"
            )
        self.network, self.rpn = network, network.proposal_generator
        self.levels, self.pooler, self.stages = _box_stages(heads)
        predictor = self.stages[-1].predictor
        self.proposed = FirstKept(self.rpn.nms_thresh, int(self.rpn.post_nms_topk[False]))  # of each level
        self.kept = FirstKept(predictor.test_nms_thresh, int(predictor.test_topk_per_image))
        self.sides, self.bgr = sides, bgr
        self.multiple = max(1, network.backbone.size_divisibility)

    def prepared(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`DetectionProgram.prepared`."""
        sides = photos.shape[1], photos.shape[2]
        size, padded = self._sizes(sides, photos)
        extent, inner = lengths(sides, photos)[None].double(), size[None].double()
        none = torch.zeros_like(extent)
        pixels = torch.cat([resized_parts(p, none, extent, inner, none, padded, PILLOW) for p in photos.unbind()])
        rows, columns = (torch.arange(n, device=photos.device) for n in padded)
        inside = (rows < inner[0, 0])[:, None] & (columns < inner[0, 1])
        return torch.where(inside, self.normalised(pixels / 255), 0.0), inner[0].float()

    def _sizes(self, sides: tuple[int, int], like: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """int64 ``(2,)``, height and width at which a photo enters the network, and those of the network's input.

        Where the sides of the photo are not known, those of the input are read from the tensor: as expressions of
        symbols, a tracer would not see which lengths are equal.
        """
        shorter, longer = self.sides
        if not any(isinstance(side, torch.SymInt) for side in sides):
            by_side = ((_rounded(s, shorter, min(sides)), _rounded(s, longer, max(sides))) for s in sides)
            height, width = (max(1, min(two)) for two in by_side)
            size = lengths((height, width), like)
            cells = tuple(-(-side // self.multiple) for side in (height, width))
        else:
            both = lengths(sides, like)
            of_short, of_long = _rounded(both, shorter, both.amin(dim=0)), _rounded(both, longer, both.amax(dim=0))
            size = torch.minimum(of_short, of_long).clamp(min=1)
            cells = tuple(number.item() for number in (size + (self.multiple - 1)) // self.multiple)
            for number in cells:
                torch._check(number >= 1)
                torch._check(number <= longer // self.multiple + 1)
        if self.square > 0:
            cells = (-(-self.square // self.multiple),) * 2
        return size, cast(tuple[int, int], tuple(self.multiple * number for number in cells))

    def normalised(self, pixels: Tensor) -> Tensor:
        """See :meth:`DetectionProgram.normalised`."""
        channels = 255 * (pixels.flip(1) if self.bgr else pixels)
        scaled: Tensor = (channels - self.network.pixel_mean) / self.network.pixel_std
        return scaled

    def forward(
        self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, min_score: float
    ) -> PaddedBoxes:
        """See :meth:`DetectionProgram.forward`."""
        proposals, valid = self.proposals(features, padded, size)
        levels = [features[name] for name in self.levels]
        boxes, found = proposals[:, None], []
        for stage in self.stages:  # all but the last one move boxes whatever their class
            before = boxes[:, 0]
            logits, deltas = stage.predictor(stage.head(self._pooled(levels, before)))
            found.append(logits.sigmoid() if stage.predictor.use_sigmoid_ce else logits.softmax(dim=1))
            transform = stage.predictor.box2box_transform
            of_classes = deltas.reshape(len(proposals), -1, 4)
            moved = decoded(transform.weights, transform.scale_clamp, of_classes, before[:, None])
            boxes = clipped(moved, size)
        probabilities, predictor = torch.stack(found).mean(dim=0), self.stages[-1].predictor
        classes = probabilities.shape[1] - 1
        boxes = boxes.expand(-1, classes, -1).reshape(-1, 4)
        scores = (probabilities * valid[:, None])[:, :-1].reshape(-1)
        labels = torch.arange(classes, device=boxes.device).repeat(len(proposals))
        candidates = rows_where((scores > predictor.test_score_thresh) & (scores >= min_score))
        boxes, scores, labels = boxes[candidates], scores[candidates], labels[candidates]
        apart = labels.to(boxes.dtype)[:, None] * (size.amax(dim=0) + 1)
        kept, most = self.kept(boxes + apart, scores), self.kept.most
        count = torch.ones_like(kept).sum().clamp(max=most)
        boxes, scores, labels = (padded_rows(rows[kept], most) for rows in (boxes, scores, labels))
        return PaddedBoxes(boxes, scores, labels, count)

    def proposals(self, features: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`DetectionProgram.proposals`."""
        objectness, deltas = self.rpn.rpn_head([features[name] for name in self.rpn.in_features])
        before, after = int(self.rpn.pre_nms_topk[False]), self.proposed.most
        generator, transform = self.rpn.anchor_generator, self.rpn.box2box_transform
        boxes, scores = [], []
        for logits, moves, cell, stride in zip(
            objectness, deltas, generator.cell_anchors, generator.strides, strict=True
        ):
            rows, columns = logits.shape[2:]
            of_level = logits[0].permute(1, 2, 0).reshape(-1)
            # a level of few cells is filled up, so that all levels give equally many
            chosen = torch.cat([of_level, of_level.new_full((before,), -math.inf)]).topk(before)
            known = chosen.indices.clamp(max=of_level.shape[0] - 1)
            first = (known % len(cell)) * (4 * rows * columns) + known // len(cell)
            places = first[:, None] + torch.arange(4, device=first.device) * (rows * columns)
            anchors = anchors_by_number(cell, known, columns, (stride, stride)) + generator.offset * stride
            found = clipped(decoded(transform.weights, transform.scale_clamp, moves.flatten()[places], anchors), size)
            large = (found[:, 2:] - found[:, :2] > self.rpn.min_box_size).all(dim=1)
            score = torch.where(large & (chosen.values > -math.inf), chosen.values, NONE)
            kept = self.proposed(found, score)
            boxes.append(padded_rows(found[kept], before))
            scores.append(padded_rows(score[kept], before, NONE))
        of_all = torch.cat([*scores, scores[0].new_full((after,), NONE)])
        best = of_all.topk(after)
        everything = torch.cat([*boxes, boxes[0].new_zeros(after, 4)])
        return everything[best.indices], best.values > NONE / 2

    def _pooled(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """``(P, C, s, s)``: each box from the level of its size (Lin et al. 2017, equation 1)."""
        pooler = self.pooler
        rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
        if len(levels) == 1:
            single: Tensor = pooler.level_poolers[0](levels[0], rois)
            return single
        sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        number = (pooler.canonical_level + (sides / pooler.canonical_box_size + SHIFT).log2()).floor()
        number = number.clamp(pooler.min_level, pooler.max_level) - pooler.min_level
        rows = [rows_where(number == level) for level in range(len(levels))]
        pooled = [
            pool(level, rois[of_level])
            for level, of_level, pool in zip(levels, rows, pooler.level_poolers, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(rows).argsort()]


def _box_stages(heads: ROIHeads) -> tuple[list[str], ROIPooler, list[_Stage]]:
    """Names of the levels that the box heads read, what pools boxes from them, and the stages: one but of a cascade."""
    from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads

    if isinstance(heads, Res5ROIHeads):
        stage = _Stage(lambda pooled: heads.res5(pooled).mean(dim=[2, 3]), heads.box_predictor)
        return heads.in_features, heads.pooler, [stage]
    if isinstance(heads, CascadeROIHeads):
        stages = [_Stage(*parts) for parts in zip(heads.box_head, heads.box_predictor, strict=True)]
        return heads.box_in_features, heads.box_pooler, stages
    return heads.box_in_features, heads.box_pooler, [_Stage(heads.box_head, heads.box_predictor)]


def _rounded(side: Length, target: int, length: Length) -> Length:
    """``side * target / length``, halves up."""
    return (2 * side * target + length) // (2 * length)
