"""Find the object of a query in other photos by deep feature factorization, and draw the heat maps.

.. code-block:: console

    objemb factorize query.jpg a.jpg b.jpg backbone.weights=w.pth --box 216,319,334,370 -o out

The query's box and the photos are factorised together. ``DIR/heat.png`` shows every concept on every photo; the concept
that is strongest in the query is framed, with boxes around the regions where it is strong. ``DIR/boxes.json`` has the
boxes, and the share of each photo's activation that this concept explains: where it is small, the object is probably
not in the photo.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from objemb.backbones.base import Backbone
from objemb.cli.boxes import parse_box
from objemb.cli.output import note, note_untrained
from objemb.config import load_config
from objemb.disk import replacing, write_whole
from objemb.extractors.map import Map
from objemb.images.decode import UnreadableImageError, read_photo
from objemb.images.inputs import as_regions
from objemb.models import build_model, load_model
from objemb.ops.factorize import factorize
from objemb.ops.heat import heat_boxes
from objemb.ops.nmf import INITS, Nmf
from objemb.structures import Photo
from objemb.visualize.heat import HeatRow, heat_sheet

PROGRAM = "objemb factorize"
#: An override among the photos.
OVERRIDE = re.compile(r"[\w.]+=")


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    """Run the program; returns the results that are written."""
    args = parse(sys.argv[1:] if argv is None else argv)
    query = read_photo(args.query)
    box = None if args.box is None else parse_box(args.box)
    crop = query if box is None else query.part(as_regions([box], query.size))
    photos = _readable(args.photos)
    rows, chosen = locate(crop, photos, open_backbone(args), args)
    report: dict[str, object] = {
        "query": {"image": query.id, "box": box and list(box)},
        "concept": chosen,
        "photos": [
            {"image": row.photo.id, "box": row.box and list(row.box), "share": round(share_of(row.heat, chosen), 4)}
            for row in rows[1:]
        ],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    with replacing(args.output / "heat.png") as partial:
        heat_sheet(rows, chosen).save(partial)
    write_whole(args.output / "boxes.json", json.dumps(report, indent=2) + "\n")
    print(json.dumps(report))
    return report


def _readable(files: Sequence[str]) -> list[Photo]:
    """Read photos; those that cannot be read are reported and left out."""
    photos = []
    for file in files:
        try:
            photos.append(read_photo(file))
        except UnreadableImageError as error:
            note(f"skipped {error}")
    if not photos:
        raise ValueError(f"PHOTO: expected photos to find the object in, found none of {len(files)} readable")
    return photos


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=str(__doc__).partition("\n")[0])
    parser.add_argument("query", type=Path, metavar="QUERY", help="a photo of the object")
    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO|KEY=VALUE", help="photos to find the object in, and overrides"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="the object in QUERY, in pixels")
    parser.add_argument(
        "--model", default="factorization", help="config or model folder with the network (default: %(default)s)"
    )
    parser.add_argument("--rank", type=int, default=3, help="number of concepts (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="share of the heat that a box contains (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=513, help="longest side of photos (default: %(default)s)")
    parser.add_argument("--query-size", type=int, default=225, help="longest side of the query (default: %(default)s)")
    parser.add_argument("--init", choices=INITS, default="random", help="initialisation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of a random initialisation (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [text for text in args.photos if OVERRIDE.match(text) and not Path(text).exists()]
    args.photos = [Path(text) for text in args.photos if text not in args.overrides]
    if not args.photos:
        parser.error("PHOTO: expected at least one photo beside the query, found none")
    return args


def open_backbone(args: argparse.Namespace) -> Backbone:
    """The network of a method or a model folder."""
    if not Path(args.model).is_dir():
        model = build_model(load_config(args.model, args.overrides), device=args.device)
    elif args.overrides:
        raise ValueError(
            f"--model: expected a config for {', '.join(args.overrides)}, found the model folder {args.model}"
        )
    else:
        model = load_model(args.model, args.device)
    note_untrained(model)
    return model.vector_describer("--model").needed_backbone("--model")


@torch.no_grad()
def locate(
    crop: Photo, photos: Sequence[Photo], backbone: Backbone, args: argparse.Namespace
) -> tuple[list[HeatRow], int | None]:
    """The heat maps of the query and the photos, with boxes on the photos, and the index of the query's concept."""
    nmf = Nmf(args.rank, args.init, seed=args.seed)
    features = [Map(size=args.query_size).extract([crop], backbone), Map(size=args.size).extract(photos, backbone)]
    (concepts,) = factorize([[m for f in features for m in f.maps]], nmf)
    chosen = concepts.strongest(0)
    grids = [g for f in features for g in f.grids]
    rows = [HeatRow(crop, concepts.heat[0], grids[0], "query")]
    for photo, heat, grid in zip(photos, concepts.heat[1:], grids[1:], strict=True):
        share = share_of(heat, chosen)
        box = None
        if share > 0:
            x1, y1, x2, y2 = heat_boxes(heat[chosen][None], args.threshold, grid, photo.size)[0].tolist()
            box = (x1, y1, x2, y2)
        rows.append(HeatRow(photo, heat, grid, f"{Path(photo.id).name}  {100 * share:.0f} %", box))
    return rows, chosen


def share_of(heat: Tensor, chosen: int | None) -> float:
    """The share of the activation of a photo that the chosen concept explains."""
    total = float(heat.sum())
    return 0.0 if chosen is None or total == 0 else float(heat[chosen].sum()) / total
