"""`objemb index`."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from objemb.cli.boxes import report_boxes, stored_boxes
from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import (
    MAX_PIXELS,
    BatchSize,
    Boxes,
    Device,
    Json,
    MaxPixels,
    MaxRegions,
    PhotosOrAddresses,
    Precision,
    Runtime,
    Threads,
    Workers,
    among,
)
from objemb.cli.output import note, note_reduced, note_untrained, print_json
from objemb.cli.progress import Progress, show_build
from objemb.cli.skipped import SkippedList, beside

if TYPE_CHECKING:
    from objemb.detectors.stored_boxes import StoredBoxes
    from objemb.index.collection import ImageCollection
    from objemb.models.base import EmbeddingModel
    from objemb.search.indexing import Report


@guarded
def index(
    photos: PhotosOrAddresses,
    *,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="INDEX",
            help="The index: a folder, or an address such as postgresql://host/db?table=shop; created if it does not "
            "exist.",
        ),
    ],
    model: Annotated[Path, typer.Option(help="A model folder.")],
    boxes: Boxes = None,
    max_regions: MaxRegions = None,
    batch_size: BatchSize = 8,
    workers: Workers = 2,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, or float16 for half the size; fixed when the index is created.",
            autocompletion=among("float32", "float16"),
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Describe in other processes: processes=N of this machine, or ray://HEAD:6379, or ray for the cluster "
            "at RAY_ADDRESS or one of this machine. --device and --threads are then those of each process.",
            autocompletion=among("processes=", "ray", "ray://"),
        ),
    ] = None,
    block_size: Annotated[int, typer.Option(min=1, help="With --on: photos that a process describes at a time.")] = 256,
    prune: Annotated[bool, typer.Option("--prune", help="Remove photos whose files no longer exist.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --prune: even if a folder of photos is now empty.")
    ] = False,
    errors: Annotated[
        Path | None, typer.Option(help="List of skipped photos, one JSON object per line.  [INDEX.skipped.jsonl]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe photos and add them to an index. A repeated run adds only new and changed photos.

    Exit code 3 if photos were skipped or indexed without boxes of --boxes that do not fit them, or if no box of that
    file could be used. If a run is killed, the same command resumes where it stopped.
    """
    from objemb.images.sources import find_images
    from objemb.index.addresses import parse_address
    from objemb.index.storage.lock import check_system
    from objemb.models.opening import open_model
    from objemb.search.block_stream import Distribution
    from objemb.search.calibration import refresh_calibration
    from objemb.search.executors.base import executor_of
    from objemb.search.indexing import Job

    started = time.monotonic()
    if parse_address(output) is None:
        check_system()
    if force and not prune:
        raise ValueError("--force: expected together with --prune, found alone")
    executor = None if on is None else executor_of(on)
    find_images(photos)  # a wrong path is an error before anything is created
    skipped = SkippedList(output, errors)
    opened = open_model(model, device, precision, runtime=runtime, threads=threads)
    note_untrained(opened)
    note_reduced(opened)
    given = stored_boxes(boxes, opened)
    if given is None and not opened.has_detector and _takes_boxes(opened):
        note("note: the model has no detector and no --boxes are given, so only whole images are indexed")
    target = _open_or_create(output, opened, dtype)
    elsewhere = None
    if executor is not None:
        blocks = beside(output, ".blocks")
        elsewhere = Distribution(executor, blocks, block_size, device, precision, runtime, threads)
    with skipped, Progress() as display:
        total = sum(1 for _ in find_images(photos)) if display.counts else None
        meter = display.meter("indexing", "images", total)
        job = Job(
            index=target,
            model=opened,
            sources=photos,
            boxes=given,
            boxes_file=boxes,
            max_regions=max_regions,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            prune=prune,
            force=force,
            on=elsewhere,
            on_start=skipped.begin,
            on_step=meter.step,
            on_skip=skipped.add,
        )
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its machines
            report = job.run()
        skipped.add_boxes(given)
    show_build(target)
    refresh_calibration(target, opened, on_note=note)
    if not any(asdict(report).values()):
        note(f"note: no images were found in {', '.join(map(str, photos))}")
    report_boxes(given, listing=skipped.file)
    _tell(target, report, given, time.monotonic() - started, skipped.file, as_json)
    if report.skipped or (given is not None and given.in_doubt):
        raise typer.Exit(SKIPPED)


def _takes_boxes(model: EmbeddingModel) -> bool:
    """Whether the method uses boxes."""
    return "detector" in (model.settings["describer"].get("regions") or {})


def _open_or_create(where: str, model: EmbeddingModel, dtype: str | None) -> ImageCollection:
    from objemb.index.opening import create_index, index_exists, open_index
    from objemb.models.row_schema import row_schema

    if not index_exists(where):
        return create_index(
            where,
            schema=row_schema(model, dtype),
            fingerprint=model.fingerprint,
            model=model.about,
        )
    target = open_index(where)
    stored = target.info().get("dtype")
    if dtype is not None and dtype != stored:
        raise ValueError(f"--dtype: expected {stored}, as in the existing index, found {dtype}")
    return target


def _tell(
    target: ImageCollection, report: Report, given: StoredBoxes | None, seconds: float, listing: Path, as_json: bool
) -> None:
    """Print what was done, and what the index holds now."""
    counts, problems = asdict(report), 0 if given is None else len(given.problems)
    errors = str(listing) if report.skipped or problems else None
    if as_json:
        facts = {
            **counts,
            "images": len(target),
            "regions": target.info()["regions"],
            "boxes_used": None if given is None else given.used,
            "box_problems": problems,
            "seconds": round(seconds, 3),
        }
        print_json({"index": target.address, **facts, "errors": errors})
        return
    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{target.address}: {len(target)} images ({done or 'nothing to do'}) in {seconds:.1f} s")
    if report.skipped:
        note(f"{report.skipped} skipped photos are listed in {errors}")
