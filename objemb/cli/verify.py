"""`objemb verify`."""

from __future__ import annotations

import typer

from objemb.cli.errors import MISMATCH, guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import print_json


@guarded
def verify(index: IndexPath, as_json: Json = False) -> None:
    """Check every file of an index against its checksum. Exit code 4 when something is damaged."""
    from objemb.index.store import Index

    problems = Index.open(index).verify()
    if as_json:
        print_json({"index": str(index), "intact": not problems, "problems": [str(p) for p in problems]})
    else:
        print("\n".join(str(p) for p in problems) or f"{index}: intact")
    if problems:
        raise typer.Exit(MISMATCH)
