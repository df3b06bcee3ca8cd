"""The embedding head in Detectron2: ROI heads for its registry, and the config node that they read.

Importing this module registers the ROI heads. It needs Detectron2, so it is imported inside functions only;
:func:`objemb.detectors.detectron2_rcnn.add_embedding_head_config` is the public interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, PanopticFPN
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from objemb import checks, registry
from objemb.detectors._detectron2_trunk import (
    INPUT,
    build_backbone_with_trunk,
    lower_maps,
    map_shapes,
    stages_for_levels,
    trunk_levels,
    with_trunk,
)
from objemb.detectors._detectron2_windows import samples_at_one_size
from objemb.detectors.capabilities import TRUNK
from objemb.heads.base import Head, is_scripting
from objemb.losses.distillation import cosine_loss, l2_loss, relational_loss
from objemb.ops.windows import cut, input_window, of_other_size

if TYPE_CHECKING:
    from detectron2.layers import ShapeSpec

is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]  # not exported
HEADS = ("embedding", "tail")
LOSSES = {"cosine": cosine_loss, "l2": l2_loss, "relational": relational_loss}


def embedding_head_node() -> CfgNode:
    """``MODEL.ROI_EMBEDDING_HEAD`` with its defaults."""
    node = CfgNode()
    # The head: "embedding" or "tail" (objemb.heads).
    node.NAME = "embedding"
    # Maps to pool from: those of the backbone, or levels of the trunk below a pyramid by stride, such as "trunk8".
    # Empty means the default of the head: the levels of the box head, or the trunk's level of STRIDE for a tail.
    node.IN_FEATURES = []
    # Shape of the head: see objemb.heads.embedding.EmbeddingHead and objemb.heads.tail.Tail. Zero and the empty text
    # mean the default of the head.
    node.DIM = 128
    node.WIDTH = 256
    node.DEPTH = 2
    node.SHORTCUT = False
    node.SAMPLES = 0
    node.SAMPLING_RATIO = 0
    node.ANCHOR = ""
    # Of a tail: the stride after which the stages of BACKBONE begin, and the settings of that network and of the
    # pooling behind it, as in a config of objemb. The training program takes them from the teacher.
    node.STRIDE = 8
    node.BACKBONE = CfgNode({"name": "", "arch": "", "weights": ""}, new_allowed=True)
    node.POOLING = CfgNode({"name": ""}, new_allowed=True)
    # Longer side, in pixels of the network's input, at which the head describes objects: other boxes are resized to it
    # (see objemb.describers.one_pass.OnePass); 0 to describe each box at its own size.
    node.OBJECT_SIDE = 0.0
    # The loss, one of "cosine", "l2", "relational" (objemb.losses.distillation), and its weight relative to the losses
    # of the detector. With weight 0, the head is not trained and no teacher vectors are needed.
    node.LOSS = "cosine"
    node.LOSS_WEIGHT = 1.0
    # Foreground proposals per image to train on, in addition to all ground-truth boxes.
    node.PROPOSALS_PER_IMAGE = 32
    # Names of the detector's classes, for whoever opens the model; empty if unknown. The training program fills them.
    node.CLASSES = []
    # The builder of the backbone whose trunk is read; set while a network is built.
    node.ABOVE = ""
    return node


def objemb_backbone_node() -> CfgNode:
    """``MODEL.OBJEMB_BACKBONE`` with its defaults: a network of objemb as the trunk, for the backbone
    ``build_objemb_fpn_backbone``. ``frozen`` is the stride of the map up to which its layers are not trained."""
    return CfgNode({"name": "", "arch": "", "weights": "", "frozen": 0}, new_allowed=True)


def head_settings(node: CfgNode) -> dict[str, object]:
    """Settings of the head of objemb that a node stands for."""
    common = {
        "name": checks.one_of("MODEL.ROI_EMBEDDING_HEAD.NAME", node.NAME, HEADS),
        "dim": node.DIM or None,
        **({"levels": list(node.IN_FEATURES)} if len(node.IN_FEATURES) else {}),
        **({"samples": node.SAMPLES} if node.SAMPLES else {}),
        **({"sampling_ratio": node.SAMPLING_RATIO} if node.SAMPLING_RATIO else {}),
        **({"anchor": node.ANCHOR} if node.ANCHOR else {}),
    }
    if node.NAME == "embedding":
        shortcut = {"shortcut": True} if node.SHORTCUT else {}
        return {**common, "width": node.WIDTH, "depth": node.DEPTH, **shortcut}
    parts = {key: {k: v for k, v in node[key].items() if v not in ("", None)} for key in ("BACKBONE", "POOLING")}
    missing = [f"MODEL.ROI_EMBEDDING_HEAD.{key}.name" for key, part in parts.items() if "name" not in part]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)}: expected the network and the pooling of the teacher, such as torchvision_cnn "
            "(with its arch) and gem, found none; tools/train_detectron2.py --teacher MODEL sets them"
        )
    return {**common, "stride": node.STRIDE, "backbone": parts["BACKBONE"], "pooling": parts["POOLING"]}


def connected_head(
    settings: Mapping[str, object], shapes: Mapping[str, tuple[int, int]], pyramid: Sequence[str]
) -> tuple[Head, list[str]]:
    """A head of objemb, connected to the maps of a backbone, and the names of those that it reads.

    Args:
        settings: As ``head:`` in a config of objemb.
        shapes: Channels and stride of each map.
        pyramid: The maps that the box head reads.
    """
    head = registry.build(Head, settings)
    return head, list(head.connect(shapes, pyramid))


class WithEmbeddings(ROIHeads):  # type: ignore[misc]  # no types
    """Adds embeddings to ROI heads of Detectron2; the first base of each class below, which names the methods of the
    second one ``plain_forward`` and ``plain_given_boxes``, because TorchScript does not know ``super``.

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
        embedding_head: Head,
        embedding_in_features: Sequence[str] = (),
        embedding_loss: str = "cosine",
        embedding_loss_weight: float = 1.0,
        embedding_proposals: int = 32,
        embedding_object_side: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.embedding_head = embedding_head
        self.embedding_in_features = list(embedding_in_features)
        self.embedding_loss = LOSSES[checks.one_of("MODEL.ROI_EMBEDDING_HEAD.LOSS", embedding_loss, LOSSES)]
        self.embedding_loss_weight = embedding_loss_weight
        self.embedding_proposals = embedding_proposals
        self.embedding_object_side = float(embedding_object_side)
        self.embedding_lower: torch.nn.Module | None = None  # of a copy that TorchScript compiles
        self.embedding_multiple = 0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, object]:
        """Arguments of the constructor; ``input_shape`` has the channels and stride of each map of the backbone."""
        node = cfg.MODEL.ROI_EMBEDDING_HEAD
        shapes = {name: (shape.channels, shape.stride) for name, shape in input_shape.items()}
        head, names = connected_head(head_settings(node), shapes, cfg.MODEL.ROI_HEADS.IN_FEATURES)
        return {
            **super().from_config(cfg, input_shape),
            "embedding_head": head,
            "embedding_in_features": names,
            "embedding_loss": node.LOSS,
            "embedding_loss_weight": node.LOSS_WEIGHT,
            "embedding_proposals": node.PROPOSALS_PER_IMAGE,
            "embedding_object_side": node.OBJECT_SIDE,
        }

    def attach(self, backbone: Backbone) -> None:
        """Tell the heads which backbone computes their maps: windows of objects pass through its lower layers. It is
        not registered as a submodule, so that it is trained and saved once. A head that is not yet connected, as that
        of a LazyConfig, which builds heads before it knows the backbone, is connected to its maps."""
        self.__dict__["_backbone"] = backbone
        head = self.embedding_head
        if not head.channels:
            names = head.levels or head.default_levels(self.in_features)
            if self.embedding_object_side > 0 or any(name.startswith(TRUNK) for name in names):
                with_trunk(backbone)
            self.embedding_in_features = list(head.connect(map_shapes(backbone), self.in_features))

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``ROIHeads.forward``; at inference the base class calls :meth:`forward_with_given_boxes`."""
        instances, losses = self.plain_forward(images, features, proposals, targets)
        if self.training and self.embedding_loss_weight > 0:
            losses["loss_embedding"] = self._loss(features, proposals, [] if targets is None else targets)
        return instances, losses

    def forward_with_given_boxes(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """See ``ROIHeads.forward_with_given_boxes``."""
        instances = self.plain_given_boxes(features, instances)
        boxes = [i.pred_boxes.tensor for i in instances]
        sizes = [i.image_size for i in instances]
        if is_scripting():  # noqa: SIM108  # TorchScript leaves out the other branch of a statement only
            vectors = self.scripted(features, boxes, sizes)
        else:
            vectors = self.described(features, boxes, sizes)
        start = 0
        for of_image in instances:
            of_image.pred_embeddings = vectors[start : start + len(of_image)]
            start += len(of_image)
        return instances

    def scripted(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """As :meth:`described`, in TorchScript: one window after the other."""
        vectors: Tensor = self.embedding_head([features[name] for name in self.embedding_in_features], boxes)
        if self.embedding_lower is not None:
            rows: list[Tensor] = []
            for number, of_image in enumerate(boxes):
                apart = of_other_size(of_image, self.embedding_object_side)
                for box in range(len(of_image)):
                    if bool(apart[box]):
                        corners: list[float] = of_image[box].tolist()
                        window = cut(sizes[number], corners, self.embedding_object_side, self.embedding_multiple)
                        height, width = sizes[number]
                        pixels = input_window(features["input"][number, :, :height, :width], window)
                        x1, y1, x2, y2 = window.box
                        inside = torch.tensor([[x1, y1, x2, y2]], device=of_image.device)
                        rows.append(self.embedding_head(self.embedding_lower(pixels[None]), [inside])[0])
                    else:
                        rows.append(vectors[len(rows)])
            if len(rows) > 0:
                vectors = torch.stack(rows)
        return vectors

    @torch.jit.unused
    def described(
        self,
        features: dict[str, Tensor],
        boxes: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        unit: bool = True,
    ) -> Tensor:
        """Vectors of boxes.

        Args:
            features: Maps of the backbone.
            boxes: ``(N, 4)`` of each image, xyxy edges in pixels of the network's input.
            sizes: ``(height, width)`` of each image in it, without padding.
            unit: Whether to normalise the vectors.

        Returns:
            float32 ``(sum of N, D)``, image by image.

        Raises:
            TypeError: The heads are to describe objects at one size, but are not part of a network that can, or are
                traced.
        """
        head, maps = self.embedding_head, [features[name] for name in self.embedding_in_features]
        if self.embedding_object_side <= 0:
            own: Tensor = head(maps, list(boxes), unit=unit)
            return own
        if is_tracing():
            raise TypeError(
                "MODEL.ROI_EMBEDDING_HEAD.OBJECT_SIDE: expected 0 in a network that is traced, since the boxes decide "
                f"which windows there are, found {self.embedding_object_side}; 'objemb model build detectron2' and "
                "'objemb export' make a program of such a network"
            )
        backbone = self.__dict__.get("_backbone")
        if backbone is None or INPUT not in features:
            raise TypeError(
                "MODEL.META_ARCHITECTURE: expected EmbeddingRCNN or EmbeddingPanopticFPN, whose backbone describes "
                "windows at OBJECT_SIDE, found another network; add_embedding_head_config sets it"
            )
        names, multiple = self.embedding_in_features, self.window_multiple()
        numbers: list[Tensor] = []

        def lower(pixels: Tensor) -> list[Tensor]:
            found = lower_maps(backbone, pixels, names)
            return [found[name] for name in names]

        def blocks() -> Iterator[Tensor]:
            for of_block, samples in samples_at_one_size(
                head, maps, lower, features[INPUT], sizes, boxes, self.embedding_object_side, multiple
            ):
                numbers.append(of_block)
                yield samples

        vectors = head.vectors(blocks(), unit=unit)
        return vectors[torch.cat(numbers).argsort()]

    @torch.jit.unused
    def window_multiple(self) -> int:
        """Sides of windows are multiples of this, as the levels of a feature pyramid require, see ``OnePass``."""
        backbone, names = self.__dict__["_backbone"], self.embedding_in_features
        shapes, trunk = backbone.output_shape(), trunk_levels(backbone)
        levels = () if set(names) <= set(trunk) else (*names, *self.in_features, *trunk)
        return int(max(16, *self.embedding_head.strides, *(shapes[name].stride for name in levels)))

    @torch.jit.unused
    def _loss(
        self, features: dict[str, Tensor], proposals: Sequence[Instances], targets: Sequence[Instances]
    ) -> Tensor:
        examples = [self._examples(*of_image) for of_image in zip(proposals, targets, strict=True)]
        boxes, vectors = zip(*examples, strict=True)
        student = self.described(features, boxes, [t.image_size for t in targets], unit=False)
        teacher = torch.cat(vectors).to(student)
        if len(teacher) and has_event_storage():
            cosine = F.cosine_similarity(student.detach(), teacher).mean()
            get_event_storage().put_scalar("roi_head/embedding_cosine", float(cosine))
        return self.embedding_loss_weight * self.embedding_loss(student, teacher)

    @torch.jit.unused
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

    @torch.jit.unused
    def _foreground(self, proposals: Instances, target: Instances) -> tuple[Tensor, Tensor]:
        """Indices of random foreground proposals, and the index of the ground-truth box of each."""
        overlaps = pairwise_iou(target.gt_boxes, proposals.proposal_boxes)
        matched, labels = self.proposal_matcher(overlaps)
        foreground = (labels == 1).nonzero().flatten()
        order = torch.randperm(len(foreground), device=foreground.device)
        chosen = foreground[order[: self.embedding_proposals]]
        return chosen, matched[chosen]


def _named(function: FunctionType, name: str) -> FunctionType:
    """A function under another name, by which TorchScript compiles it beside the one that calls it."""
    other = FunctionType(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)
    other.__annotations__, other.__module__ = function.__annotations__, function.__module__
    return other


def _scriptable(heads: type[ROIHeads]) -> type[ROIHeads]:
    """Tell TorchScript which attributes are constants: it does not compile what they switch off. Detectron2 annotates
    its own class so, but TorchScript reads annotations of the class that it compiles only."""
    heads.__annotations__ = {**heads.__annotations__, "mask_on": Final[bool], "keypoint_on": Final[bool]}
    return heads


@ROI_HEADS_REGISTRY.register()
@_scriptable
class EmbeddingROIHeads(WithEmbeddings, StandardROIHeads):  # type: ignore[misc]  # no types
    """``StandardROIHeads`` (FPN, C5), with embeddings."""

    plain_forward = _named(StandardROIHeads.forward, "plain_forward")
    plain_given_boxes = _named(StandardROIHeads.forward_with_given_boxes, "plain_given_boxes")


@ROI_HEADS_REGISTRY.register()
class EmbeddingRes5ROIHeads(WithEmbeddings, Res5ROIHeads):  # type: ignore[misc]  # no types
    """``Res5ROIHeads`` (C4), with embeddings pooled from the map below the stage that runs on boxes."""

    plain_forward = _named(Res5ROIHeads.forward, "plain_forward")
    plain_given_boxes = _named(Res5ROIHeads.forward_with_given_boxes, "plain_given_boxes")


@ROI_HEADS_REGISTRY.register()
class EmbeddingCascadeROIHeads(WithEmbeddings, CascadeROIHeads):  # type: ignore[misc]  # no types
    """``CascadeROIHeads``, with embeddings of the boxes of the last stage."""

    plain_forward = _named(CascadeROIHeads.forward, "plain_forward")
    plain_given_boxes = _named(CascadeROIHeads.forward_with_given_boxes, "plain_given_boxes")


class _WithTrunkLevels:
    """Mixin for networks whose ROI heads read levels below the pyramid, or describe objects at one size."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.roi_heads, WithEmbeddings):  # type: ignore[attr-defined]  # no types
            self.roi_heads.attach(self.backbone)  # type: ignore[attr-defined]  # no types

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        """Arguments of the constructor. The backbone gives the levels of its trunk as well, if the head needs them."""
        node = cfg.MODEL.ROI_EMBEDDING_HEAD
        if node.NAME == "tail" or node.OBJECT_SIDE > 0 or any(name.startswith(TRUNK) for name in node.IN_FEATURES):
            cfg = cfg.clone()
            cfg.defrost()
            stages_for_levels(cfg)
            cfg.MODEL.ROI_EMBEDDING_HEAD.ABOVE = cfg.MODEL.BACKBONE.NAME
            cfg.MODEL.BACKBONE.NAME = build_backbone_with_trunk.__name__
        arguments: dict[str, object] = super().from_config(cfg)  # type: ignore[misc]  # no types
        return arguments


@META_ARCH_REGISTRY.register()
class EmbeddingRCNN(_WithTrunkLevels, GeneralizedRCNN):  # type: ignore[misc]  # no types
    """``GeneralizedRCNN`` whose ROI heads also read the levels of the trunk."""


@META_ARCH_REGISTRY.register()
class EmbeddingPanopticFPN(_WithTrunkLevels, PanopticFPN):  # type: ignore[misc]  # no types
    """``PanopticFPN`` whose ROI heads also read the levels of the trunk."""


#: ROI heads of Detectron2, and the same with embeddings.
WITH_EMBEDDINGS = {
    "StandardROIHeads": "EmbeddingROIHeads",
    "Res5ROIHeads": "EmbeddingRes5ROIHeads",
    "CascadeROIHeads": "EmbeddingCascadeROIHeads",
}
#: Networks of Detectron2 with ROI heads, and the same with the levels of the trunk.
WITH_TRUNK_LEVELS = {"GeneralizedRCNN": "EmbeddingRCNN", "PanopticFPN": "EmbeddingPanopticFPN"}
