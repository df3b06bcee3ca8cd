"""Faster R-CNN on any classification network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors._rcnn import Rcnn, counted_classes
from objemb.detectors.capabilities import TRUNK, NetworkInput
from objemb.registry import plugin
from objemb.weights.locate import existing_file, is_named
from objemb.weights.read import read_weights

#: Side of anchors in cells of their level, as in Lin et al. 2017: 32 pixels at stride 4.
ANCHOR_CELLS = 8
ASPECT_RATIOS = (0.5, 1.0, 2.0)
BOX_SAMPLES = 7


@plugin
class FasterRcnn(Rcnn):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017) on the trunk of any backbone.

    The trunk is a classification network, which may be the same as that of a teacher. All its maps of stride 4 and more
    are levels, so that an embedding head can read layers below those of the pyramid. The heads are torchvision's.

    Args:
        backbone: A network with maps of several strides, such as ``torchvision_cnn``, ``timm_net`` or
            ``narrow_resnet``, configured with its own ``weights``.
        num_classes: Number of classes *without* the background. With 1, the default without ``classes``, the detector
            is class-agnostic: labels are ignored.
        classes: Names of the classes; may be given instead of ``num_classes``.
        new_classes: Whether the layers with an output for each class keep their random values instead of those of
            ``weights``, to train for other classes.
        weights: Weights of the whole detector: a file with a state dict, a model folder, or ``random``. None leaves the
            heads random and the backbone unchanged.
        pyramid_strides: Strides of the pyramid levels, some of those of the backbone. One coarser level for proposals
            only is added.
        channels: Channels of each level of the pyramid.
        anchor_sizes: Sides of square anchors in network pixels, including those of the level for proposals only: a
            number for each level, or a list for each. Lists must be equally long, because the levels share their
            proposal layers. Anchors with aspect ratios of 0.5 and 2 have the same areas. 8 times the stride by default.
        box_width: Channels of the two layers of the box head.
        sampling_ratio: RoI align averages ``sampling_ratio x sampling_ratio`` values per cell; training on a CPU is
            faster with 1.
        proposals: Maximum number of proposals per photo for the box head.
        proposal_batch_per_image: Number of anchors sampled per photo for the losses of the proposals, at most half of
            them on objects. Where a small photo has one object, two or three anchors are; among 256 others they count
            for little, and a smaller number lets the proposals learn.
        box_batch_per_image: Number of proposals sampled per photo for the losses, at most a quarter of them foreground.
        score_threshold: Boxes with lower scores are not detected. The default is low, because region sources select.
        nms_iou: IoU above which the lower-scoring of two boxes *of the same class* is dropped.
        max_detections: Maximum number of boxes per photo.
        min_size: The shorter side of the network's input, in pixels.
        max_size: Limit of the longer side, in pixels.

    Raises:
        TypeError: The backbone has only one map.
        ValueError: The backbone does not have the strides, or numbers are out of range.
        MissingWeightsError: The file of weights does not exist.
        UnreadableWeightsError: The file does not fit the network, for instance has another number of classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        new_classes: bool = False,
        weights: str | Path | None = None,
        pyramid_strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        anchor_sizes: Sequence[float | Sequence[float]] | None = None,
        box_width: int = 1024,
        sampling_ratio: int = 2,
        proposals: int = 1000,
        proposal_batch_per_image: int = 256,
        box_batch_per_image: int = 512,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        min_size: int = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        if classes is None and num_classes is None:
            num_classes = 1
        count, self.classes = counted_classes(num_classes, classes)
        trunk = _Trunk(backbone, pyramid_strides, checks.whole("channels", channels))
        self.pyramid = tuple(trunk.levels)
        width = checks.whole("box_width", box_width)
        self.network = FasterRCNN(
            trunk,
            rpn_anchor_generator=_anchors(anchor_sizes, [*trunk.levels.values(), 2 * max(pyramid_strides)]),
            box_roi_pool=MultiScaleRoIAlign(
                list(trunk.levels), BOX_SAMPLES, checks.whole("sampling_ratio", sampling_ratio)
            ),
            box_head=TwoMLPHead(channels * BOX_SAMPLES**2, width),
            box_predictor=FastRCNNPredictor(width, count + 1),
            min_size=checks.whole("min_size", min_size),
            max_size=checks.whole("max_size", max_size),
            image_mean=(0.0, 0.0, 0.0),  # the backbone normalises
            image_std=(1.0, 1.0, 1.0),
            size_divisible=max(32, backbone.stride),
            box_score_thresh=checks.between("score_threshold", score_threshold, 0, 1),
            box_nms_thresh=checks.between("nms_iou", nms_iou, 0, 1),
            box_detections_per_img=checks.whole("max_detections", max_detections),
            box_batch_size_per_image=checks.whole("box_batch_per_image", box_batch_per_image),
            rpn_batch_size_per_image=checks.whole("proposal_batch_per_image", proposal_batch_per_image),
            **_candidates(checks.whole("proposals", proposals)),
        )
        self._set_scales()
        if is_named(weights):
            file = existing_file(weights, ())
            self._fill(read_weights(file), file, new_classes)

    @property
    def backbone(self) -> Backbone:
        """The trunk."""
        trunk: Backbone = self.network.backbone.body
        return trunk

    def levels(self) -> dict[str, tuple[int, int]]:
        """See :meth:`NetworkDetector.levels`."""
        trunk = self.network.backbone
        pyramid = {name: (trunk.out_channels, stride) for name, stride in trunk.levels.items()}
        return pyramid | {f"{TRUNK}{s}": (channels, s) for s, (_, channels) in self.backbone.stages.items()}

    def maps(self, batch: NetworkInput, names: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.maps`."""
        strides = {f"{TRUNK}{stride}": stride for stride in self.backbone.stages}
        if not all(name in strides for name in names):
            return super().maps(batch, names)
        maps = self.backbone.maps(batch.tensors, max(strides[name] for name in names))
        return {name: maps[strides[name]] for name in names}

    @property
    def mean(self) -> Tensor:
        """See :attr:`NetworkDetector.mean`."""
        return self.backbone.mean.flatten()

    @property
    def std(self) -> Tensor:
        """See :attr:`NetworkDetector.std`."""
        return self.backbone.std.flatten()

    @property
    def _padding(self) -> Tensor:
        return self.mean

    def _trunk(self, pixels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        maps = self.backbone.maps(pixels)
        return self.network.backbone.below(maps), {f"{TRUNK}{stride}": level for stride, level in maps.items()}


class _Trunk(nn.Module):
    """A backbone and the pyramid on it, as torchvision's detectors expect them.

    Attributes:
        levels: Strides of the pyramid's levels, by torchvision's names.
        out_channels: Channels of each level.
    """

    def __init__(self, backbone: Backbone, strides: Sequence[int], channels: int) -> None:
        super().__init__()
        if not backbone.stages:
            raise TypeError(
                "backbone: expected one with maps of several strides, such as torchvision_cnn, timm_net with a "
                f"convolutional network, or narrow_resnet, found {type(backbone).__name__}"
            )
        chosen = sorted({checks.one_of("pyramid_strides", s, tuple(backbone.stages)) for s in strides})
        self.levels = {str(n): s for n, s in enumerate(checks.several("pyramid_strides", chosen))}
        self.out_channels = channels
        self.body = backbone
        self.fpn = FeaturePyramidNetwork([backbone.stages[s][1] for s in chosen], channels, LastLevelMaxPool())

    def below(self, maps: dict[int, Tensor]) -> dict[str, Tensor]:
        """Those maps of the trunk that the pyramid is built on."""
        return {name: maps[stride] for name, stride in self.levels.items()}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        pyramid: dict[str, Tensor] = self.fpn(self.below(self.body.maps(pixels)))
        return pyramid


def _anchors(sizes: Sequence[float | Sequence[float]] | None, strides: Sequence[int]) -> AnchorGenerator:
    sizes = [ANCHOR_CELLS * s for s in strides] if sizes is None else sizes
    chosen = []
    for level in checks.several("anchor_sizes", sizes):
        several = checks.several("anchor_sizes", level) if isinstance(level, Sequence) else (level,)
        chosen.append(tuple(checks.positive("anchor_sizes", size) for size in several))
    if len(chosen) != len(strides):
        raise ValueError(f"anchor_sizes: expected one for each of the strides {list(strides)}, found {list(sizes)}")
    if len({len(level) for level in chosen}) > 1:
        raise ValueError(
            "anchor_sizes: expected equally many for each level, since all levels share their proposal layers, "
            f"found {list(sizes)}"
        )
    return AnchorGenerator(tuple(chosen), (ASPECT_RATIOS,) * len(chosen))


def _candidates(proposals: int) -> dict[str, int]:
    """Settings for the number of proposals before and after suppression, equal in training and inference."""
    moments = ("train", "test")
    return {f"rpn_{when}_nms_top_n_{moment}": proposals for when in ("pre", "post") for moment in moments}
