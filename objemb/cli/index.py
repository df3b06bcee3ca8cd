"""`objemb index`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from objemb.cli.approximate import build_approximate
from objemb.cli.boxes import stored_boxes, tell_boxes
from objemb.cli.errors import SKIPPED, guarded
from objemb.cli.options import MOST_PIXELS, BatchSize, Boxes, Device, Json, MaxPixels, MaxRegions, Photos, Workers
from objemb.cli.output import note, note_untrained, print_json
from objemb.cli.progress import Progress

if TYPE_CHECKING:
    from objemb.images.sources import SkippedImage
    from objemb.index.store import Index
    from objemb.models import Model

#: So many skipped photos are shown; all are in the error list.
SHOWN = 20


@guarded
def index(
    photos: Photos,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="INDEX", help="The index: made, or added to.")],
    model: Annotated[Path, typer.Option(help="A model folder.")],
    boxes: Boxes = None,
    max_regions: MaxRegions = None,
    batch_size: BatchSize = 8,
    workers: Workers = 2,
    max_pixels: MaxPixels = MOST_PIXELS,
    device: Device = "cpu",
    dtype: Annotated[
        str | None, typer.Option(help="float32, or float16 for half the size; set when it is made.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Remove photos whose files have vanished.")] = False,
    errors: Annotated[
        Path | None, typer.Option(help="Where skipped photos are listed, a JSON object a line.  [INDEX.skipped.jsonl]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe photos and add them to an index. Run again, it adds what is new or changed.

    Exit code 3 when some photos had to be skipped, or indexed without boxes of --boxes that were made for another frame
    or photo, or when not one box of that file could be used. A killed run goes on where it stopped.
    """
    from objemb.cli.indexing import Job
    from objemb.images.sources import find_images
    from objemb.models import load_model

    started = time.monotonic()
    find_images(photos)  # a wrong path is told before anything is made
    opened = load_model(model, device)
    note_untrained(opened)
    given = stored_boxes(boxes, opened)
    if given is None and opened.detector is None and _takes_boxes(opened):
        note("note: the model has no detector and there are no --boxes, so only whole images are indexed")
    target = _open_or_create(output, opened, model, dtype)
    listing = errors or output.with_name(output.name + ".skipped.jsonl")
    with _error_list(listing, keep=errors is not None) as skipped, Progress() as display:
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
            on_step=meter.step,
            on_skip=skipped,
        )
        report = job.run()
    build_approximate(target)
    if not any(asdict(report).values()):
        note(f"note: no images were found in {', '.join(map(str, photos))}")
    tell_boxes(given)
    facts = {
        **asdict(report),
        "images": len(target),
        "regions": target.info()["regions"],
        "boxes_used": None if given is None else given.used,
        "box_problems": 0 if given is None else len(given.problems),
        "seconds": round(time.monotonic() - started, 3),
    }
    _tell(output, facts, listing, as_json)
    if report.skipped or (given is not None and (given.left_out or given.unused)):
        raise typer.Exit(SKIPPED)


def _takes_boxes(model: Model) -> bool:
    """Whether the method looks at boxes at all."""
    return "detector" in model.settings["describer"].get("regions", {})


def _open_or_create(path: Path, model: Model, model_path: Path, dtype: str | None) -> Index:
    from objemb.index.manifest import MANIFEST_FILE
    from objemb.index.store import Index

    if not (path / MANIFEST_FILE).exists():
        about = {"path": str(model_path.absolute()), "settings": model.settings, "provenance": model.provenance}
        return Index.create(path, dim=model.dim, fingerprint=model.fingerprint, dtype=dtype or "float32", model=about)
    target = Index.open(path)
    stored = target.info()["dtype"]
    if dtype is not None and dtype != stored:
        raise ValueError(f"--dtype: expected {stored}, which the index was made with, found {dtype}")
    return target


@contextmanager
def _error_list(file: Path, keep: bool) -> Iterator[Callable[[SkippedImage], None]]:
    """Write skipped photos as they come; the list of an earlier run is replaced."""
    shown = 0

    def write(skipped: SkippedImage) -> None:
        nonlocal shown
        stream.write(json.dumps(skipped.to_json()) + "\n")
        stream.flush()
        shown += 1
        if shown <= SHOWN:
            note(f"skipped {skipped.path}: {skipped.reason}")

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as stream:
        yield write
    if shown == 0 and not keep:
        file.unlink()


def _tell(path: Path, facts: dict[str, Any], listing: Path, as_json: bool) -> None:
    errors = str(listing) if facts["skipped"] else None
    if as_json:
        print_json({"index": str(path), **facts, "errors": errors})
        return
    counts = ", ".join(f"{facts[k]} {k}" for k in ("added", "updated", "unchanged", "pruned", "skipped") if facts[k])
    print(f"{path}: {facts['images']} images ({counts or 'nothing to do'}) in {facts['seconds']:.1f} s")
    if errors:
        note(f"{facts['skipped']} skipped photos are listed in {errors}")
