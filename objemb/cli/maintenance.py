"""The commands that maintain an index: `objemb info`, `verify`, `delete`, `compact`, `merge`, `calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from objemb.cli.errors import MISMATCH, guarded
from objemb.cli.options import Device, IndexPath, Json, Precision, Runtime, Threads, among
from objemb.cli.output import human_bytes, note, print_json, print_pairs
from objemb.cli.progress import Progress, show_build
from objemb.text import score_text

MEBIBYTE = 2**20
#: With fewer objects, calibrations come with a warning.
FEW_OBJECTS = 30


@guarded
def info(index: IndexPath, as_json: Json = False) -> None:
    """Show the content of an index and the model that it was made with."""
    from objemb.index.opening import open_index

    facts = open_index(index).info()
    if as_json:
        print_json({"index": str(index), **facts})
        return
    about = facts.pop("model") or {}
    facts |= {name: f"{facts[name]:.1%}" for name in ("deleted_share", "approximate_share")}
    facts["approximate"] = facts["approximate"] or "none"
    facts["updated"] = facts["updated"] or "unknown"
    size = "unknown" if facts["bytes"] is None else human_bytes(facts["bytes"])
    del facts["bytes"]
    for name in ("next", "previous"):
        facts[name] = _in_words(facts[name])
    made = facts.pop("calibration")
    facts["calibration"] = (
        "none"
        if made is None
        else f"by {made['queries']} boxes of {made['objects']} objects or photos, in {made['images']} images"
    )
    random = about.get("untrained") or []
    pairs = [("index", facts.pop("path")), *facts.items(), ("size", size), ("model", about.get("path", "unknown"))]
    print_pairs([*pairs, *([("random weights", ", ".join(random))] if random else [])])


@guarded
def verify(index: IndexPath, as_json: Json = False) -> None:
    """Check every file of an index, and whether they fit each other. Exit code 4 if anything is damaged."""
    from objemb.index.addresses import parse_address
    from objemb.index.opening import open_index
    from objemb.index.verification import verify_index  # also works if damage keeps the index from being opened

    with Progress() as display:
        if parse_address(index) is None:
            meter = display.meter("verifying", "MiB", _mebibytes(Path(index)))
            problems = verify_index(index, lambda count: meter.step(count / MEBIBYTE))
        else:
            display.meter("verifying", "images", None)
            problems = open_index(index).verify()
    if as_json:
        print_json({"index": str(index), "intact": not problems, "problems": problems})
    else:
        print("\n".join(problems) or f"{index}: intact")
    if problems:
        raise typer.Exit(MISMATCH)


@guarded
def delete(
    index: IndexPath,
    images: Annotated[list[str] | None, typer.Argument(metavar="[IDS]...", help="Image ids.")] = None,
    *,
    where: Annotated[str | None, typer.Option(help="Delete the images with a region that matches this filter.")] = None,
    as_json: Json = False,
) -> None:
    """Delete images from an index, by id or by a filter. `objemb compact` frees their space."""
    from objemb.index.opening import open_index

    if bool(images) == bool(where):
        raise ValueError("delete: expected either image ids or --where, found " + ("both" if images else "neither"))
    opened = open_index(index)
    before = len(opened)
    unknown = opened.delete(opened.find(where) if where else images or [])
    deleted = before - len(opened)
    if as_json:
        print_json({"index": str(index), "deleted": deleted, "unknown": unknown, "images": len(opened)})
        return
    for image in unknown:
        note(f"not in the index: {image}")
    print(f"{index}: {deleted} deleted, {len(opened)} left")


@guarded
def compact(index: IndexPath, as_json: Json = False) -> None:
    """Free the space of deleted images and join small segments, which makes search faster.

    At an address: VACUUM in PostgreSQL, joining files and removing old versions in Lance, nothing in Qdrant, whose
    server does that by itself. A generation that 'objemb migrate' has kept or is filling stays as it is.
    """
    from objemb.index.opening import open_index

    opened = open_index(index)
    opened.generations.tidy()
    before, engine = opened.info(), opened.engine
    with Progress() as display:
        done = opened.compact(on_images=display.meter("compacting", "images", len(opened)).step)
    show_build(opened, engine)
    after = opened.info()
    if as_json:
        print_json({"index": str(index), "compacted": done, "before": before, "after": after})
    else:
        sizes = [human_bytes(facts["bytes"]) for facts in (before, after) if facts["bytes"] is not None]
        print(f"{index}: {(' -> '.join(sizes) or 'compacted') if done else 'nothing to do'}")


@guarded
def merge(
    index: IndexPath,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCES...", help="Indexes of the same model to add.")],
    *,
    on_collision: Annotated[
        str,
        typer.Option(
            help="For an image id that is already in the index: error, replace it, or keep it.",
            autocompletion=among("error", "replace", "keep"),
        ),
    ] = "error",
    as_json: Json = False,
) -> None:
    """Add all images of other indexes of the same model, which are not changed.

    They are published together in a folder, and in batches at an address: repeat a merge that was interrupted there
    with --on-collision keep.
    """
    from objemb.index.opening import open_index

    opened = open_index(index)
    others = [open_index(source) for source in sources]
    with Progress() as display:
        meter = display.meter("merging", "images", sum(len(other) for other in others))
        opened.merge(others, on_collision=on_collision, on_images=meter.step)
    show_build(opened)
    facts = opened.info()
    if as_json:
        print_json({"index": str(index), **facts})
    else:
        print(f"{index}: {facts['images']} images, {facts['regions']} regions")


@guarded
def calibrate(
    index: IndexPath,
    *,
    instance: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A metadata column with the name of the object in each photo, or 'label' for the classes of boxes: "
            "boxes of the index are searched for, without the photos of the same name.",
        ),
    ] = None,
    on: Annotated[
        list[Path] | None,
        typer.Option(help="Photos that show none of the indexed objects, instead: a folder, list ...; repeatable."),
    ] = None,
    queries: Annotated[int, typer.Option(min=100, help="Maximum number of boxes that are searched for.")] = 1000,
    model: Annotated[Path | None, typer.Option(help="A model folder.  [the one with which the index was made]")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find out which scores objects that are not in an index reach, for `objemb search --at-most-false`.

    The result is stored in the index. `objemb index` makes it anew when more than a quarter of the photos is new.
    """
    from objemb.index.opening import open_index
    from objemb.search.calibration import calibrate as fit
    from objemb.search.opening import open_retrieval

    target, opened = open_index(index), None
    if on:
        retrieval = open_retrieval(index, model, device=device, precision=precision, runtime=runtime, threads=threads)
        target, opened = retrieval.index, retrieval.model
    made = fit(target, instance=instance, on=on or (), model=opened, queries=queries)
    if as_json:
        print_json({"index": str(index), **made.to_json()})
        return
    shown = "objects" if instance is not None else "photos"
    print(f"{index}: calibrated by {made.queries} boxes of {made.objects} {shown}")
    if made.objects < FEW_OBJECTS:
        note(
            f"note: {made.objects} {shown} tell little of others: a single absent object may be taken for another more "
            "often, or less often, than is said here"
        )
    for expected in (1.0, 0.1, 0.01, 0.001):
        if expected >= made.fewest_estimable(1, len(target)):
            score = made.score_of(expected, 1, len(target))
            print(f"{expected:g} false photos are expected from a score of {score_text(score)} on")


def _in_words(generation: dict[str, Any] | None) -> str:
    """Another generation of an index: its images, size and model."""
    if generation is None or "problem" in generation:
        return "none" if generation is None else f"cannot be read: {generation['problem']}"
    model = (generation["model"] or {}).get("path", "unknown")
    return f"{generation['images']} images, {human_bytes(generation['bytes'])}, of the model {model}"


def _mebibytes(index: Path) -> float | None:
    """Mebibytes to read, where vectors count twice; None if the manifest cannot be read."""
    from objemb.checks import ObjembError
    from objemb.index.storage.generations import other_generations
    from objemb.index.storage.manifest import read_manifest

    try:
        folders = (index, *(index / name for name in other_generations(index)))
        manifests = [read_manifest(folder) for folder in folders]
    except ObjembError:
        return None
    return sum(f.size for m in manifests for f in (*m.files, *m.column_files)) / MEBIBYTE
