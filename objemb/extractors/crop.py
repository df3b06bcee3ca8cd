"""The accurate extractor: every region is cut out of the photo and passes through the network separately."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.extractors._program import CropProgram
from objemb.extractors.base import Extractor, Features, masks_of
from objemb.ops.boxes import scale as scale_boxes
from objemb.ops.boxes import windows
from objemb.ops.images import nearest_multiple, resize
from objemb.ops.masks import coverage
from objemb.ops.tensors import as_tensor
from objemb.pooling.base import Pooling
from objemb.registry import plugin
from objemb.structures import Photo, Regions

FITS = ("squash", "pad", "keep")
#: Mean colour of photos (ImageNet), RGB, which networks normalise to about zero.
MEAN_COLOUR = (124, 116, 104)


@plugin
class Crop(Extractor):
    """Cuts regions out, resizes them and pools the whole map of each. The whole image is a crop like any other.

    Crops of all photos share batches, so that ``batch`` limits the memory.

    Args:
        size: Side of the network's input in pixels.
        margin: Share of a box's width and height that is added on each side, within the photo.
        fit: ``"squash"`` resizes every crop to a square; ``"pad"`` keeps the aspect ratio on a square canvas of the
            background colour; ``"keep"`` keeps it without a canvas: the longest side is ``size``, and the other is
            shorter by whole strides of the network, so that there are few different shapes.
        batch: Crops per forward pass; small batches suit the caches of a CPU, an accelerator needs 32 and more.
        masks: Whether pixels outside a region's mask are filled with the background colour.
        background: The background colour, RGB from 0 to 255.
    """

    cuts_out = True

    def __init__(
        self,
        *,
        size: int = 225,
        margin: float = 0.0,
        fit: str = "squash",
        batch: int = 8,
        masks: bool = False,
        background: Sequence[int] = MEAN_COLOUR,
    ) -> None:
        self.size = checks.positive("size", size)
        self.margin = checks.between("margin", margin, 0, 10)
        self.fit = checks.one_of("fit", fit, FITS)
        self.batch = checks.whole("batch", batch)
        self.masks = checks.flag("masks", masks)
        if len(checks.several("background", background)) != 3:
            raise ValueError(f"background: expected three numbers (red, green, blue), found {background!r}")
        self.background = tuple(int(checks.between("background", b, 0, 255)) for b in background)
        self._colour = torch.tensor(self.background, dtype=torch.uint8)[:, None, None]

    def extract(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Features:
        """See :meth:`Extractor.extract`. Nothing is computed before the regions are known."""
        return _CropFeatures(self, photos, backbone, checks.positive("scale", scale))

    def decode_side(self, scale: float = 1.0) -> int | None:
        """None: full resolution, because a small object needs all its pixels."""
        return None

    def pass_shapes(self, photo: Photo, regions: Regions) -> Hashable:
        """See :meth:`Extractor.pass_shapes`. Crops are squares, unless they keep their aspect ratio."""
        return len(regions) if self.fit != "keep" else (photo.pixels.shape, regions.boxes.tobytes())

    def cut(self, photo: Photo, regions: Regions, backbone: Backbone, scale: float = 1.0) -> Iterator[Tensor]:
        """See :meth:`Extractor.cut`."""
        side = nearest_multiple(self.size * scale, backbone.multiple, backbone.smallest)
        boxes = scale_boxes(as_tensor(regions.boxes), photo.scale)
        pixels = as_tensor(photo.pixels)
        height, width = pixels.shape[1:]
        cuts = windows(boxes, (height, width), self.margin)
        insides = (windows(boxes, (height, width)) - cuts[:, [0, 1, 0, 1]]).float()
        masks = masks_of(regions) if self.masks else None
        for i, (x1, y1, x2, y2) in enumerate(cuts.tolist()):
            cut = pixels[:, y1:y2, x1:x2]
            if masks is not None:
                cut = self._filled(cut, masks[i : i + 1], insides[i : i + 1])
            yield self._fitted(cut, side, backbone)

    def program(self, backbone: Backbone, scale: float = 1.0) -> CropProgram:
        """See :meth:`Extractor.program`."""
        if self.masks:
            raise TypeError("extractor: expected masks: false for an exported model, whose boxes have none, found true")
        if self.fit == "keep":
            raise TypeError(
                "extractor: expected a fit whose crops are squares (squash, pad) for an exported model, found 'keep'"
            )
        side = nearest_multiple(self.size * scale, backbone.multiple, backbone.smallest)
        return CropProgram(backbone, side, self.margin, self.fit == "pad", self._colour[:, 0, 0].float() / 255)

    def _filled(self, cut: Tensor, mask: Tensor, box: Tensor) -> Tensor:
        """The crop with the background colour outside the mask over ``box``; an empty mask changes nothing."""
        share = coverage(mask, box, (cut.shape[1], cut.shape[2]))
        if not bool(share.any()):
            return cut
        colour = self._colour.float()
        return (colour + (cut.float() - colour) * share).round().byte()

    def _fitted(self, cut: Tensor, side: int, backbone: Backbone) -> Tensor:
        """The crop at the size of the network's input."""
        if self.fit == "squash":
            return resize(cut, (side, side))
        factor = side / max(cut.shape[1:])
        height, width = (s * factor for s in cut.shape[1:])
        if self.fit == "keep":
            return resize(cut, (_shortened(height, side, backbone), _shortened(width, side, backbone)))
        return self._padded(resize(cut, (nearest_multiple(height), nearest_multiple(width))), side)

    def _padded(self, image: Tensor, side: int) -> Tensor:
        """The image in the middle of a square canvas."""
        height, width = image.shape[1:]
        top, left = (side - height) // 2, (side - width) // 2
        canvas = self._colour.expand(3, side, side).clone()
        canvas[:, top : top + height, left : left + width] = image
        return canvas


class _CropFeatures(Features):
    """Photos whose regions are cut out when they are pooled."""

    def __init__(self, crop: Crop, photos: Sequence[Photo], backbone: Backbone, scale: float) -> None:
        self._crop, self._photos, self._backbone, self._scale = crop, photos, backbone, scale

    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """See :meth:`Features.pool`."""
        length, device = pooling.length(self._backbone.channels), self._backbone.device
        pooled = [torch.zeros(len(r), length, device=device) for r in regions]
        for places, images in self._batches(regions):
            vectors = pooling(self._backbone.feature_maps(images)).float()
            for (photo, row), vector in zip(places, vectors, strict=True):
                pooled[photo][row] = vector
        return pooled

    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """See :meth:`Features.local_features`. Where crops overlap, the same place is included more than once."""
        features: list[list[Tensor]] = [[] for _ in regions]
        for places, images in self._batches(regions):
            maps = self._backbone.feature_maps(images)
            whole = torch.tensor([[n, 0, 0, maps.shape[3], maps.shape[2]] for n in range(len(maps))])
            for (photo, _), map_, counted in zip(places, maps, pooling.counted(maps, whole), strict=True):
                features[photo].append(map_[:, counted].T)
        none = torch.zeros(0, self._backbone.channels, device=self._backbone.device)
        return [torch.cat([none, *parts]) for parts in features]

    def _batches(self, regions: Sequence[Regions]) -> Iterator[tuple[list[tuple[int, int]], list[Tensor]]]:
        """Batches of (photo, row) and network inputs of one shape; at most one batch of each shape is in memory."""
        waiting: dict[tuple[int, ...], tuple[list[tuple[int, int]], list[Tensor]]] = {}
        for photo, of_photo in enumerate(regions):
            cuts = self._crop.cut(self._photos[photo], of_photo, self._backbone, self._scale)
            for row, image in enumerate(cuts):
                places, images = waiting.setdefault(tuple(image.shape), ([], []))
                places.append((photo, row))
                images.append(image)
                if len(images) == self._crop.batch:
                    yield waiting.pop(tuple(image.shape))
        yield from waiting.values()


def _shortened(length: float, side: int, backbone: Backbone) -> int:
    """The full side minus a whole number of strides, as near to ``length`` as possible."""
    strides = math.floor((side - length) / backbone.stride + 0.5)
    return nearest_multiple(side - strides * backbone.stride, backbone.multiple, backbone.smallest)
