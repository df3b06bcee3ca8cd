"""Every Faster and Mask R-CNN of torchvision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList

from objemb import checks
from objemb.detectors.base import Detector
from objemb.ops.boxes import clip, scale
from objemb.ops.weights import fill, locate, read_weights
from objemb.registry import plugin
from objemb.structures import Photo, Regions

FAMILIES = ("fasterrcnn_", "maskrcnn_")
#: Published weights of these were trained with a batch norm that adds nothing to the variance.
TRAINED_WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
MASK_THRESHOLD = 0.5
#: Cells of the coarsest level on a side of the image by which strides are read off.
PROBED_CELLS = 4


@plugin
class TorchvisionRcnn(nn.Module, Detector):
    """Faster R-CNN, or Mask R-CNN, whose masks become the extra ``masks``.

    Photos that reach the network in the same padded shape share a forward pass, and only those: a photo's boxes do not
    depend on which photos are detected with it (up to rounding in the last digits).

    Args:
        arch: Name in torchvision, such as ``fasterrcnn_resnet50_fpn_v2``.
        weights: Name in torchvision (``COCO_V1``, ``DEFAULT``), a file with a state dict, or None for random weights.
        num_classes: Number of classes *without* the background, for a network of your own; the 90 of COCO by default
            (80 of which exist, the others are called ``N/A``).
        classes: Their names; those of COCO when neither this nor ``num_classes`` is given.
        score_threshold: Boxes with lower scores are not even candidates. Low, because region sources choose.
        nms_iou: Overlap above which the lower of two boxes *of the same class* is dropped.
        max_detections: Best boxes per photo to keep.
        min_size: The shorter side of what the network sees, in pixels; by default that of the arch.
        max_size: The longer side never exceeds this; by default that of the arch.

    Raises:
        ValueError: Unknown arch or name of weights, or ``classes`` and ``num_classes`` that differ.
        MissingWeightsError: The weights are neither here nor to be had.
        UnreadableWeightsError: The file does not fit the network, for instance has another number of classes.
    """

    def __init__(
        self,
        arch: str = "fasterrcnn_resnet50_fpn_v2",
        *,
        weights: str | Path | None = None,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        min_size: int | None = None,
        max_size: int | None = None,
    ) -> None:
        super().__init__()
        known = [n for n in models.list_models(module=detection) if n.startswith(FAMILIES)]
        checks.one_of("arch", arch, known)
        count, self.classes = _classes(arch, num_classes, classes)
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
        if weights is not None:
            self._load(arch, weights)
        self.eval()

    def train(self, mode: bool = True) -> TorchvisionRcnn:
        """Stays in eval mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of a batch of photos of any sizes, in original pixels, on the CPU; see :class:`Detector`."""
        found: dict[int, Regions] = {}
        for numbers in self.groups(photos):
            group = [photos[i] for i in numbers]
            batch = self.preprocess(group)
            found.update(zip(numbers, self.regions(batch, self.features(batch), group), strict=True))
        return [found[i] for i in range(len(photos))]

    def groups(self, photos: Sequence[Photo]) -> list[list[int]]:
        """Numbers of the photos that may share a batch: those that need no more padding together than alone."""
        multiple = self.network.transform.size_divisible
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, photo in enumerate(photos):
            groups.setdefault(tuple(math.ceil(s / multiple) for s in self._network_size(photo)), []).append(number)
        return list(groups.values())

    def preprocess(self, photos: Sequence[Photo]) -> ImageList:
        """Photos normalised, resized and, at the right and bottom, padded to one batch, with their unpadded sizes."""
        transform, device = self.network.transform, next(self.parameters()).device
        images = []
        for photo in photos:
            pixels = transform.normalize(photo.pixels.to(device).float() / 255)[None]
            size = self._network_size(photo)
            images.append(F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0])
        return ImageList(transform.batch_images(images, transform.size_divisible), [i.shape[-2:] for i in images])

    def features(self, batch: ImageList) -> dict[str, Tensor]:
        """The feature pyramid of a batch: names of levels to maps ``(B, C, h, w)``."""
        return self.network.backbone(batch.tensors)

    def boxes(self, batch: ImageList, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """What the heads find in each image, best first.

        Returns:
            Per image ``boxes`` ``(N, 4)`` in network pixels, ``scores``, ``labels`` from 1 (0 is the background), and
            from Mask R-CNN ``masks`` ``(N, 1, 28, 28)``, probabilities within the boxes.
        """
        proposals, _ = self.network.rpn(batch, features)
        return self.network.roi_heads(features, proposals, batch.image_sizes)[0]

    def regions(self, batch: ImageList, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """What :meth:`boxes` finds, as :meth:`detect` returns it: in original pixels of the photos of the batch."""
        outputs = self.boxes(batch, features)
        return [self._regions(*found) for found in zip(outputs, batch.image_sizes, photos, strict=True)]

    @torch.no_grad()
    def levels(self) -> dict[str, tuple[int, int]]:
        """Channels and stride of each level of :meth:`features` that the network itself pools boxes from.

        Read off the maps of a blank image whose sides every stride divides, so that nothing is rounded.
        """
        side = PROBED_CELLS * self.network.transform.size_divisible
        maps = self.network.backbone(next(self.parameters()).new_zeros(1, 3, side, side))
        pooled = [name for name in self.network.roi_heads.box_roi_pool.featmap_names if name in maps]
        return {name: (maps[name].shape[1], side // maps[name].shape[2]) for name in pooled}

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`: no longer side ever reaches the network."""
        return int(self.network.transform.max_size)

    @property
    def mean(self) -> Tensor:
        """Mean colour ``(3,)`` that is subtracted from RGB, 0 to 1."""
        return torch.tensor(self.network.transform.image_mean)

    @property
    def std(self) -> Tensor:
        """Deviation ``(3,)`` by which what is left is divided."""
        return torch.tensor(self.network.transform.image_std)

    def _network_size(self, photo: Photo) -> tuple[int, int]:
        """``(height, width)`` of what the network sees of a photo: torchvision's rule, but never without a pixel."""
        transform = self.network.transform
        height, width = photo.pixels.shape[1:]
        factor = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        return max(1, math.floor(height * factor)), max(1, math.floor(width * factor))

    def _regions(self, output: dict[str, Tensor], seen: tuple[int, int], photo: Photo) -> Regions:
        factors = (photo.size[0] / seen[0], photo.size[1] / seen[1])
        extras = {}
        if "masks" in output:
            masks = output["masks"][:, 0] >= MASK_THRESHOLD
            # an object of which no cell is sure is attended to as a whole, for nothing could be pooled otherwise
            extras["masks"] = (masks | ~masks.flatten(1).any(1)[:, None, None]).byte()
        return Regions(
            boxes=clip(scale(output["boxes"], factors), photo.size),
            size=photo.size,
            scores=output["scores"],
            labels=output["labels"] - 1,
            classes=self.classes,
            extras=extras,
        ).to("cpu")

    def _load(self, arch: str, weights: str | Path) -> None:
        published = models.get_model_weights(arch)
        named = {**{w.name: w.url for w in published}, "DEFAULT": published.DEFAULT.url}  # type: ignore[attr-defined]
        file = locate(weights, named)
        state = read_weights(file)
        if arch in TRAINED_WITHOUT_EPS and file.name in {url.rsplit("/", 1)[-1] for url in named.values()}:
            add_eps(self.network.backbone.body, state, "backbone.body.")
        found = state.get("roi_heads.box_predictor.cls_score.weight")
        expected = self.network.roi_heads.box_predictor.cls_score.out_features
        if found is not None and len(found) != expected:
            raise ValueError(
                f"{file}: expected weights for {expected - 1} classes, found {len(found) - 1}; "
                f"pass num_classes={len(found) - 1} or their names as classes"
            )
        fill(self.network, state, file)


def add_eps(network: nn.Module, state: dict[str, Tensor], prefix: str = "") -> None:
    """Correct, in place, the scales of batch norms that were trained without the ``eps`` that ``network`` adds.

    ``w' / sqrt(var + eps) = w / sqrt(var)``, so that the network computes what it was trained to, with the ``eps`` that
    every other file expects.
    """
    for name, module in network.named_modules(prefix=prefix.rstrip(".")):
        if isinstance(module, nn.BatchNorm2d) and f"{name}.running_var" in state:
            variance = state[f"{name}.running_var"].double()
            scales = state[f"{name}.weight"].double() * ((variance + module.eps) / variance).sqrt()
            state[f"{name}.weight"] = scales.float()


def _classes(arch: str, num_classes: int | None, classes: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
    if classes is None and num_classes is None:
        classes = models.get_model_weights(arch).DEFAULT.meta["categories"][1:]  # type: ignore[attr-defined]
    if classes is None:
        return checks.whole("num_classes", num_classes or 0), ()
    names = tuple(str(c) for c in classes)
    if num_classes is not None and num_classes != len(names):
        raise ValueError(f"classes: expected {num_classes} names as num_classes says, found {len(names)}")
    return int(checks.positive("number of classes", len(names))), names
