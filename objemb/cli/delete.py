"""`objemb delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import note, print_json


@guarded
def delete(
    index: IndexPath,
    images: Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="Image ids.")] = None,
    *,
    where: Annotated[str | None, typer.Option(help="A filter: images with a region that fits it are deleted.")] = None,
    as_json: Json = False,
) -> None:
    """Remove images from an index, by id or by a filter. Space is given back by `objemb compact`."""
    from objemb.index.store import Index

    if bool(images) == bool(where):
        raise ValueError("delete: expected either image ids or --where, found " + ("both" if images else "neither"))
    opened = Index.open(index)
    before = len(opened)
    unknown = opened.delete(opened.find(where) if where else images or [])
    deleted = before - len(opened)
    if as_json:
        print_json({"index": str(index), "deleted": deleted, "unknown": unknown, "images": len(opened)})
        return
    for image in unknown:
        note(f"not in the index: {image}")
    print(f"{index}: {deleted} deleted, {len(opened)} left")
