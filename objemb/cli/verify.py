"""`objemb verify`."""

from __future__ import annotations

from pathlib import Path

import typer

from objemb.cli.errors import MISMATCH, guarded
from objemb.cli.options import IndexPath, Json
from objemb.cli.output import print_json
from objemb.cli.progress import Progress

MEBIBYTE = 2**20


@guarded
def verify(index: IndexPath, as_json: Json = False) -> None:
    """Check every file of an index against its checksum. Exit code 4 when something is damaged."""
    from objemb.index.storage.verify import verify as check  # a damaged index is listed, too, when it cannot be opened

    with Progress() as display:
        meter = display.meter("verifying", "MiB", _mebibytes(index))
        problems = check(index, lambda count: meter.step(count / MEBIBYTE))
    if as_json:
        print_json({"index": str(index), "intact": not problems, "problems": problems})
    else:
        print("\n".join(problems) or f"{index}: intact")
    if problems:
        raise typer.Exit(MISMATCH)


def _mebibytes(index: Path) -> float | None:
    """What is to be read, vectors twice; None when the manifest does not say so."""
    from objemb.checks import ObjembError
    from objemb.index.storage.manifest import read_manifest

    try:
        manifest = read_manifest(index)
    except ObjembError:
        return None
    files = (*manifest.files, *manifest.column_files)
    return sum(f.size for f in files) / MEBIBYTE
