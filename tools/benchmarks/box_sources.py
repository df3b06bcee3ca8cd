"""Several sources of regions for the photos of an evaluation set: their box files, and what is found with them.

    python -m tools.benchmarks.box_sources --set SET.json --detector MODEL [--backbone mobilenet_v2.pth]
        [--teacher TEACHER] [--every 2] -o boxes

The files hold, for each database photo, the boxes that an index would have beside the whole photo; what is printed is
the mean number of rows a photo, the whole photo included, and the number of photos without boxes. With ``--teacher``,
which describes each box once, also the share of the objects that a row covers, mAP, P@1, the share of the queries for
which a right photo is among the first ten, the mAP of photos whose object no row covers (the others left out), and that
of the photos whose object no detection covers, whatever other rows a source adds to them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.coco.files import OBJECT
from objemb.coco.writing import AnnotatedImage, AnnotatedObject, write_instances
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.detectors.activation_components import ActivationComponents
from objemb.detectors.capabilities import NetworkDetector
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.evaluation.coverage import Coverage, cover
from objemb.evaluation.described import DescribedTask, describe_entries, describe_images, only_vectors
from objemb.evaluation.evaluate import Evaluation, evaluate_described
from objemb.evaluation.retrieval_task import RetrievalTask, make_task
from objemb.images.decode import read_photo
from objemb.models import load_model
from objemb.ops.grid import Grid
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.regions.patchify import Patchify
from objemb.regions.rpn_proposals import RpnProposals
from objemb.regions.union import Union
from objemb.regions.whole_image import WholeImage
from objemb.structures import ImageRows, Photo, Regions
from objemb.types import Int64Array

#: Boxes per photo of sources that would give any number of them.
MOST = 20
#: Boxes per photo up to which those of a second source are added to the detections, and the IoU with a detection up to
#: which they are.
FEW, APART = 8, 0.5
#: Share of the queries for which a right photo is among the first ten.
FOUND = "R@10"


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
        "detector_and_proposals": Union(of=[detections, proposals], nms_iou=APART, max_regions=FEW),
        "proposals": proposals,
        "patches": patches,
        "whole": WholeImage(),
    }
    if backbone is not None:
        network = TorchvisionCnn("mobilenet_v2", weights=str(backbone))
        components = ActivationComponents(backbone=network)
        activations = Found(Detections(detector=components, min_score=0, max_regions=MOST))
        looking.append(activations)
        named |= {
            "detector_or_activations": filled(activations),
            "detector_and_activations": Union(of=[detections, activations], nms_iou=APART, max_regions=FEW),
            "activations": activations,
        }
    return looking, named


def annotated(file: str, regions: Regions) -> AnnotatedImage:
    """The boxes of a photo, without the whole photo, which is always described."""
    pairs = zip(regions.boxes[1:].tolist(), regions.scores[1:].tolist(), strict=True)
    return AnnotatedImage(file, regions.size, [AnnotatedObject(box, OBJECT, {"score": score}) for box, score in pairs])


def every_box(found: Sequence[Sequence[AnnotatedImage]]) -> tuple[list[AnnotatedImage], list[list[Int64Array]]]:
    """The different boxes of each photo, and the positions there of those of each source.

    Args:
        found: For each source the photos, in one order.
    """
    photos, positions = [], list[list[Int64Array]]()
    for of_sources in zip(*found, strict=True):
        numbers: dict[tuple[float, ...], int] = {}
        of_photo = []
        for image in of_sources:
            own = [numbers.setdefault(tuple(one.box), len(numbers)) for one in image.objects]
            of_photo.append(np.array(own, np.int64))
        image = of_sources[0]
        photos.append(AnnotatedImage(image.file_name, image.size, [AnnotatedObject(box, OBJECT) for box in numbers]))
        positions.append(of_photo)
    return photos, [[of_photo[n] for of_photo in positions] for n in range(len(found))]


def rows_with(rows: ImageRows, positions: Sequence[Int64Array]) -> ImageRows:
    """The row of each whole photo, and those of some of its boxes, whose positions among its boxes are given."""
    starts = rows.starts[:-1].tolist()
    kept = np.concatenate([np.r_[start, start + 1 + own] for start, own in zip(starts, positions, strict=True)])
    return ImageRows(rows.images, rows.vectors[kept], rows.items[kept], rows.boxes[kept])


def evaluated(
    data: EvaluationSet, task: RetrievalTask, teacher: Path, found: Sequence[Sequence[AnnotatedImage]], folder: Path
) -> list[tuple[Evaluation, Coverage]]:
    """What is found with the boxes of each source, each box of which is described once; and what the rows of the first
    source cover of it."""
    model, (photos, positions) = load_model(teacher), every_box(found)
    write_instances(folder / "every.json", photos, [OBJECT])
    of_photos, problems = describe_images(model, data, task.database, boxes=StoredBoxes(folder / "every.json"))
    of_queries, _ = describe_entries(model, data, task.queries, crop=data.crop)
    rows, queries = only_vectors("box sources", of_photos), only_vectors("box sources", of_queries)
    if problems or (np.diff(rows.starts) != [1 + len(photo.objects) for photo in photos]).any():
        raise SystemExit(f"--teacher: expected a row for each box, found others {problems[:3]}")
    first, answered = rows_with(rows, positions[0]), set(queries.items.tolist())
    measured = []
    for own in positions:
        result = evaluate_described(DescribedTask(rows_with(rows, own), queries), data, task)
        measured.append((result, cover(task, first, result.ranked, answered, data.objects)))
    return measured


def cells(result: Evaluation, of_detections: Coverage) -> str:
    """The cells of an evaluation in the table."""
    means, recall, own = result.scores.means, math.nan, math.nan
    if result.coverage is not None:
        recall, own = result.coverage.recall, result.coverage.missed_map
    shares = (recall, means["mAP"], means["P@1"], means[FOUND], own, of_detections.missed_map)
    counts = (result.scores.queries, of_detections.missed_queries)
    return " | ".join([*(f"{100 * share:.1f}" for share in shares), *map(str, counts)])


def main() -> None:
    """Write the files, and print the numbers of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--detector", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--backbone", type=Path, help="weights of MobileNetV2, for activation components")
    parser.add_argument("--teacher", type=Path, metavar="MODEL", help="a model that describes given boxes")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th photo and query")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    data = read_evaluation_set(args.set)
    whole = make_task(data, "image")
    asked = replace(whole.protocol, metrics=tuple(dict.fromkeys((*whole.protocol.metrics, FOUND))))
    database, queries = whole.database[:: args.every], whole.queries[:: args.every]
    task = replace(whole, database=database, queries=queries, protocol=asked)
    files = [entry.file for entry in task.database]
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
    lines = {}
    for name, images in found.items():
        boxes = write_instances(args.output / f"{name}.json", images, [OBJECT])
        empty = sum(not image.objects for image in images)
        lines[name] = f"| {name} | {1 + boxes / len(images):.2f} | {empty} of {len(images)} |"
    columns = ["regions", "rows a photo", "photos without boxes"]
    if args.teacher is not None:
        columns += ["box recall", "mAP", "P@1", FOUND, "mAP without a row", "mAP without a detection"]
        columns += ["queries", "queries without a detection"]
        measured = evaluated(data, task, args.teacher, list(found.values()), args.output)
        for name, result in zip(found, measured, strict=True):
            lines[name] += f" {cells(*result)} |"
    print(f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|", *lines.values(), sep="\n")


if __name__ == "__main__":
    main()
