"""The embedding head in Detectron2: ROI heads for its registry, and the config node that they read.

Importing this module registers the ROI heads. It needs Detectron2, so it is imported inside functions only;
:func:`objemb.detectors.detectron2_rcnn.add_embedding_head_config` is the public interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.structures import ImageList, Instances, pairwise_iou
from torch import Tensor

from objemb import checks
from objemb.heads.embedding import EmbeddingHead
from objemb.losses.distillation import cosine_loss, l2_loss, relational_loss

if TYPE_CHECKING:
    from detectron2.layers import ShapeSpec

LOSSES = {"cosine": cosine_loss, "l2": l2_loss, "relational": relational_loss}


def embedding_head_node() -> object:
    """``MODEL.ROI_EMBEDDING_HEAD`` with its defaults."""
    node = CfgNode()
    # Backbone maps to pool from; empty for the same as the box head.
    node.IN_FEATURES = []
    # Shape of the head: see objemb.heads.embedding.EmbeddingHead.
    node.DIM = 128
    node.WIDTH = 256
    node.DEPTH = 2
    node.SAMPLES = 7
    node.SAMPLING_RATIO = 2
    node.ANCHOR = "middle"
    # The loss, one of "cosine", "l2", "relational" (objemb.losses.distillation), and its weight relative to the losses
    # of the detector. With weight 0, the head is not trained and no teacher vectors are needed.
    node.LOSS = "cosine"
    node.LOSS_WEIGHT = 1.0
    # Foreground proposals per image to train on, in addition to all ground-truth boxes.
    node.PROPOSALS_PER_IMAGE = 32
    return node


class WithEmbeddings:
    """Mixin that adds embeddings to ROI heads of Detectron2; the first base of each class below.

    At inference, every final box has a row in ``pred_embeddings``, float32 ``(N, D)`` of unit length, ``(0, D)``
    without boxes. The same holds for given boxes (``forward_with_given_boxes``), in pixels of the network's input.

    In training, ``loss_embedding`` is added for all ground-truth boxes and for proposals that overlap one of them
    enough to be foreground for the box head; the target of such a proposal is the teacher's vector of its ground-truth
    box. The ``targets`` need the fields

    * ``gt_embeddings``, float ``(N, D)``: the teacher's vectors of the ground-truth boxes;
    * ``gt_image_embeddings``, float ``(N, D)``, optional: its vector of the whole image, repeated in each row, because
      a field has a row for each box. The whole image is then a training example as well.

    :class:`objemb.detectors.detectron2_rcnn.TeacherMapper` adds both.
    """

    @configurable  # type: ignore[untyped-decorator]  # no types
    def __init__(
        self,
        *,
        embedding_head: EmbeddingHead,
        embedding_in_features: list[str],
        embedding_loss: str,
        embedding_loss_weight: float,
        embedding_proposals: int,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding_head = embedding_head
        self.embedding_in_features = embedding_in_features
        self.embedding_loss = LOSSES[checks.one_of("MODEL.ROI_EMBEDDING_HEAD.LOSS", embedding_loss, LOSSES)]
        self.embedding_loss_weight = embedding_loss_weight
        self.embedding_proposals = embedding_proposals

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
        """Arguments of the constructor; ``input_shape`` has the channels and stride of each map of the backbone."""
        node = cfg.MODEL.ROI_EMBEDDING_HEAD
        head = EmbeddingHead(
            dim=node.DIM,
            width=node.WIDTH,
            depth=node.DEPTH,
            samples=node.SAMPLES,
            sampling_ratio=node.SAMPLING_RATIO,
            levels=list(node.IN_FEATURES) or None,
            anchor=node.ANCHOR,
        )
        levels = {name: (shape.channels, shape.stride) for name, shape in input_shape.items()}
        names = head.connect(levels, cfg.MODEL.ROI_HEADS.IN_FEATURES)
        return {
            **super().from_config(cfg, input_shape),  # type: ignore[misc]  # no types
            "embedding_head": head,
            "embedding_in_features": list(names),
            "embedding_loss": node.LOSS,
            "embedding_loss_weight": node.LOSS_WEIGHT,
            "embedding_proposals": node.PROPOSALS_PER_IMAGE,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``ROIHeads.forward``; at inference the base class calls :meth:`forward_with_given_boxes`."""
        instances, losses = super().forward(images, features, proposals, targets)  # type: ignore[misc]  # no types
        if self.training and self.embedding_loss_weight > 0:  # type: ignore[attr-defined]  # no types
            losses["loss_embedding"] = self._loss(features, proposals, targets or [])
        return instances, losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """See ``ROIHeads.forward_with_given_boxes``."""
        instances = super().forward_with_given_boxes(features, instances)  # type: ignore[misc]  # no types
        vectors = self.embedding_head(self._maps(features), [i.pred_boxes.tensor for i in instances])
        for of_image, rows in zip(instances, vectors.split([len(i) for i in instances]), strict=True):
            of_image.pred_embeddings = rows
        return instances

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.embedding_in_features]

    def _loss(self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]) -> Tensor:
        examples = [self._examples(*of_image) for of_image in zip(proposals, targets, strict=True)]
        boxes, teacher = zip(*examples, strict=True)
        student = self.embedding_head(self._maps(features), boxes, unit=False)
        return self.embedding_loss_weight * self.embedding_loss(student, torch.cat(teacher).to(student))

    @torch.no_grad()
    def _examples(self, proposals: Instances, target: Instances) -> tuple[Tensor, Tensor]:
        """Training boxes ``(M, 4)`` of an image, and the teacher's vectors ``(M, D)``."""
        truth, dim = target.gt_boxes.tensor, self.embedding_head.dim
        if not len(truth):
            return truth, truth.new_zeros(0, dim)
        if not target.has("gt_embeddings"):
            raise ValueError(
                "targets: expected the teacher's vectors in the field 'gt_embeddings', "
                f"found {checks.listed(target.get_fields())}; TeacherMapper adds them"
            )
        vectors = checks.shape("gt_embeddings", target.gt_embeddings, (len(truth), dim))
        chosen, matched = self._foreground(proposals, target)
        boxes, teacher = [truth, proposals.proposal_boxes.tensor[chosen]], [vectors, vectors[matched]]
        if target.has("gt_image_embeddings"):
            height, width = target.image_size
            boxes.append(truth.new_tensor([[0, 0, width, height]]))
            teacher.append(checks.shape("gt_image_embeddings", target.gt_image_embeddings, (len(truth), dim))[:1])
        return torch.cat(boxes), torch.cat(teacher)

    def _foreground(self, proposals: Instances, target: Instances) -> tuple[Tensor, Tensor]:
        """Indices of random foreground proposals, and the index of the ground-truth box of each."""
        overlaps = pairwise_iou(target.gt_boxes, proposals.proposal_boxes)
        matched, labels = self.proposal_matcher(overlaps)  # type: ignore[attr-defined]  # no types
        foreground = (labels == 1).nonzero().flatten()
        order = torch.randperm(len(foreground), device=foreground.device)
        chosen = foreground[order[: self.embedding_proposals]]
        return chosen, matched[chosen]


@ROI_HEADS_REGISTRY.register()
class EmbeddingROIHeads(WithEmbeddings, StandardROIHeads):  # type: ignore[misc]  # no types
    """``StandardROIHeads`` (FPN, C5), with embeddings."""


@ROI_HEADS_REGISTRY.register()
class EmbeddingRes5ROIHeads(WithEmbeddings, Res5ROIHeads):  # type: ignore[misc]  # no types
    """``Res5ROIHeads`` (C4), with embeddings pooled from the map below the stage that runs on boxes."""


@ROI_HEADS_REGISTRY.register()
class EmbeddingCascadeROIHeads(WithEmbeddings, CascadeROIHeads):  # type: ignore[misc]  # no types
    """``CascadeROIHeads``, with embeddings of the boxes of the last stage."""


#: ROI heads of Detectron2, and the same with embeddings.
WITH_EMBEDDINGS = {
    "StandardROIHeads": "EmbeddingROIHeads",
    "Res5ROIHeads": "EmbeddingRes5ROIHeads",
    "CascadeROIHeads": "EmbeddingCascadeROIHeads",
}
