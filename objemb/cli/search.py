"""`objemb search`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from objemb.cli.boxes import parse_box, parse_view
from objemb.cli.errors import guarded
from objemb.cli.options import (
    MAX_PIXELS,
    Device,
    IndexPath,
    Json,
    Precision,
    Runtime,
    Threads,
    among,
    check_file,
    plugins,
)
from objemb.cli.output import note, note_reduced, note_untrained, print_json, print_table
from objemb.text import score_text

if TYPE_CHECKING:
    from objemb.search.retrieval import Retrieval
    from objemb.structures import Box, SearchResult
    from objemb.visualize.pictures import Picture

#: Kinds of picture that ``--save`` writes.
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
#: Value of ``--rerank`` for no re-ranking.
NONE = "none"


@guarded
def search(
    index: IndexPath,
    query: Annotated[
        Path | None, typer.Argument(metavar="[QUERY]", help="A photo; may be left out with --like.", show_default=False)
    ] = None,
    *,
    model: Annotated[Path | None, typer.Option(help="A model folder.  [the one with which the index was made]")] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X1,Y1,X2,Y2", help="A box to search for, in pixels; repeatable."),
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="Search only for the boxes of the model's detector.")] = False,
    whole: Annotated[bool, typer.Option("--whole", help="Search only for the whole photo, as one object.")] = False,
    like: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO:X1,Y1,X2,Y2", help="A further view of the same object, with or without a box; repeatable."
        ),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="PHOTO:X1,Y1,X2,Y2", help="A counter-example, likewise; repeatable."),
    ] = None,
    combine: Annotated[
        str,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            autocompletion=plugins("search.combiners"),
            help="How several views become one query: best (the best match of any view), mean (the mean of their "
            "vectors), classifier (a linear classifier against a sample of the index).",
        ),
    ] = "best",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of photos to return.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Search only regions that match a filter such as 'label=bottle and price<5'.")
    ] = None,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self", help="Leave out the query itself if it is in the index.")
    ] = False,
    min_score: Annotated[float | None, typer.Option(help="Leave out photos with a lower score.")] = None,
    at_most_false: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Leave out photos from whose score on more false ones are expected, such as 0.01; needs an index that "
            "'objemb calibrate' calibrated.",
        ),
    ] = None,
    crop: Annotated[
        str,
        typer.Option(
            help="How a box is described: context (within its photo; by methods with one row per photo, as 'scaled'), "
            "crop (cut out, as a photo of its own), scaled (cut out at the scale of its photo, as in retrieval "
            "benchmarks), whole (the whole photo is described instead).",
            autocompletion=among("context", "crop", "scaled", "whole"),
        ),
    ] = "context",
    rerank: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            autocompletion=plugins("rerank"),
            help="A re-ranker such as query_expansion,top=5; repeatable, applied in order; 'none' for no re-ranking.  "
            "[that of the model]",
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Do not open larger photos, neither the query nor hits to re-rank or show.")
    ] = MAX_PIXELS,
    device: Device = "auto",
    precision: Precision = "auto",
    runtime: Runtime = None,
    threads: Threads = None,
    as_json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write the result as one self-contained HTML page.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the result as a contact sheet (PNG, JPEG or WebP).")] = None,
) -> None:
    """Find the photos that show the same object, with the boxes that matched.

    Without --box, --auto or --whole, the query consists of the whole photo and the boxes of the model's detector, and
    the best match of any of them counts.
    """
    from objemb.images.inputs import View
    from objemb.search.opening import open_retrieval
    from objemb.visualize.pictures import result_pictures

    # everything is checked before a model is loaded
    boxes = _wanted_boxes(box, auto, whole)
    if query is None and (boxes is not None or exclude_self):
        raise ValueError("--box, --auto, --whole, --exclude-self: expected a QUERY that they are of, found none")
    views = {
        name: [parse_view(f"--{name}", text) for text in texts or ()]
        for name, texts in (("like", like), ("unlike", unlike))
    }
    if query is None and not views["like"]:
        raise ValueError("QUERY: expected a photo, or views by --like, found neither")
    if save is not None and save.suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"--save: expected a name that ends in {', '.join(PICTURE_SUFFIXES)}, found {str(save)!r}")
    check_file("--html", html)
    check_file("--save", save)
    for name, photo, wanted in (("query", query, boxes), *((n, *view) for n in views for view in views[n])):
        if photo is not None:
            _check_photo(name, photo, wanted, max_pixels)
    retrieval = open_retrieval(
        index, model, device=device, precision=precision, runtime=runtime, threads=threads, max_pixels=max_pixels
    )
    note_untrained(retrieval.model)
    note_reduced(retrieval.model)
    excluded = retrieval.ids_of(query) if exclude_self and query is not None else []
    if exclude_self and not excluded:
        note("note: the query is not in the index, so there is nothing to leave out")
    result = retrieval.search(
        query,
        boxes,
        like=[View(photo, given) for photo, given in views["like"]],
        unlike=[View(photo, given) for photo, given in views["unlike"]],
        combine=combine,
        k=k,
        where=where,
        exclude=excluded,
        min_score=min_score,
        at_most_false=at_most_false,
        crop=crop,
        rerank=() if rerank == [NONE] else rerank or None,
    )
    if auto and query is not None and _is_whole(query, result, max_pixels):
        note("note: no object was detected in the query, so the whole photo was searched for")
    if html or save:
        photos = [*([] if query is None else [query]), *(photo for photo, _ in views["like"])]
        pictures = result_pictures(result, photos, retrieval.photo_of, max_pixels)
        _write_pictures(result, pictures, _about(retrieval), html, save)
    if as_json:
        print_json(result.to_json())
    else:
        _show(result, at_most_false)


def _wanted_boxes(texts: list[str] | None, auto: bool, whole: bool) -> list[Box] | str | None:
    """The boxes to search for, as :meth:`Retrieval.search` takes them, by the three options that exclude each other."""
    from objemb.models.base import DETECTOR, WHOLE

    ways = [name for name, given in (("--box", texts), ("--auto", auto), ("--whole", whole)) if given]
    if len(ways) > 1:
        raise ValueError(f"--box, --auto, --whole: expected one of them at most, found {' and '.join(ways)}")
    if texts:
        return [parse_box(text) for text in texts]
    return DETECTOR if auto else WHOLE if whole else None


def _check_photo(name: str, photo: Path, boxes: list[Box] | str | None, max_pixels: int) -> None:
    """Raise an error for a photo that cannot be read, or for boxes outside of it."""
    from objemb.images.decode import read_photo
    from objemb.images.inputs import as_regions

    if not photo.exists():
        raise FileNotFoundError(f"{name}: expected a photo, found nothing at {photo}")
    size = read_photo(photo, side=1, max_pixels=max_pixels).size
    if isinstance(boxes, list):
        as_regions(boxes, size)


def _is_whole(query: Path, result: SearchResult, max_pixels: int) -> bool:
    """Whether the whole query is the only box that was searched for."""
    from objemb.images.decode import read_photo

    height, width = read_photo(query, side=1, max_pixels=max_pixels).size
    return result.query_boxes == ((0.0, 0.0, float(width), float(height)),)


def _about(retrieval: Retrieval) -> dict[str, str]:
    """The origin of a result as shown on a page: names rather than paths."""
    index, model = retrieval.index, retrieval.model
    folder = model.path.resolve().name if model.path is not None else ""
    return {
        "index": f"{index.name}, {len(index)} photos",
        "model": f"{folder} ({model.settings['describer']['name']}, {model.fingerprint[:12]})",
        "date": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
    }


def _write_pictures(
    result: SearchResult,
    pictures: tuple[list[Picture], list[Picture]],
    about: dict[str, str],
    html: Path | None,
    save: Path | None,
) -> None:
    from objemb.disk import replacing, write_whole
    from objemb.visualize.page import search_page
    from objemb.visualize.sheet import contact_sheet

    shown, hits = pictures
    if html is not None:
        write_whole(html, search_page(result, shown, hits, about))
        note(f"page: {html}")
    if save is not None:
        with replacing(save) as partial:
            contact_sheet(result, shown, hits).save(partial)
        note(f"picture: {save}")


def _show(result: SearchResult, at_most_false: float | None) -> None:
    several = sum(len(view.boxes) for view in result.views) > 1
    views = len(result.views) > 1
    calibrated = any(hit.p_false is not None for hit in result)
    optional = {"p false": calibrated, "view": views, "query box": several}
    columns = ("", "score", "p false", "image", "box", "view", "query box", "label")
    header = [name for name in columns if optional.get(name, True)]
    from objemb.visualize.pictures import short

    rows = [
        [
            rank,
            score_text(hit.score),
            *(["" if hit.p_false is None else f"{hit.p_false:.2g}"] * calibrated),
            hit.image,
            _box_text(hit.box),
            *([short(result.views[hit.view].image)] * views),
            *([_box_text(hit.query_box)] * several),
            hit.label or "",
        ]
        for rank, hit in enumerate(result, 1)
    ]
    if rows:
        print_table(header, rows)
        print(f"score: {result.scale}")
        if calibrated:
            print("p false: expected number of photos without the object that score as high or higher")
    elif at_most_false is not None:
        print(f"not here: no photo has a score from which on {at_most_false:g} false photos or fewer are expected")
    else:
        print("nothing found")


def _box_text(box: Box) -> str:
    return ",".join(f"{v:.0f}" for v in box)
