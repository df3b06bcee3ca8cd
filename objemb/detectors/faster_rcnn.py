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

#: Sides of anchors in cells of their level, as of Lin et al. 2017: 32 pixels on stride 4.
ANCHOR_CELLS = 8
ASPECT_RATIOS = (0.5, 1.0, 2.0)
BOX_SAMPLES = 7


@plugin
class FasterRcnn(Rcnn):
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017) on the trunk of any backbone.

    The trunk is the classification network that a teacher may have as well, all of whose maps of strides 4 and more are
    levels, so that an embedding head can go on from layers below the pyramid's. The heads are torchvision's.

    Args:
        backbone: A network with maps of several strides, such as ``torchvision_cnn``, ``timm_net`` or
            ``narrow_resnet``; its own setting ``weights`` says where its weights come from.
        num_classes: Number of classes *without* the background. 1, which is the default when there are no ``classes``
            either, is class-agnostic: all objects are objects, whatever their labels.
        classes: Their names; may stand instead of ``num_classes``.
        new_classes: Whether the layers that tell classes apart start at random instead of from ``weights``, to learn
            other classes.
        weights: Of the whole detector: a file with a state dict, a model folder, or ``random``. None leaves the heads
            at random values, and the backbone what it is.
        pyramid_strides: Of the maps that boxes are found on, a choice of those of the backbone. One coarser level, for
            proposals alone, is added.
        channels: Of each level of the pyramid.
        anchor_sizes: Sides of the square anchors in network pixels, a number for each level, that for proposals alone
            included, or a list of numbers for each, all equally long, since the levels share the layers that judge
            anchors. Anchors half and twice as high as wide have the same area. 8 times the stride by default.
        box_width: Channels of the two layers of the box head.
        sampling_ratio: RoI align averages ``sampling_ratio x sampling_ratio`` values per cell; 1 learns faster on a
            CPU.
        proposals: Best candidates per photo that reach the box head.
        box_batch_per_image: How many of them are sampled per photo for the losses, at most a quarter of them objects.
        score_threshold: Boxes with lower scores are not even candidates. Low, because region sources choose.
        nms_iou: Overlap above which the lower of two boxes *of the same class* is dropped.
        max_detections: Best boxes per photo to keep.
        min_size: The shorter side of the network's input, in pixels.
        max_size: The longer side never exceeds this.

    Raises:
        TypeError: A backbone with one map only.
        ValueError: Strides that the backbone does not have, or numbers out of range.
        MissingWeightsError: There is no such file.
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
            image_mean=(0.0, 0.0, 0.0),  # the backbone normalises by itself
            image_std=(1.0, 1.0, 1.0),
            size_divisible=max(32, backbone.stride),
            box_score_thresh=checks.between("score_threshold", score_threshold, 0, 1),
            box_nms_thresh=checks.between("nms_iou", nms_iou, 0, 1),
            box_detections_per_img=checks.whole("max_detections", max_detections),
            box_batch_size_per_image=checks.whole("box_batch_per_image", box_batch_per_image),
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
        levels: Strides of the pyramid's levels, by torchvision's names of them.
        out_channels: Of each of them.
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
        """Of the maps of the trunk those that the pyramid is built on."""
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
            "anchor_sizes: expected as many for each level, since all levels share the layers that judge anchors, "
            f"found {list(sizes)}"
        )
    return AnchorGenerator(tuple(chosen), (ASPECT_RATIOS,) * len(chosen))


def _candidates(proposals: int) -> dict[str, int]:
    """Candidates of each level before, and of all levels after suppression: as many in training as in use."""
    moments = ("train", "test")
    return {f"rpn_{when}_nms_top_n_{moment}": proposals for when in ("pre", "post") for moment in moments}
