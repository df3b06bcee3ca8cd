"""`objemb copy`."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from objemb.cli.errors import guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import print_json
from objemb.cli.progress import Progress, show_build


@guarded
def copy(
    index: IndexPath,
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO", help="Where the copy goes: a folder or an address, new or with an interrupted copy."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Copy an index between a folder and an address, in either direction, and compare the two.

    Boxes, metadata, what the model was, and what tells changed photos go along, so that 'objemb index' goes on with the
    copy. Counts, and a sample of rows and of answers, are compared at the end; exit code 4 if they differ. A run that
    is killed is resumed by the same command.
    """
    from objemb.index.addresses import parse_address
    from objemb.index.opening import create_index, index_exists, open_index
    from objemb.index.storage.unit_vectors import UnitVectors
    from objemb.search.copying import Copy

    started = time.monotonic()
    source = open_index(index)
    if index_exists(to):
        target = open_index(to)
    else:
        schema = source.schema
        if isinstance(schema, UnitVectors) and parse_address(to) is not None:
            schema = UnitVectors(schema.dim)  # float32, which holds what float16 does
        target = create_index(to, schema=schema, fingerprint=source.fingerprint, model=source.model)
    with Progress() as display:
        meter = display.meter("copying", "images", len(source))
        report = Copy(source, target, on_step=meter.step).run()
    show_build(target)
    seconds = time.monotonic() - started
    if as_json:
        facts = {"index": target.address, **asdict(report), "images": len(target), "seconds": round(seconds, 3)}
        print_json(facts)
        return
    print(
        f"{target.address}: {len(target)} images ({report.copied} copied, {report.kept} there before) in {seconds:.1f} "
        f"s; the rows of {report.compared} and the answers to {report.searched} were compared"
    )
