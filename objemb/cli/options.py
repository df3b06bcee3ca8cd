"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="An index folder.")]
Photos = Annotated[
    list[Path],
    typer.Argument(
        metavar="PHOTOS...", help="Folders, images, list files, CSV or Parquet with a path column, COCO json."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for machines.")]
Device = Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int, typer.Option(min=1, help="Decoding workers beside the network.")]
#: As :data:`objemb.images.decode.MAX_PIXELS`, which is not imported before a command runs.
MOST_PIXELS = 100_000_000
MaxPixels = Annotated[int, typer.Option(min=1, help="Larger photos are skipped, before they are decoded.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos at once; halved by itself where memory does not suffice.")]
MaxRegions = Annotated[int | None, typer.Option(min=0, help="At most this many boxes per photo, best first.")]
Boxes = Annotated[
    Path | None, typer.Option(help="Boxes to use: COCO instances or results json (instead of the model's detector).")
]
