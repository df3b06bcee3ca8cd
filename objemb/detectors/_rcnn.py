"""The common base of Faster and Mask R-CNNs with torchvision's heads."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops.poolers import initLevelMapper

from objemb import checks
from objemb.detectors._outputs import photo_regions
from objemb.detectors._rcnn_losses import proposal_losses, rcnn_losses
from objemb.detectors._rcnn_program import RcnnProgram
from objemb.detectors.capabilities import TRUNK, NetworkDetector, NetworkInput
from objemb.ops.batches import group_equal
from objemb.ops.tensors import as_tensor
from objemb.structures import Photo, Regions
from objemb.weights.fill import fill, of_module

#: Layers with an output for each class.
OF_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")


class Rcnn(NetworkDetector):
    """Faster R-CNN, or Mask R-CNN, whose masks become the extra ``masks``.

    Photos that reach the network in the same padded shape share a forward pass, and only those: a photo's boxes do not
    depend on which photos are detected with it (up to rounding in the last digits).

    Attributes:
        network: ``transform``, ``backbone`` with its pyramid ``fpn``, ``rpn`` and ``roi_heads``, as torchvision's
            ``GeneralizedRCNN`` has them.
    """

    network: GeneralizedRCNN

    @abstractmethod
    def _trunk(self, pixels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One pass of the trunk: the maps that the pyramid is built on, and the trunk levels by name."""

    @property
    def _padding(self) -> Tensor:
        """``(3,)``: the colour of the padding, in the units of the network's input."""
        return torch.zeros(3)

    def groups(self, photos: Sequence[Photo]) -> list[list[int]]:
        """See :meth:`NetworkDetector.groups`."""
        return group_equal(self._padded_size([self.network_size(_decoded(photo))]) for photo in photos)

    def preprocess(self, photos: Sequence[Photo]) -> NetworkInput:
        """See :meth:`NetworkDetector.preprocess`."""
        device = next(self.parameters()).device
        sizes = [self.network_size(_decoded(photo)) for photo in photos]
        height, width = self._padded_size(sizes)
        tensors = self._padding.to(device)[None, :, None, None].repeat(len(photos), 1, height, width)
        tensors = tensors.contiguous(memory_format=torch.channels_last)  # at least 10 % faster on a CPU
        for tensor, photo, (h, w) in zip(tensors, photos, sizes, strict=True):
            pixels = self.network.transform.normalize(as_tensor(photo.pixels).to(device).float() / 255)[None]
            tensor[:, :h, :w] = F.interpolate(pixels, (h, w), mode="bilinear", align_corners=False)[0]
        return NetworkInput(tensors, sizes)

    def normalised(self, pixels: Tensor) -> NetworkInput:
        """See :meth:`NetworkDetector.normalised`."""
        height, width = pixels.shape[2:]
        tensors = self.network.transform.normalize(pixels).contiguous(memory_format=torch.channels_last)
        return NetworkInput(tensors, [(height, width)] * len(pixels))

    def features(self, batch: NetworkInput) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.features`; includes the pyramid levels that are for proposals only."""
        below, trunk = self._trunk(batch.tensors)
        return {**self.network.backbone.fpn(below), **trunk}

    def boxes(self, batch: NetworkInput, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """The detections of the heads in each image, best first.

        Returns:
            For each image ``boxes`` ``(N, 4)`` in network pixels, ``scores``, ``labels`` from 1 (0 is the background),
            and from Mask R-CNN ``masks`` ``(N, 1, 28, 28)``, probabilities within the boxes.
        """
        with _full_precision(features) as pyramid:
            proposals, _ = self.network.rpn(batch, pyramid)
            detections: list[dict[str, Tensor]] = self.network.roi_heads(pyramid, proposals, batch.image_sizes)[0]
            return detections

    def regions(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`NetworkDetector.regions`."""
        return [
            photo_regions(
                output["boxes"],
                input_size,
                photo,
                scores=output["scores"],
                labels=output["labels"] - 1,
                classes=self.classes,
                masks=output["masks"][:, 0] if "masks" in output else None,
            )
            for output, input_size, photo in zip(self.boxes(batch, features), batch.image_sizes, photos, strict=True)
        ]

    @torch.no_grad()
    def proposals(self, batch: NetworkInput, features: dict[str, Tensor], photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`NetworkDetector.proposals`."""
        with _full_precision(features) as pyramid:
            boxes, _ = self.network.rpn(batch, pyramid)
        return [
            photo_regions(of_photo, input_size, photo)
            for of_photo, input_size, photo in zip(boxes, batch.image_sizes, photos, strict=True)
        ]

    def losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions], photos: Sequence[Photo]
    ) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.losses`, and :func:`~objemb.detectors._rcnn_losses.rcnn_losses` for the terms."""
        with _full_precision(features) as pyramid:
            return rcnn_losses(self.network, batch, pyramid, targets)

    def proposal_losses(
        self, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions]
    ) -> dict[str, Tensor]:
        """See :meth:`NetworkDetector.proposal_losses`: ``loss_objectness`` and ``loss_rpn_box_reg``."""
        with _full_precision(features) as pyramid:
            return proposal_losses(self.network, batch, pyramid, targets)

    def program(self) -> RcnnProgram:
        """See :meth:`NetworkDetector.program`."""
        levels = self.levels()
        return RcnnProgram(self.network, {name: levels[name][1] for name in self.pyramid}, self._padding.cpu())

    @property
    def num_classes(self) -> int:
        """See :attr:`NetworkDetector.num_classes`."""
        return int(self.network.roi_heads.box_predictor.cls_score.out_features) - 1

    def decode_side(self) -> int:
        """See :meth:`Detector.decode_side`: the network's input never has a longer side."""
        return int(self.network.transform.max_size)

    def _set_scales(self) -> None:
        """Set the scale of each level that boxes are pooled from. Otherwise torchvision infers it from the first photo,
        which is wrong if it is tiny, and keeps it for all others."""
        strides = [self.levels()[name][1] for name in self.pyramid]
        first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
        for pool in (self.network.roi_heads.box_roi_pool, self.network.roi_heads.mask_roi_pool):
            if pool is not None:
                pool.scales = [1 / stride for stride in strides]
                pool.map_levels = initLevelMapper(first, last, pool.canonical_scale, pool.canonical_level)

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See :meth:`NetworkDetector.network_size`: torchvision's rule, with at least one pixel a side."""
        transform = self.network.transform
        height, width = size
        factor = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        return max(1, math.floor(height * factor)), max(1, math.floor(width * factor))

    def _padded_size(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        multiple = self.network.transform.size_divisible
        height, width = (math.ceil(max(sides) / multiple) * multiple for sides in zip(*sizes, strict=True))
        return height, width

    def _fill(self, state: Mapping[str, Tensor], file: Path, new_classes: bool) -> None:
        """Fill the network with the weights of a whole detector, or of a model that contains it.

        With ``new_classes``, the layers with an output for each class keep their values.
        """
        state = of_module(self.network, state, file)
        if checks.flag("new_classes", new_classes):
            own = {k: v for k, v in self.network.state_dict().items() if k.startswith(OF_CLASSES)}
            state = {**state, **own}
        weights = state.get("roi_heads.box_predictor.cls_score.weight")
        if weights is not None and len(weights) != self.num_classes + 1:
            raise ValueError(
                f"{file}: expected weights for {self.num_classes} classes, found {len(weights) - 1}; "
                f"pass num_classes={len(weights) - 1} or their names as classes, "
                "or new_classes=True to train for other classes"
            )
        fill(self.network, state, file)


def _decoded(photo: Photo) -> tuple[int, int]:
    """``(height, width)`` of the pixels of a photo."""
    return photo.pixels.shape[1], photo.pixels.shape[2]


@contextmanager
def _full_precision(features: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The levels of the pyramid in float32, for the heads, whatever the precision of the backbone.

    The heads compute boxes in the precision of the maps, and half precision would shift them by pixels.
    """
    pyramid = {name: level.float() for name, level in features.items() if not name.startswith(TRUNK)}
    with torch.autocast(next(iter(pyramid.values())).device.type, enabled=False):
        yield pyramid


def counted_classes(num_classes: int | None, classes: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
    """The number and names of classes, from the number or the names.

    Raises:
        ValueError: Neither is given, or they do not match.
    """
    if classes is None:
        return checks.whole("num_classes", num_classes or 0), ()
    names = tuple(str(c) for c in classes)
    if num_classes is not None and num_classes != len(names):
        raise ValueError(f"classes: expected {num_classes} names as num_classes says, found {len(names)}")
    return int(checks.positive("number of classes", len(names))), names
