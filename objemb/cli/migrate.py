"""`objemb migrate`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import (
    MAX_PIXELS,
    BatchSize,
    Device,
    IndexPath,
    Json,
    MaxPixels,
    Precision,
    Runtime,
    Threads,
    Workers,
)
from objemb.cli.output import note, note_reduced, note_untrained, print_json
from objemb.cli.progress import Progress
from objemb.cli.skipped import SkippedList

if TYPE_CHECKING:
    from objemb.search.migration import MigrationReport


@guarded
def migrate(
    index: IndexPath,
    *,
    model: Annotated[Path | None, typer.Option(help="The folder of the new model.", show_default=False)] = None,
    drop_old: Annotated[
        bool,
        typer.Option(
            "--drop-old",
            help="With --model: do not keep the old generation. Alone: delete the one that a migration has kept.",
        ),
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Delete what an unfinished migration has described, and nothing else.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even if most photos, or all of a folder, are gone.")
    ] = False,
    batch_size: BatchSize = 8,
    workers: Workers = 2,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    errors: Annotated[
        Path | None,
        typer.Option(help="List of photos that are left out, one JSON object per line.  [INDEX.skipped.jsonl]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe all photos of an index anew with another model, while the index goes on answering with the old one.

    The new generation replaces the old one in one step when it is complete; the old one is kept until --drop-old. A run
    that is killed is resumed by the same command. Boxes that came from a file stay, all others are detected anew. Exit
    code 3 if photos were left out, because they are gone, have changed or cannot be read.
    """
    from objemb.index.opening import open_index
    from objemb.models.opening import open_model
    from objemb.search.migration import Migration

    started = time.monotonic()
    if model is None or cancel:
        _only_delete(index, drop_old=drop_old, cancel=cancel, more=model is not None or force, as_json=as_json)
        return
    opened, skipped = open_index(index), SkippedList(index, errors)
    described_by = open_model(model, device, precision, runtime=runtime, threads=threads)
    note_untrained(described_by)
    note_reduced(described_by)
    with skipped, Progress() as display:
        meter = display.meter("migrating", "images", len(opened))
        migration = Migration(
            index=opened,
            model=described_by,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            keep=not drop_old,
            force=force,
            on_start=skipped.begin,
            on_step=meter.step,
            on_skip=skipped.add,
            on_note=note,
        )
        report = migration.run()
    _tell(index, report, time.monotonic() - started, skipped.file, as_json)
    if report.left_out:
        raise typer.Exit(SKIPPED)


def _only_delete(index: str, *, drop_old: bool, cancel: bool, more: bool, as_json: bool) -> None:
    """What the command does without describing anything."""
    from objemb.index.generations import NEXT, PREVIOUS
    from objemb.index.opening import open_index

    if drop_old == cancel or more:
        raise ValueError("migrate: expected either --model, or --drop-old or --cancel alone, found none or several")
    name = NEXT if cancel else PREVIOUS
    found = open_index(index).generations.drop(name)
    if as_json:
        print_json({"index": str(index), "deleted": name if found else None})
    else:
        what = "the unfinished migration" if cancel else "the old generation"
        print(f"{index}: {what} {'was deleted' if found else 'is not there; nothing to do'}")


def _tell(index: str, report: MigrationReport, seconds: float, listing: Path, as_json: bool) -> None:
    from objemb.index.opening import open_index

    opened = open_index(index)
    facts, kept = opened.info(), opened.generations.kept()
    if as_json:
        counts = {**asdict(report), "images": facts["images"], "regions": facts["regions"]}
        print_json(
            {
                "index": str(index),
                "fingerprint": facts["fingerprint"],
                **counts,
                "previous": kept,
                "seconds": round(seconds, 3),
                "errors": str(listing) if report.left_out else None,
            }
        )
        return
    own = report.described - report.given
    print(
        f"{index}: {facts['images']} images of the new model ({own} with regions of the model, {report.given} with the "
        f"boxes of their file, {report.kept} by an earlier run) in {seconds:.1f} s"
    )
    if report.left_out:
        note(f"{report.left_out} photos are left out and listed in {listing}")
    if kept is not None:
        note(f"the old generation is kept in {kept}; 'objemb migrate {index} --drop-old' deletes it")
