"""Every Faster and Mask R-CNN of torchvision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection

from objemb import checks
from objemb.detectors._rcnn import Rcnn, counted_classes
from objemb.detectors.capabilities import TRUNK, NetworkInput
from objemb.layers.folded import Folded, in_turn
from objemb.registry import plugin
from objemb.weights.locate import is_named, locate
from objemb.weights.read import read_weights

FAMILIES = ("fasterrcnn_", "maskrcnn_")
#: Published weights of these were trained with batch norms without eps.
TRAINED_WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
#: Side, in cells of the coarsest level, of the blank image from which strides are determined.
PROBED_CELLS = 4
#: Maps of smaller strides are not used as levels: they are large, and respond to edges only.
FINEST_STRIDE = 4


@plugin
class TorchvisionRcnn(Rcnn):
    """Faster R-CNN, or Mask R-CNN, whose masks become the extra ``masks``, as torchvision builds them.

    Args:
        arch: Name in torchvision, such as ``fasterrcnn_resnet50_fpn_v2``.
        weights: Name in torchvision (``COCO_V1``, ``DEFAULT``), a file with a state dict, or ``random``
            (None is the same here).
        num_classes: Number of classes *without* the background, for a network of your own; by default the 90 of COCO
            (80 of them exist, the others are called ``N/A``).
        new_classes: Whether the layers with an output for each class keep their random values instead of those of
            ``weights``, to train for other classes.
        classes: Names of the classes; those of COCO if neither this nor ``num_classes`` is given.
        score_threshold: Boxes with lower scores are not detected. The default is low, because region sources select.
        nms_iou: IoU above which the lower-scoring of two boxes *of the same class* is dropped.
        max_detections: Maximum number of boxes per photo.
        min_size: The shorter side of the network's input, in pixels; by default that of the arch.
        max_size: Limit of the longer side, in pixels; by default that of the arch.

    Raises:
        ValueError: The arch or name of weights is unknown, or ``classes`` and ``num_classes`` do not match.
        MissingWeightsError: The weights are not on this machine and cannot be downloaded.
        UnreadableWeightsError: The file does not fit the network, for instance has another number of classes.
    """

    published = "DEFAULT (or another name in torchvision, or a file)"

    def __init__(
        self,
        arch: str = "fasterrcnn_resnet50_fpn_v2",
        *,
        weights: str | Path | None = None,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        new_classes: bool = False,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> None:
        super().__init__()
        known = [n for n in models.list_models(module=detection) if n.startswith(FAMILIES)]
        checks.one_of("arch", arch, known)
        if classes is None and num_classes is None:
            classes = models.get_model_weights(arch).DEFAULT.meta["categories"][1:]
        count, self.classes = counted_classes(num_classes, classes)
        sides = {"min_size": min_size, "max_size": max_size}
        self.network = models.get_model(
            arch,
            weights=None,
            weights_backbone=None,
            num_classes=count + 1,
            box_score_thresh=checks.between("score_threshold", score_threshold, 0, 1),
            box_nms_thresh=checks.between("nms_iou", nms_iou, 0, 1),
            box_detections_per_img=checks.whole("max_detections", max_detections),
            **{name: checks.whole(name, side) for name, side in sides.items() if side is not None},
        )
        #: Networks that give outputs of children of the trunk, by the names of the children; they share its layers.
        self._parts: dict[tuple[str, ...], Folded] = {}
        if is_named(weights):
            self._load(arch, weights, new_classes)
        self._probe()
        self._set_scales()

    def levels(self) -> dict[str, tuple[int, int]]:
        """See :meth:`NetworkDetector.levels`."""
        return dict(self._levels)

    def maps(self, batch: NetworkInput, names: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.maps`."""
        children = {level: child for child, level in self._trunk_layers.items()}
        if all(name in children for name in names):
            maps = self._children(batch.tensors, tuple(children[name] for name in names))
            return {name: maps[children[name]] for name in names}
        return super().maps(batch, names)

    @property
    def mean(self) -> Tensor:
        """See :attr:`NetworkDetector.mean`."""
        return torch.tensor(self.network.transform.image_mean)

    @property
    def std(self) -> Tensor:
        """See :attr:`NetworkDetector.std`."""
        return torch.tensor(self.network.transform.image_std)

    def _trunk(self, pixels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        below = self.network.backbone.body.return_layers
        maps = self._children(pixels, tuple({**below, **self._trunk_layers}))
        return (
            OrderedDict((name, maps[child]) for child, name in below.items()),
            {name: maps[child] for child, name in self._trunk_layers.items()},
        )

    def _children(self, pixels: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Outputs of children of the trunk by name, as torchvision's ``IntermediateLayerGetter`` runs them."""
        if names not in self._parts:
            self._parts[names] = Folded(in_turn(self.network.backbone.body, names))
        maps: dict[str, Tensor] = self._parts[names](pixels)
        return maps

    @torch.no_grad()
    def _probe(self) -> None:
        """Determine the levels from the maps of a blank image, whose sides are multiples of every stride."""
        side = PROBED_CELLS * self.network.transform.size_divisible
        blank = torch.zeros(1, 3, side, side)
        body = self.network.backbone.body
        levels = in_turn(body, [name for name, _ in body.named_children()])(blank)
        strides = {child: side // level.shape[2] for child, level in levels.items()}
        last = {stride: child for child, stride in strides.items() if stride >= FINEST_STRIDE}
        self._trunk_layers = {child: f"{TRUNK}{stride}" for stride, child in last.items()}
        maps = self.features(NetworkInput(blank, [(side, side)]))
        self.pyramid = tuple(name for name in self.network.roi_heads.box_roi_pool.featmap_names if name in maps)
        names = (*self.pyramid, *self._trunk_layers.values())
        self._levels = {name: (maps[name].shape[1], side // maps[name].shape[2]) for name in names}

    def _load(self, arch: str, weights: str | Path, new_classes: bool) -> None:
        published = models.get_model_weights(arch)
        named = {**{w.name: w.url for w in published}, "DEFAULT": published.DEFAULT.url}
        file = locate(weights, named)
        state = read_weights(file)
        if arch in TRAINED_WITHOUT_EPS and file.name in {url.rsplit("/", 1)[-1] for url in named.values()}:
            add_eps(self.network.backbone.body, state, "backbone.body.")
        self._fill(state, file, new_classes)


def add_eps(network: nn.Module, state: dict[str, Tensor], prefix: str = "") -> None:
    """Correct, in place, the scales of batch norms that were trained without the ``eps`` that ``network`` adds.

    ``w' / sqrt(var + eps) = w / sqrt(var)``, so that the network gives the same results as in training, with the
    ``eps`` that all other files need.
    """
    for name, module in network.named_modules(prefix=prefix.rstrip(".")):
        if isinstance(module, nn.BatchNorm2d) and f"{name}.running_var" in state:
            variance = state[f"{name}.running_var"].double()
            scales = state[f"{name}.weight"].double() * ((variance + module.eps) / variance).sqrt()
            state[f"{name}.weight"] = scales.float()
