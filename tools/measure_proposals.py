"""Recall of true boxes against the number of regions: proposals of a trained detector beside the rigid grid.

python tools/measure_proposals.py runs/detect_landmarks/model --boxes cleaned/boxes_val.json
python tools/measure_proposals.py runs/seed*/detect/model --boxes test/boxes.json --table
python tools/measure_proposals.py runs/detector/model --boxes test/boxes.json --detections

The whole photo, which every source of regions has, is left out. ``--table`` prints a table instead of JSON, with mean
and standard deviation over several models, such as those of several seeds. ``--detections`` adds the boxes of the whole
detector, best first, and its average precision; a detector that was trained with ``only_proposals`` has none to speak
of.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from objemb.detectors.capabilities import NetworkDetector
from objemb.evaluation.average_precision import coco_average_precision
from objemb.evaluation.region_recall import COUNTS, IOUS, region_recall
from objemb.models import load_model
from objemb.ops.batches import batched
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.rpn_proposals import RpnProposals
from objemb.structures import Regions
from objemb.training.data.coco import CocoExamples

#: Photos of a batch.
BATCH = 8
#: Detections of a photo that are measured, as in COCO's own metrics.
MOST = 100
#: Names of sources in the report.
PROPOSALS, DETECTIONS, GRID = "proposals", "detections", "grid"


@dataclass(frozen=True)
class Measured:
    """Figures of a source of regions.

    Attributes:
        regions: Mean number of regions of a photo.
        recall: By IoU, the recall at each of the counts, 0 to 1.
    """

    regions: float
    recall: dict[float, list[float]]

    def to_json(self) -> dict[str, object]:
        """With three decimals."""
        rounded = {f"recall_{least}": [round(r, 3) for r in self.recall[least]] for least in self.recall}
        return {"regions": round(self.regions, 1), **rounded}


def detector_of(folder: str, device: str) -> NetworkDetector:
    """The detector of a model."""
    detector = load_model(folder, device).detector
    if not isinstance(detector, NetworkDetector):
        raise ValueError(f"MODEL: expected a model with a detector, found {folder}, which has none")
    return detector


def measured(found: Sequence[Regions], truth: Sequence[Regions]) -> Measured:
    """Recall and the mean number of regions of photos with true boxes."""
    return Measured(sum(map(len, found)) / len(found), region_recall(found, truth))


@torch.no_grad()
def regions_and_truth(source: RegionSource, examples: CocoExamples) -> tuple[list[Regions], list[Regions]]:
    """The regions that a source finds in each photo, without the whole photo, and the true boxes."""
    found: list[Regions] = []
    truth: list[Regions] = []
    for numbers in batched(range(len(examples)), BATCH):
        some = [examples[number] for number in numbers]
        found += [regions[1:] for regions in source.find([e.photo for e in some])]
        truth += [e.regions for e in some]
    return found, truth


def markdown(results: dict[str, Measured], models: Sequence[str]) -> str:
    """A table in percent, a row for each source and IoU. The proposals of several models share a row."""
    rows: list[tuple[str, list[Measured]]] = []
    for kind in (PROPOSALS, DETECTIONS):
        of_models = [results[key] for key in (f"{kind} of {model}" for model in models) if key in results]
        if of_models:
            networks = f" of {len(of_models)} networks" if len(of_models) > 1 else ""
            rows.append((kind + networks, of_models))
    rows += [(name, [figures]) for name, figures in results.items() if name.startswith(GRID)]
    lines = [f"| regions | IoU | {' | '.join(map(str, COUNTS))} |", "|---|---|" + "---:|" * len(COUNTS)]
    for least in IOUS:
        for name, figures in rows:
            regions = statistics.mean(f.regions for f in figures)
            cells = [
                spread([f.recall[least][place] for f in figures]) if not place or COUNTS[place - 1] < regions else ""
                for place in range(len(COUNTS))
            ]
            lines.append(f"| {name} ({regions:.0f}) | {least} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Measure all models and grids, and print the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folders with a detector")
    parser.add_argument("--boxes", required=True, type=Path, help="COCO file of the true boxes")
    parser.add_argument("--images", type=Path, help="folder of its photos (default: images beside it, or its own)")
    parser.add_argument("--levels", type=int, nargs="*", default=[2, 3, 4, 5, 6], help="grids of R-MAC to measure")
    parser.add_argument("--size", type=int, default=1333, help="longest side that is decoded (default: %(default)s)")
    parser.add_argument("--detections", action="store_true", help="measure the boxes of the whole detector as well")
    parser.add_argument("--table", action="store_true", help="print a table in Markdown, not JSON")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    examples = CocoExamples(file=args.boxes, images=args.images, side=args.size)
    results: dict[str, Measured] = {}
    precision: dict[str, dict[str, float]] = {}
    for name in args.models:
        detector = detector_of(name, args.device)
        source = RpnProposals(detector=detector, max_regions=max(COUNTS))
        results[f"{PROPOSALS} of {name}"] = measured(*regions_and_truth(source, examples))
        if args.detections:
            every = Detections(detector=detector, min_score=None, nms_iou=1, max_regions=MOST)
            found, truth = regions_and_truth(every, examples)
            results[f"{DETECTIONS} of {name}"] = measured(found, truth)
            figures = coco_average_precision(found, truth, class_agnostic=True, max_detections=MOST)
            precision[name] = {key: round(value, 3) for key, value in figures.items()}
    for levels in args.levels:
        results[f"{GRID} of {levels} levels"] = measured(*regions_and_truth(RmacGrid(levels=levels), examples))
    report: dict[str, object] = {"photos": len(examples), "boxes": examples.box_count(), "counts": list(COUNTS)}
    report |= {"results": {name: figures.to_json() for name, figures in results.items()}, "precision": precision}
    print(markdown(results, args.models) if args.table else json.dumps(report))
    return report


if __name__ == "__main__":
    main()
