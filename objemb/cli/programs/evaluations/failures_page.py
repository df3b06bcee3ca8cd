"""The failure browser: the worst queries with their results, as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb.datasets.evaluation_set import EvaluationSet
from objemb.evaluation.failures import JUNK, OWN_PHOTO, RIGHT, WRONG, Failure, FoundImage
from objemb.evaluation.ranks import UNRANKED
from objemb.images.names import without_folders
from objemb.visualize.html import html_page, html_text, photo_figure
from objemb.visualize.pictures import DrawnBox, Picture, thumbnail

#: Longest side of a picture in pixels; small, because a page has hundreds of them.
SIDE = 220
QUERY, TRUTH = "#0072b2", "#f0e442"
#: Colours of matched boxes that colour-blind people can distinguish (Okabe and Ito); the text repeats their meaning.
COLOURS = {RIGHT: "#009e73", WRONG: "#d55e00", JUNK: "#999999", OWN_PHOTO: "#56b4e9"}
SIGNS = {RIGHT: "✓ right", WRONG: "✗ wrong", JUNK: "– junk", OWN_PHOTO: "– own photo"}

OWN_STYLE = """
main { max-width: 110rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; }
p { margin: .4rem 0; max-width: 60rem; }
section { border-top: 1px solid var(--line); margin-top: 1.2rem; padding-top: .6rem; }
h2 { font-size: 1rem; margin: .3rem 0 .6rem; overflow-wrap: anywhere; }
.row { gap: .5rem; grid-template-columns: repeat(var(--tiles), minmax(0, 1fr)); }
.row .text { padding: .3rem .45rem .4rem; font-size: .8rem; gap: .1rem; }
@media (max-width: 60rem) { .row { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
@media (max-width: 36rem) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.query, .missed { border-width: 2px; }
.query { border-color: #0072b2; } .missed { border-style: dashed; }
.mark { font-weight: 650; }
.junk, .own { color: var(--soft); }
.scores { font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; color: var(--soft); }
"""


def failures_page(
    result: Mapping[str, object],
    environment: Mapping[str, object],
    data: EvaluationSet,
    failures: Sequence[Failure],
    figures: str,
) -> str:
    """The page as HTML.

    Args:
        result: The result of the evaluation: ``method``, ``set``, ``queries``, ``skipped``.
        environment: Command, date, seed and versions.
        data: The set, to find its photos.
        failures: The worst queries, the worst first.
        figures: A line with the scores of the method.
    """
    title = f"{result['method']} on {result['set']}"
    tiles = max((len(_tiles(f)) for f in failures), default=1) + 1  # as many columns as the longest row has pictures
    sections = "\n".join(_section(rank, failure, data) for rank, failure in enumerate(failures, 1))
    body = f"""<div style="--tiles: {tiles}">
<h1>{html_text(title)}</h1>
<p>{html_text(figures)}</p>
<p>{_counts(result, len(failures))}</p>
{_legend(failures)}
{sections}
<section><pre>{_about(environment)}</pre></section>
</div>"""
    return html_page(f"{title}: the worst queries", body, OWN_STYLE)


def _counts(result: Mapping[str, object], shown: int) -> str:
    skipped = f", {result['skipped']} do not count" if result["skipped"] else ""
    if not shown:
        if not result["queries"]:
            return f"No query to show: none counts{skipped}."
        return f"No query to show: the average precision of all {result['queries']} is 100{skipped}."
    which = f"the {shown} with the lowest average precision"
    return f"{result['queries']} queries{skipped}; {which}, the worst first; perfect ones are left out."


def _legend(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    marks = ", ".join(f'<span class="mark {_class(mark)}">{SIGNS[mark]}</span>' for mark in SIGNS)
    return (
        f'<p class="soft">Blue: the query and its box. Then the best images with the box that matched: {marks}. '
        "Thin yellow: true boxes of the object, where they are known. Dashed frame: the first right image, if it is "
        "not among the best. Junk is shown with its rank but does not count in the scores.</p>"
    )


def _section(rank: int, failure: Failure, data: EvaluationSet) -> str:
    missed = failure.first_right
    cards = [_query_card(failure, data), *(_card(hit, data, missed=hit is missed) for hit in _tiles(failure))]
    return (
        f"<section><h2>{rank}. {html_text(_name(failure))}: AP {100 * failure.average_precision:.1f}, "
        f'{_first(failure)}</h2><div class="row">{"".join(cards)}</div></section>'
    )


def _tiles(failure: Failure) -> list[FoundImage]:
    """The images shown beside the query: the best ones, and the first right one if it is not among them."""
    return [*failure.hits, *([failure.first_right] if failure.first_right is not None else [])]


def _name(failure: Failure) -> str:
    return ", ".join(failure.query.instances) or failure.query.file


def _first(failure: Failure) -> str:
    positives = f"{failure.positives} right image{'' if failure.positives == 1 else 's'}"
    if failure.first_rank is None:
        return f"none of {positives} found"
    return f"first of {positives} at rank {failure.first_rank + 1}"


def _query_card(failure: Failure, data: EvaluationSet) -> str:
    query = failure.query
    frames = () if query.box is None else (DrawnBox(query.box, QUERY),)
    text = f'<span class="mark">query {failure.number}</span>{_file(query.file)}'
    return _figure("card query", _picture(query.file, data, frames), text)


def _card(hit: FoundImage, data: EvaluationSet, *, missed: bool = False) -> str:
    frames = tuple(DrawnBox(box, TRUTH, thin=True) for box in hit.truths)
    if hit.box is not None:
        frames += (DrawnBox(hit.box, COLOURS[hit.mark]),)
    place = "no vector" if hit.place == UNRANKED else f"{hit.place + 1}. <span>{hit.score:.3f}</span>"
    text = (
        f'<span class="scores">{place} <span class="mark {_class(hit.mark)}">{SIGNS[hit.mark]}</span></span>'
        f"{_file(hit.file)}"
    )
    return _figure("card missed" if missed else "card", _picture(hit.file, data, frames), text)


def _figure(kind: str, picture: Picture, text: str) -> str:
    return f'<div class="{kind}">{photo_figure(picture, "12rem")}<div class="text">{text}</div></div>'


def _picture(file: str, data: EvaluationSet, frames: tuple[DrawnBox, ...]) -> Picture:
    return thumbnail(file, data.photo(file), frames, SIDE)


def _file(file: str) -> str:
    return f'<span class="soft" title="{html_text(file)}">{html_text(Path(file).name)}</span>'


def _class(mark: str) -> str:
    return mark.partition(" ")[0]


def _about(environment: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = (without_folders(environment["command"]), f"{environment['date']}, seed {environment['seed']}; {versions}")
    return "\n".join(map(html_text, lines))
