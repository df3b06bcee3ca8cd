"""A search result as HTML inside a notebook.

Notebooks that are not trusted keep neither style sheets nor vector graphics, so that all styles are attributes, and
boxes are drawn into the thumbnails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from objemb.images.decode import MAX_PIXELS
from objemb.images.inputs import ImageLike
from objemb.structures import Match, SearchResult
from objemb.text import score_text
from objemb.visualize.html import data_uri, html_text
from objemb.visualize.pictures import Picture, hit_frames, short, thumbnail, view_frames
from objemb.visualize.sheet import draw_frames

#: Longest side of a thumbnail in pixels; twice the shown size, for displays of high resolution.
SIDE = 360
#: Hits that are shown; the others are counted.
MAX_SHOWN = 30
CELL = "display: inline-block; vertical-align: top; width: 180px; margin: 0 8px 8px 0; font: 12px/1.35 system-ui"
PHOTO = "display: block; max-width: 180px; max-height: 180px; margin-bottom: 3px"
NAME = "overflow-wrap: anywhere"
SOFT = "opacity: 0.7"
GONE = "the photo is missing, or has changed since it was indexed"


def result_html(
    result: SearchResult,
    queries: Sequence[ImageLike | None],
    path_of: Callable[[str], Path | None],
    max_pixels: int = MAX_PIXELS,
) -> str:
    """A fragment of HTML that loads nothing from anywhere: the views of the query, then the hits with their boxes.

    Args:
        result: The result.
        queries: The photos of its views, None for those that are not there.
        path_of: The path of the photo of an image id, None if it is missing or has changed.
        max_pixels: Photos of more pixels are shown in grey.
    """
    views = [
        _cell(
            thumbnail(short(view.image), photo, view_frames(result, number), SIDE, max_pixels),
            _query_text(result, number),
        )
        for number, (view, photo) in enumerate(zip(result.views, queries, strict=True))
    ]
    hits = [
        _cell(thumbnail(hit.image, path_of(hit.image), hit_frames(hit, result), SIDE, max_pixels), _hit_text(rank, hit))
        for rank, hit in enumerate(result.hits[:MAX_SHOWN], 1)
    ]
    count = f"{len(result)} photo{'' if len(result) == 1 else 's'} found" if len(result) else "Nothing found"
    if result.skipped is not None:
        count = f"Not searched for: {html_text(result.skipped)}"
    rest = f", the best {MAX_SHOWN} are shown" if len(result) > MAX_SHOWN else ""
    names = ", ".join(html_text(short(view.image)) for view in result.unlike)
    unlike = f" · but unlike {names}" if names else ""
    return (
        f'<div style="font-family: system-ui, sans-serif"><div>{"".join(views)}</div>'
        f'<div style="font-size: 13px; margin: 2px 0 8px"><b>{count}</b>{rest}'
        f'<span style="{SOFT}"> · score: {html_text(result.scale)}{unlike}</span></div>'
        f"<div>{''.join(hits)}</div></div>"
    )


def _cell(picture: Picture, text: str) -> str:
    """A picture with its boxes drawn into it, and a text below it."""
    image = picture.image.copy()
    draw_frames(image, picture)
    name = html_text(picture.name)
    gone = "" if picture.found else f'<div style="{SOFT}">{GONE}</div>'
    return (
        f'<div style="{CELL}"><img style="{PHOTO}" src="{data_uri(image)}" alt="{name}">'
        f'{text}<div style="{NAME}">{name}</div>{gone}</div>'
    )


def _query_text(result: SearchResult, number: int) -> str:
    return f'<div style="{SOFT}">query{"" if len(result.views) == 1 else f", view {number}"}</div>'


def _hit_text(rank: int, hit: Match) -> str:
    label = "" if hit.label is None else f' <span style="{SOFT}">{html_text(hit.label)}</span>'
    false = "" if hit.p_false is None else f' <span style="{SOFT}">({hit.p_false:.2g} false expected)</span>'
    return f"<div>{rank}. <b>{score_text(hit.score)}</b>{label}{false}</div>"
