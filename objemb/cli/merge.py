"""`objemb merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json, among
from objemb.cli.output import note, print_json
from objemb.cli.progress import Progress
from objemb.search.approximate import build_approximate


@guarded
def merge(
    index: IndexPath,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCES...", help="Indexes of the same model to add.")],
    *,
    on_collision: Annotated[
        str,
        typer.Option(
            help="For an image id that is there already: error, replace it, or keep what is there.",
            autocompletion=among("error", "replace", "keep"),
        ),
    ] = "error",
    as_json: Json = False,
) -> None:
    """Add all images of other indexes of the same model. The others stay as they are."""
    from objemb.index.store import Index

    opened = Index.open(index)
    others = [Index.open(source) for source in sources]
    with Progress() as display:
        meter = display.meter("merging", "images", sum(len(other) for other in others))
        opened.merge(others, on_collision=on_collision, on_images=meter.step)
    build_approximate(opened, on_note=note)
    facts = opened.info()
    if as_json:
        print_json({"index": str(index), **facts})
    else:
        print(f"{index}: {facts['images']} images, {facts['regions']} regions")
