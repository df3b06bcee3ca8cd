"""Repeat the experiments of "An analysis of object embeddings for image retrieval" with two networks on a given set.

.. code-block:: console

    objemb analysis CLASSIFICATION DETECTION --set set.json --whiten-on train/ -o analysis/

CLASSIFICATION and DETECTION are model folders or configs (a file, or a name such as ``mac``), optionally followed by
overrides (``mac,backbone.arch=resnet18``). The backbone of the first is compared with the trunk of the second's
detector, which also gives the boxes; both must have the same architecture. The compared layers are the residual blocks
of conv4 and conv5, unless ``--layers`` names others; networks without such blocks are compared at the last map of each
stride. ``analysis.md``, ``analysis.json`` and plots are written to the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from objemb.backbones.base import Backbone
from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.cli.boxes import reporting_boxes, stored_boxes
from objemb.cli.output import note, note_untrained
from objemb.cli.program import Listed, environment
from objemb.cli.programs.analyses.report import analysis_markdown, draw_attention, draw_layers
from objemb.cli.programs.analyses.run import DIMS, MARGIN, Analysis, analyse
from objemb.cli.programs.evaluations.methods import Method
from objemb.datasets.evaluation_set import read_evaluation_set
from objemb.detectors.capabilities import NetworkDetector
from objemb.detectors.stored_boxes import StoredBoxes
from objemb.devices import find_device
from objemb.disk import write_whole
from objemb.evaluation.retrieval_task import LEVELS, make_task, pick_queries
from objemb.models import Model, build_model, load_model
from objemb.regions.base import RegionSource
from objemb.regions.detections import Detections

PROGRAM = "objemb analysis"


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run the program; returns the report that is written as JSON."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse(argv)
    args.device = find_device(args.device)
    data = read_evaluation_set(args.set)
    task = pick_queries(make_task(data, args.level, all_objects_as_queries=args.all_objects_as_queries), args.queries)
    classification, detection = open_model(args.classification, args.device), open_model(args.detection, args.device)
    note_untrained(classification)
    note_untrained(detection)
    detector = detector_of(detection)
    given = stored_boxes(args.whiten_boxes, detection)
    with reporting_boxes(given):
        finished = analyse(
            backbone_of(classification),
            DetectorTrunk(detector=detector).to(args.device),
            data,
            task,
            attention=source_of(detection),
            layers=args.layers,
            whiten_on=args.whiten_on or None,
            whiten_boxes=all_boxes(given),
            size=args.size,
            dims=args.dims,
            margin=args.margin,
            seed=args.seed,
            workers=args.workers,
            on_stage=note,
        )
        if given is not None:
            given.expect_used()
    for line in finished.problems:
        note(line)
    report = {
        "set": {"name": data.name, "file": str(args.set), "level": task.level, "database": len(task.database)},
        "networks": {"classification": described(classification), "detection": described(detection)},
        **finished.to_json(),
        "environment": environment(PROGRAM, argv, device=args.device, seed=args.seed),
    }
    write(report, finished, args.output)
    print(analysis_markdown(finished), end="")
    return report


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="objemb analysis", description=str(__doc__).partition("\n")[0])
    parser.add_argument("classification", metavar="CLASSIFICATION", help="model folder or config; its backbone is used")
    parser.add_argument("detection", metavar="DETECTION", help="model folder or config; its detector is used")
    parser.add_argument("--set", required=True, type=Path, metavar="JSON", help="images, objects and queries")
    parser.add_argument(
        "--level", choices=LEVELS, default="image", help="search for images or objects (default: image)"
    )
    parser.add_argument(
        "--queries", action="append", default=[], metavar="KEY=VALUE", help="use only queries with this value"
    )
    parser.add_argument("--all-objects-as-queries", action="store_true", help="search for every object of the set")
    parser.add_argument(
        "--layers",
        nargs="+",
        action=Listed,
        default=[],
        metavar="NAME",
        help="names such as conv4_1 (default: the layers of the last two stages)",
    )
    whitening = parser.add_mutually_exclusive_group(required=True)
    whitening.add_argument(
        "--whiten-on", nargs="+", action=Listed, type=Path, metavar="PHOTOS", help="fit PCA whitening on these"
    )
    whitening.add_argument(
        "--unwhitened", action="store_true", help="compare vectors without whitening, in all their dimensions"
    )
    parser.add_argument(
        "--whiten-boxes", type=Path, metavar="COCO", help="boxes of these photos (default: the detector's)"
    )
    parser.add_argument("--size", type=int, default=1025, help="longest side in pixels (default: 1025)")
    parser.add_argument(
        "--dims", type=int, nargs="+", action=Listed, default=DIMS, help="dimensions after PCA (default: 64 to 2048)"
    )
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help="difference of mAP that counts as none (default: 0.02)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2, help="decoding threads (default: 2)")
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder for tables and pictures"
    )
    return parser.parse_args(argv)


def open_model(text: str, device: str) -> Model:
    method = Method.parse(text, ())
    if method.settings is None:
        return load_model(method.path, device)
    return build_model(method.settings, device=device)


def backbone_of(model: Model) -> Backbone:
    return model.vector_describer("CLASSIFICATION").needed_backbone("CLASSIFICATION")


def detector_of(model: Model) -> NetworkDetector:
    if not isinstance(model.detector, NetworkDetector):
        found = type(model.detector).__name__ if model.detector else "none"
        raise ValueError(f"DETECTION: expected a model with a detector that is a network, found {found}")
    return model.detector


def all_boxes(given: StoredBoxes | None) -> RegionSource | None:
    """A region source of the whole image and all stored boxes; None if there are no stored boxes."""
    if given is None:
        return None
    return Detections(detector=given, min_score=None, nms_iou=1.0, max_regions=sys.maxsize)


def source_of(model: Model) -> RegionSource:
    if model.describer.regions is None:
        raise ValueError(f"DETECTION: expected a model with regions of its own, found {model!r}")
    return model.describer.regions


def described(model: Model) -> dict[str, object]:
    return {"settings": model.settings, "fingerprint": model.fingerprint, "provenance": model.provenance}


def write(report: dict[str, object], found: Analysis, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "analysis.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "analysis.md", analysis_markdown(found))
    draw_layers(found, folder / "layers.png")
    draw_attention(found, folder / "attention.png")
