"""Recall of true boxes against the number of regions: proposals of a trained detector beside the rigid grid.

python tools/measure_proposals.py runs/detect_landmarks/model --boxes cleaned/boxes_val.json

The whole photo, which every source of regions has, is left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from objemb.evaluation.region_recall import COUNTS, region_recall
from objemb.models import load_model
from objemb.ops.batches import batched
from objemb.regions.base import RegionSource
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.rpn_proposals import RpnProposals
from objemb.structures import Regions
from objemb.training.data.coco import CocoExamples

#: Photos of a batch.
BATCH = 8


def proposals_of(folder: str, device: str) -> RpnProposals:
    """The proposals of the detector of a model."""
    detector = load_model(folder, device).detector
    if detector is None:
        raise ValueError(f"MODEL: expected a model with a detector, found {folder}, which has none")
    return RpnProposals(detector=detector, max_regions=max(COUNTS))


@torch.no_grad()
def measured(source: RegionSource, examples: CocoExamples) -> dict[str, object]:
    """Recall and the mean number of regions of a source on photos with true boxes."""
    found: list[Regions] = []
    truth: list[Regions] = []
    for numbers in batched(range(len(examples)), BATCH):
        some = [examples[number] for number in numbers]
        found += [regions[1:] for regions in source.find([e.photo for e in some])]
        truth += [e.regions for e in some]
    recall = region_recall(found, truth)
    mean = sum(map(len, found)) / len(found)
    return {"regions": round(mean, 1), **{f"recall_{least}": [round(r, 3) for r in recall[least]] for least in recall}}


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Measure all models and grids, and print the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="model folders with a detector")
    parser.add_argument("--boxes", required=True, type=Path, help="COCO file of the true boxes")
    parser.add_argument("--images", type=Path, help="folder of its photos (default: images beside it, or its own)")
    parser.add_argument("--levels", type=int, nargs="*", default=[2, 3, 4, 5, 6], help="grids of R-MAC to measure")
    parser.add_argument("--size", type=int, default=1333, help="longest side that is decoded (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    examples = CocoExamples(file=args.boxes, images=args.images, side=args.size)
    sources: dict[str, RegionSource] = {name: proposals_of(name, args.device) for name in args.models}
    sources |= {f"grid of {levels} levels": RmacGrid(levels=levels) for levels in args.levels}
    results = {name: measured(source, examples) for name, source in sources.items()}
    report = {"photos": len(examples), "boxes": examples.box_count(), "counts": list(COUNTS), "results": results}
    print(json.dumps(report))
    return report


if __name__ == "__main__":
    main()
