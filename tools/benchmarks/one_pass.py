"""What boxes and vectors from one pass cost, beside the bare detector and beside teachers that need further passes.

All sides start with the same detector and describe the same boxes of the same photo, so many on every side by
construction: with random weights a detector finds nothing that is worth describing. Its proposals, box head and
suppression run all the same; what they find is thrown away.

What comes after the detector is timed right behind it, round after round, and added to the detector's own time of that
round. The detector is thus the same on both sides of a ratio, and does not blur it.
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

#: Networks; ``(height, width)`` of photos as detector and second pass see them, that of COCO and one of few pixels; the
#: side of a crop in pixels; counts.
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
    """Heads over their detectors, and two kinds of teacher over the student."""
    for size in sizes["photos"]:
        yield from _with_teachers(sizes, size, seed)
        yield from _mobile(sizes, size, seed)
        yield from _every_size(sizes, size, seed)


@torch.no_grad()
def _with_teachers(sizes: Mapping[str, Any], size: tuple[int, int], seed: int) -> Iterator[Ratio]:
    """A detector with its heads, and the classification network of the same trunk."""
    photo, boxes = noise(size, seed), scattered(sizes["boxes"], size, seed)
    network = TorchvisionCnn(arch=sizes["network"])
    heads = {HEAD: EmbeddingHead(), f"tail of {sizes['network']} from stride 16": _tail(network, 16)}
    detector = TorchvisionRcnn(sizes["detector"], min_size=min(size), max_size=max(size))
    parts = _Parts(detector, {n: OnePass(detector=detector, head=h) for n, h in heads.items()}, photo, boxes)
    looks = {MAP: Map(size=max(size), sampling="aligned"), CROPS: Crop(size=sizes["crop"])}
    teachers = {
        name: PooledRegions(regions=WholeImage(), backbone=network, extractor=look, pooling=Gem())
        for name, look in looks.items()
    }
    describe = {name: lambda t=teacher: t.describe([photo], [boxes]) for name, teacher in teachers.items()}
    times = alternate({BARE: parts.detect, **parts.heads, **describe}, sizes["rounds"])
    facts, seen = {"boxes": len(boxes)}, f"{size[1]} x {size[0]}"
    for name in heads:
        label = f"{sizes['detector']} with {name} over without, {seen}"
        yield ratio(label, _sum(times, name), times[BARE], "<= 1.06" if name == HEAD else "", **facts)
    for name, wanted in ((MAP, ">= 1.3"), (CROPS, ">= 2.4")):
        label = f"two passes ({name}, {sizes['network']}) over one pass, {seen}"
        yield ratio(label, _sum(times, name), _sum(times, HEAD), wanted, **facts)


@torch.no_grad()
def _mobile(sizes: Mapping[str, Any], size: tuple[int, int], seed: int) -> Iterator[Ratio]:
    """A small network, and its own upper stages as the head."""
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
    """Objects of all sizes and the whole photo, seen as large as the head has learned them, over as large as they are.

    What that costs is beside a pass of the same networks, and beside what a pass took before batch norms were folded.
    On a detector of torchvision's width, and on the light one of ``configs/train/distill_products.yaml``.
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
        label, seen = f"{kind} on mobilenet_v2 with its tail", f"{size[1]} x {size[0]}"
        windows, none = _sum(times, "windows"), _sum(times, "none")
        yield ratio(
            f"{label}, objects of every size with windows over without, {seen}", windows, none, boxes=len(boxes)
        )
        before = [first + second for first, second in zip(*(times[name] for name in plain), strict=True)]
        label = f"{label}, with windows over without and with norms that are not folded, {seen}"
        yield ratio(label, windows, before, "<= 1.15", boxes=len(boxes))


def _unfolded(part: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with unfolded():
            part()

    return run


class _Parts:
    """A detector, and students that go on from the maps that it has just computed."""

    def __init__(
        self, detector: NetworkDetector, students: Mapping[str, OnePass], photo: Photo, boxes: Regions
    ) -> None:
        self._detector, self._photo = detector, photo
        self.heads = {
            name: lambda s=student: s.embed_boxes([photo], [boxes], self._batch, self._maps)
            for name, student in students.items()
        }

    def detect(self) -> None:
        """All that a detector does to a photo."""
        self._batch = self._detector.preprocess([self._photo])
        self._maps = self._detector.features(self._batch)
        self._detector.regions(self._batch, self._maps, [self._photo])


def noise(size: tuple[int, int], seed: int) -> Photo:
    """A photo of ``(height, width)``; the weights that are drawn next depend on the seed as well."""
    torch.manual_seed(seed)
    return Photo("noise", torch.randint(256, (3, *size), dtype=torch.uint8).numpy(), size)


def scattered(count: int, size: tuple[int, int], seed: int) -> Regions:
    """Boxes of sides from a tenth to a half of the photo's, anywhere in it."""
    generator = torch.Generator().manual_seed(seed)
    sides = 0.1 + 0.4 * torch.rand(count, 2, generator=generator)
    corners = (1 - sides) * torch.rand(count, 2, generator=generator)
    height, width = size
    return Regions(torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height, width, height]), size)


def of_every_size(count: int, size: tuple[int, int], seed: int) -> Regions:
    """Boxes whose longer side is 4 to 100 % of the photo's, evenly in the logarithm; the other is at least a third."""
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
    """The detector and what comes behind it, by round."""
    return [first + second for first, second in zip(times[BARE], times[behind], strict=True)]
