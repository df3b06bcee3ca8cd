"""Time of detection and description in one pass, over the detector alone and over teachers that need a second pass.

All variants run the same detector on the same photo and describe the same given boxes, because a detector with random
weights finds nothing worth describing. Its proposals, box head and suppression run all the same; their boxes are
ignored.

In each round, the step after the detector is timed separately and added to the detector's time of that round. The same
time of the detector is thus part of both sides of a ratio and adds no noise to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from objemb.backbones.base import Backbone
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.cli.programs.timing import Ratio, alternate, ratio
from objemb.describers.one_pass import OnePass
from objemb.describers.pooled_regions import PooledRegions
from objemb.detectors.capabilities import NetworkDetector
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.heads.embedding import EmbeddingHead
from objemb.heads.tail import Tail
from objemb.layers.folded import unfolded
from objemb.pooling.gem import Gem
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions

#: Networks; ``(height, width)`` of photos at the input of the detector and of the second pass, once the usual one for
#: COCO and once a small one; the side of a crop in pixels; numbers of boxes and rounds.
FULL = {
    "detector": "fasterrcnn_resnet50_fpn",
    "network": "resnet50",
    "photos": [(800, 1066), (384, 512)],
    "crop": 225,
    "boxes": 20,
    "object": 96,
    "rounds": 5,
}
SMALL = {
    "detector": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "network": "resnet18",
    "photos": [(64, 96)],
    "crop": 32,
    "boxes": 3,
    "object": 32,
    "rounds": 1,
}
#: The detector of ``configs/train/distill_products.yaml``.
LIGHT = {
    "pyramid_strides": [8, 16, 32],
    "channels": 64,
    "anchor_sizes": [[20, 32], [48, 76], [120, 190], [300, 460]],
    "box_width": 256,
    "sampling_ratio": 1,
    "proposals": 200,
}
BARE, HEAD, MAP, CROPS = "detector", "embedding head", "map", "crops"


def run(sizes: Mapping[str, Any], seed: int) -> Iterator[Ratio]:
    """Detectors with heads over the detectors alone, and two kinds of teachers over the student."""
    for size in sizes["photos"]:
        yield from _with_teachers(sizes, size, seed)
        yield from _mobile(sizes, size, seed)
        yield from _every_size(sizes, size, seed)


@torch.no_grad()
def _with_teachers(sizes: Mapping[str, Any], size: tuple[int, int], seed: int) -> Iterator[Ratio]:
    """A detector with each head, and teachers with the classification network of the same trunk."""
    photo, boxes = noise(size, seed), scattered(sizes["boxes"], size, seed)
    network = TorchvisionCnn(arch=sizes["network"])
    heads = {HEAD: EmbeddingHead(), f"tail of {sizes['network']} from stride 16": _tail(network, 16)}
    detector = TorchvisionRcnn(sizes["detector"], min_size=min(size), max_size=max(size))
    parts = _Parts(detector, {n: OnePass(detector=detector, head=h) for n, h in heads.items()}, photo, boxes)
    extractors = {MAP: Map(size=max(size), sampling="aligned"), CROPS: Crop(size=sizes["crop"])}
    teachers = {
        name: PooledRegions(regions=WholeImage(), backbone=network, extractor=extractor, pooling=Gem())
        for name, extractor in extractors.items()
    }
    describe = {name: lambda t=teacher: t.describe([photo], [boxes]) for name, teacher in teachers.items()}
    times = alternate({BARE: parts.detect, **parts.heads, **describe}, sizes["rounds"])
    facts, resolution = {"boxes": len(boxes)}, f"{size[1]} x {size[0]}"
    for name in heads:
        label = f"{sizes['detector']} with {name} over without, {resolution}"
        yield ratio(label, _sum(times, name), times[BARE], "<= 1.06" if name == HEAD else "", **facts)
    for name, wanted in ((MAP, ">= 1.3"), (CROPS, ">= 2.4")):
        label = f"two passes ({name}, {sizes['network']}) over one pass, {resolution}"
        yield ratio(label, _sum(times, name), _sum(times, HEAD), wanted, **facts)


@torch.no_grad()
def _mobile(sizes: Mapping[str, Any], size: tuple[int, int], seed: int) -> Iterator[Ratio]:
    """A detector on a small network, with the upper stages of the network as its head."""
    photo, boxes = noise(size, seed), scattered(sizes["boxes"], size, seed)
    network = TorchvisionCnn(arch="mobilenet_v2")
    name = "tail of mobilenet_v2 from stride 8"
    detector = FasterRcnn(network, min_size=min(size), max_size=max(size))
    parts = _Parts(detector, {name: OnePass(detector=detector, head=_tail(network, 8))}, photo, boxes)
    times = alternate({BARE: parts.detect, **parts.heads}, sizes["rounds"])
    label = f"faster_rcnn on mobilenet_v2 with {name} over without, {size[1]} x {size[0]}"
    yield ratio(label, _sum(times, name), times[BARE], boxes=len(boxes))


@torch.no_grad()
def _every_size(sizes: Mapping[str, Any], size: tuple[int, int], seed: int) -> Iterator[Ratio]:
    """Objects of all sizes and the whole photo, resized to the object size of the head (windows), over unresized.

    Compared with a pass of the same networks without windows, with and without folded batch norms; for a detector of
    torchvision's width and for the light one of ``configs/train/distill_products.yaml``.
    """
    photo = noise(size, seed)
    boxes = Regions.cat([Regions.whole(size), of_every_size(sizes["boxes"], size, seed)])
    for kind, settings in {"faster_rcnn": {}, "light faster_rcnn": LIGHT}.items():
        network = TorchvisionCnn(arch="mobilenet_v2")
        detector = FasterRcnn(network, min_size=min(size), max_size=max(size), **settings)  # type: ignore[arg-type]
        sides = {"windows": sizes["object"], "none": None}
        students = {
            name: OnePass(detector=detector, head=_tail(network, 8), object_side=side) for name, side in sides.items()
        }
        parts = _Parts(detector, students, photo, boxes)
        plain = {"plain detector": _unfolded(parts.detect), "plain": _unfolded(parts.heads["none"])}
        times = alternate({BARE: parts.detect, **parts.heads, **plain}, sizes["rounds"])
        label, resolution = f"{kind} on mobilenet_v2 with its tail", f"{size[1]} x {size[0]}"
        windows, none = _sum(times, "windows"), _sum(times, "none")
        yield ratio(
            f"{label}, objects of every size with windows over without, {resolution}", windows, none, boxes=len(boxes)
        )
        before = [first + second for first, second in zip(*(times[name] for name in plain), strict=True)]
        label = f"{label}, with windows over without windows and without folded norms, {resolution}"
        yield ratio(label, windows, before, "<= 1.15", boxes=len(boxes))


def _unfolded(part: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with unfolded():
            part()

    return run


class _Parts:
    """A detector, and students that describe boxes from the maps that it computed last."""

    def __init__(
        self, detector: NetworkDetector, students: Mapping[str, OnePass], photo: Photo, boxes: Regions
    ) -> None:
        self._detector, self._photo = detector, photo
        self.heads = {
            name: lambda s=student: s.embed_boxes([photo], [boxes], self._batch, self._maps)
            for name, student in students.items()
        }

    def detect(self) -> None:
        """Run the detector on the photo."""
        self._batch = self._detector.preprocess([self._photo])
        self._maps = self._detector.features(self._batch)
        self._detector.regions(self._batch, self._maps, [self._photo])


def noise(size: tuple[int, int], seed: int) -> Photo:
    """A photo of random pixels, of ``(height, width)``. Also seeds the weights that are drawn next."""
    torch.manual_seed(seed)
    return Photo("noise", torch.randint(256, (3, *size), dtype=torch.uint8).numpy(), size)


def scattered(count: int, size: tuple[int, int], seed: int) -> Regions:
    """Boxes a tenth to half as wide and high as the photo, anywhere in it."""
    generator = torch.Generator().manual_seed(seed)
    sides = 0.1 + 0.4 * torch.rand(count, 2, generator=generator)
    corners = (1 - sides) * torch.rand(count, 2, generator=generator)
    height, width = size
    return Regions(torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height, width, height]), size)


def of_every_size(count: int, size: tuple[int, int], seed: int) -> Regions:
    """Boxes whose longer side is 4 to 100 % of the photo's longer side, log-uniformly, with aspect ratios up to 3."""
    generator = torch.Generator().manual_seed(seed)
    longer = max(size) * 0.04 ** torch.rand(count, generator=generator)
    shorter = longer * 3 ** -torch.rand(count, generator=generator)
    wide = torch.rand(count, generator=generator) < 0.5
    sides = torch.stack([torch.where(wide, longer, shorter), torch.where(wide, shorter, longer)], dim=1)
    extent = torch.tensor([size[1], size[0]])
    sides = torch.minimum(sides, extent)
    corners = (extent - sides) * torch.rand(count, 2, generator=generator)
    return Regions(torch.cat([corners, corners + sides], dim=1), size)


def _tail(network: Backbone, stride: int) -> Tail:
    return Tail(backbone=network, pooling=Gem(), stride=stride)


def _sum(times: Mapping[str, Sequence[float]], behind: str) -> list[float]:
    """Seconds of the detector together with the step after it, by round."""
    return [first + second for first, second in zip(times[BARE], times[behind], strict=True)]
