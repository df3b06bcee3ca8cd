"""Train a network of Detectron2 with an embedding head, by Detectron2's own trainer.

.. code-block:: console

    python tools/train_detectron2.py --config-file configs/detectron2/products_mobilenet_v2_fpn.yaml \\
        --teacher runs/teacher --train composed/instances_train.json --test composed/instances_val.json \\
        OUTPUT_DIR runs/d2 SOLVER.MAX_ITER 400

Data sets are COCO files (--train, --test, with --images for their photos, by default the folder of each file), or
those of the config, which a module of yours registers (--import). KEY VALUE overrides keys of the config. With
--resume, a run goes on from its last checkpoint; --eval-only evaluates MODEL.WEIGHTS.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from objemb.detectors.detectron2_rcnn import Detectron2Rcnn

PROGRAM = "tools/train_detectron2.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program, on several processes if asked for."""
    args = parse(sys.argv[1:] if argv is None else list(argv))
    Detectron2Rcnn.expect_installed()
    from objemb.training._detectron2 import run_on

    run_on(args.num_gpus, run, (args,))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What each process does; prints and returns the figures of the last evaluation."""
    from objemb.training._detectron2 import prepared, trained

    for module in args.modules:
        importlib.import_module(module)
    cfg, trainer = prepared(
        args,
        args.config_file,
        args.opts,
        teacher=args.teacher,
        train=args.train,
        test=args.test,
        images=args.images,
    )
    figures = trained(cfg, trainer, resume=args.resume, only_evaluate=args.eval_only)
    if figures:
        print(json.dumps(figures))
    return figures


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config of Detectron2")
    parser.add_argument("--teacher", type=Path, metavar="MODEL", help="model folder whose vectors are learned")
    parser.add_argument("--train", type=Path, metavar="FILE.json", help="COCO file to train on")
    parser.add_argument("--test", type=Path, metavar="FILE.json", help="COCO file to evaluate on")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of their photos")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; of CPUs with MODEL.DEVICE cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, without training")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import it first: registers data",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys of the config")
    return parser.parse_intermixed_args(argv)
