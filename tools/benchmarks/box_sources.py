"""Box files of several sources of regions for the photos of an evaluation set.

    python -m tools.benchmarks.box_sources --set SET.json --detector MODEL [--backbone mobilenet_v2.pth] -o boxes
    objemb evaluate TEACHER --set SET.json --boxes boxes/default.json       # and so on

The files hold, for each database photo, the boxes that an index would have beside the whole photo; what is printed is
the mean number of rows a photo, the whole photo included, and the number of photos without boxes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.coco.files import OBJECT
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.detectors.activation_components import ActivationComponents
from objemb.detectors.capabilities import NetworkDetector
from objemb.images.decode import read_photo
from objemb.models import load_model
from objemb.ops.grid import Grid
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.regions.patchify import Patchify
from objemb.regions.rpn_proposals import RpnProposals
from objemb.regions.union import Union
from objemb.structures import Photo, Regions

#: Boxes per photo of sources that would give any number of them.
MOST = 20


class Found(RegionSource):
    """A source whose regions of the present photo have been found already, so that several unions can share them.

    Args:
        source: What finds them.
    """

    def __init__(self, source: RegionSource) -> None:
        super().__init__()
        self.source = source
        self.regions: list[Regions] = []

    def look(self, photo: Photo) -> None:
        """Find the regions of the next photo."""
        self.regions = self.source.find([photo])

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`, of the photo that was looked at."""
        return self.regions


def sources(model: Path, backbone: Path | None) -> tuple[Sequence[Found], Mapping[str, RegionSource]]:
    """What looks at each photo, and the sources by the names of their files.

    Args:
        model: A model folder whose detector gives detections and proposals.
        backbone: Weights of a MobileNetV2 for activation components; None to leave out what uses them.
    """
    detector = load_model(model).detector
    if not isinstance(detector, NetworkDetector):
        raise SystemExit(f"--detector: expected a model with the network of a detector, found {model}")
    detections, patches = Found(Detections(detector=detector)), Found(Patchify(levels=3))
    proposals = Found(RpnProposals(detector=detector, nms_iou=0.5, max_regions=MOST))

    def filled(source: RegionSource) -> Union:
        """As ``hard_attention_union``, with this source where the detector finds nothing."""
        return Union(of=[detections, source], max_regions=MOST, fill_to=1)

    looking = [detections, patches, proposals]
    named: dict[str, RegionSource] = {
        "detector": detections,
        "default": filled(patches),
        "detector_or_proposals": filled(proposals),
        "proposals": proposals,
        "patches": patches,
    }
    if backbone is not None:
        network = TorchvisionCnn("mobilenet_v2", weights=str(backbone))
        components = ActivationComponents(backbone=network)
        activations = Found(Detections(detector=components, min_score=0, max_regions=MOST))
        looking.append(activations)
        named |= {"detector_or_activations": filled(activations), "activations": activations}
    return looking, named


def annotated(file: str, regions: Regions) -> AnnotatedImage:
    """The boxes of a photo, without the whole photo, which is always described."""
    pairs = zip(regions.boxes[1:].tolist(), regions.scores[1:].tolist(), strict=True)
    return AnnotatedImage(file, regions.size, [AnnotatedObject(box, OBJECT, {"score": score}) for box, score in pairs])


def main() -> None:
    """Write the files, and print the numbers of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--detector", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--backbone", type=Path, help="weights of MobileNetV2, for activation components")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    data = read_evaluation_set(args.set)
    files = list(dict.fromkeys(entry.file for entry in data.images))
    looking, named = sources(args.detector, args.backbone)
    side = max(one.source.decode_side() for one in looking)
    found: dict[str, list[AnnotatedImage]] = {name: [] for name in named}
    with torch.no_grad():
        for file in files:
            photo = read_photo(data.photo(file), id=file, side=side)
            for one in looking:
                one.look(photo)
            for name, source in named.items():
                found[name].append(annotated(file, source.find([photo])[0]))
    args.output.mkdir(parents=True, exist_ok=True)
    print("| regions | rows a photo | photos without boxes |", "|---|---:|---:|", sep="\n")
    for name, images in found.items():
        boxes = write_instances(args.output / f"{name}.json", images, [OBJECT])
        empty = sum(not image.objects for image in images)
        print(f"| {name} | {1 + boxes / len(images):.2f} | {empty} of {len(images)} |")


if __name__ == "__main__":
    main()
