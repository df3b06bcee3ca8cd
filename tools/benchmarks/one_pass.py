"""What boxes and vectors from one pass cost, beside the bare detector and beside teachers that need further passes.

All sides see the same photo and describe the same boxes, so many on every side by construction: with random weights a
detector finds nothing that is worth describing. Its proposals, box head and suppression run all the same on every side;
what they find is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.describers.one_pass import OnePass
from objemb.describers.pooled_regions import PooledRegions
from objemb.detectors.base import NetworkDetector
from objemb.detectors.torchvision_rcnn import TorchvisionRcnn
from objemb.extractors.base import Extractor
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.heads.embedding import EmbeddingHead
from objemb.pooling.gem import Gem
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions
from tools.benchmarks.timing import Ratio, alternate, ratio

#: Sides in pixels: of the photo, of the longest side of the map of the second pass, and of a crop.
FULL = {"height": 800, "width": 1066, "boxes": 20, "map": 1025, "crop": 225, "rounds": 5}
SMALL = {"height": 64, "width": 96, "boxes": 3, "map": 96, "crop": 32, "rounds": 1}


@torch.inference_mode()
def run(sizes: Mapping[str, int], seed: int) -> Iterator[Ratio]:
    """The head over the detector, and two kinds of teacher over the student."""
    torch.manual_seed(seed)
    photo = Photo("noise", torch.randint(256, (3, sizes["height"], sizes["width"]), dtype=torch.uint8), _size(sizes))
    boxes = scattered(sizes["boxes"], photo.size, seed)
    detector = TorchvisionRcnn("fasterrcnn_resnet50_fpn", min_size=min(photo.size), max_size=max(photo.size))
    student = OnePass(detector=detector, head=EmbeddingHead())
    network = TorchvisionCnn(arch="resnet50")
    looks = {"two passes": Map(size=sizes["map"], sampling="aligned"), "crops": Crop(size=sizes["crop"])}
    sides: dict[str, Callable[[], Any]] = {
        "detector": lambda: detect(detector, photo),
        "one pass": lambda: detect_and_embed(student, photo, boxes),
        **{name: _teacher(detector, network, look, photo, boxes) for name, look in looks.items()},
    }
    times = alternate(sides, sizes["rounds"])
    facts = {"boxes": len(boxes), "photo": list(photo.size)}
    yield ratio(
        "detector with embedding head over bare detector", times["one pass"], times["detector"], "<= 1.06", **facts
    )
    wanted = {"two passes": ">= 1.3", "crops": ">= 2.4"}
    for name, look in looks.items():
        label = f"{name} ({type(look).__name__.lower()}, resnet50) over one pass"
        yield ratio(label, times[name], times["one pass"], wanted[name], **facts)


def detect(detector: NetworkDetector, photo: Photo) -> None:
    """All that a detector does to a photo."""
    batch = detector.preprocess([photo])
    detector.regions(batch, detector.features(batch), [photo])


def detect_and_embed(student: OnePass, photo: Photo, boxes: Regions) -> None:
    """The same, and the vectors of given boxes."""
    batch = student.detector.preprocess([photo])
    maps = student.detector.features(batch)
    student.detector.regions(batch, maps, [photo])
    student.embed(batch, maps, [boxes])


def scattered(count: int, size: tuple[int, int], seed: int) -> Regions:
    """Boxes of sides from a tenth to a half of the photo's, anywhere in it."""
    generator = torch.Generator().manual_seed(seed)
    sides = 0.1 + 0.4 * torch.rand(count, 2, generator=generator)
    corners = (1 - sides) * torch.rand(count, 2, generator=generator)
    height, width = size
    return Regions(torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height, width, height]), size)


def _teacher(
    detector: NetworkDetector, network: TorchvisionCnn, look: Extractor, photo: Photo, boxes: Regions
) -> Callable[[], Any]:
    """The detector, and then the boxes through a network of their own."""
    describer = PooledRegions(regions=WholeImage(), backbone=network, extractor=look, pooling=Gem())

    def describe() -> None:
        detect(detector, photo)
        describer.describe([photo], [boxes])

    return describe


def _size(sizes: Mapping[str, int]) -> tuple[int, int]:
    return sizes["height"], sizes["width"]
