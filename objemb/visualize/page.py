"""A search result as one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from PIL import Image

from objemb.structures import Match, QueryView, SearchResult
from objemb.text import score_text
from objemb.visualize.html import data_uri, html_page, html_text, photo_figure
from objemb.visualize.pictures import Picture, short

OWN_STYLE = """
main { max-width: 120rem; display: grid; gap: 1rem; }
.query { display: grid; gap: .7rem; }
.hits { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11.5rem), 1fr));
  list-style: none; margin: 0; padding: 0; }
.pair { display: flex; gap: .4rem; align-items: center; min-height: 4rem; }
.pair img { max-height: 4rem; max-width: 44%; min-width: 0; border: 2px solid; border-radius: .25rem; }
@media (min-width: 60rem) {
  main { grid-template-columns: minmax(15rem, 1fr) 4fr; align-items: start; }
  .about { grid-column: 1 / -1; }
  .query { position: sticky; top: 1rem; max-height: calc(100vh - 2rem); overflow: auto; } }
"""


def search_page(
    result: SearchResult, queries: Sequence[Picture], hits: Sequence[Picture], about: Mapping[str, str] | None = None
) -> str:
    """The page as HTML. It contains file names but no folders, because pages may be shared.

    Args:
        result: The result.
        queries: The views of the query with their boxes, one in most cases.
        hits: A picture of each hit, in order.
        about: Further facts by name, such as the model, the index and the date.
    """
    facts = " · ".join(f"{html_text(k)}: {html_text(v)}" for k, v in {**(about or {}), "score": result.scale}.items())
    found = f"{len(result)} photo{'' if len(result) == 1 else 's'} found" if len(result) else "Nothing found"
    cards = "\n".join(
        _card(rank, hit, picture, queries[hit.view], result)
        for rank, (hit, picture) in enumerate(zip(result, hits, strict=True), 1)
    )
    height = "70vh" if len(queries) == 1 else "35vh"
    views = "\n".join(
        f"""<div class="card">{photo_figure(picture, height)}
<div class="text"><div class="name">{html_text(short(view.image))}</div>
<div class="soft">{_boxes_text(view, picture)}</div></div></div>"""
        for view, picture in zip(result.views, queries, strict=True)
    )
    body = f"""<section class="query">
<h1>Query</h1>
{views}
{_unlike_text(result)}
</section>
<section>
<h2>{found}</h2>
<ol class="hits">
{cards}
</ol>
</section>
<p class="about soft">{facts}</p>"""
    return html_page(f"{short(result.query_image)}: {found}", body, OWN_STYLE)


def _card(rank: int, hit: Match, picture: Picture, query: Picture, result: SearchResult) -> str:
    label = (
        f'<div class="label" title="{html_text(hit.label)}">{html_text(hit.label)}</div>'
        if hit.label is not None
        else ""
    )
    others = f'<div class="soft">{_others(hit)}</div>' if hit.runners_up else ""
    return f"""<li class="card">{photo_figure(picture, "11rem")}
<div class="text">
<div class="top"><span class="rank">{rank}</span>{label}
<span class="score" title="{html_text(result.scale)}">{score_text(hit.score)}</span></div>
{_false_text(hit)}<div class="name">{_breakable(hit.image)}</div>
{_pair(hit, picture, query, result)}{others}{_metadata(hit)}
</div></li>"""


def _false_text(hit: Match) -> str:
    if hit.p_false is None:
        return ""
    title = "expected number of photos without the object that score as high or higher"
    return f'<div class="soft" title="{title}">{hit.p_false:.2g} false expected</div>\n'


def _pair(hit: Match, picture: Picture, query: Picture, result: SearchResult) -> str:
    """Close-ups of the matched query box and of the matched box, side by side; words instead of whole photos, which are
    on the page already. If only one query box is possible, a matched whole photo is shown without it."""
    asked_whole, found_whole = query.is_whole(hit.query_box), picture.is_whole(hit.box)
    boxes = result.views[hit.view].boxes
    several = sum(len(view.boxes) for view in result.views) > 1
    whole = "the whole query" if len(result.views) == 1 else f"all of {html_text(short(result.views[hit.view].image))}"
    if found_whole and (asked_whole or not several):
        by = f" {whole}" if len(result.views) > 1 else ""
        return f'<div class="soft">the whole photo matched{by}</div>'
    number = boxes.index(hit.query_box) if hit.query_box in boxes else len(query.close_ups)
    asked = _side(whole if asked_whole else "", query.close_ups[number : number + 1], "query box")
    matched = _side("the whole photo matched" if found_whole else "", picture.close_ups[-1:], "matched box")
    if not asked or not matched or (asked_whole and not several):
        return ""
    return f'<div class="pair">{asked}<span class="soft">→</span>{matched}</div>'


def _side(words: str, close_up: Sequence[tuple[Image.Image, str]], what: str) -> str:
    """One side of a pair: words, or a picture if there is one."""
    if words:
        return f'<span class="soft">{words}</span>'
    return "".join(
        f'<img src="{data_uri(image)}" alt="{what}" title="{what}" style="border-color: {colour}">'
        for image, colour in close_up
    )


def _others(hit: Match) -> str:
    labels = [f" {html_text(other.label)}" if other.label is not None else "" for other in hit.runners_up]
    scores = ", ".join(f"{score_text(other.score)}{label}" for other, label in zip(hit.runners_up, labels, strict=True))
    return f"Next best boxes here: {scores}"


def _metadata(hit: Match) -> str:
    if not hit.metadata:
        return ""
    rows = "".join(f"<dt>{html_text(k)}</dt><dd>{html_text(str(v))}</dd>" for k, v in hit.metadata.items())
    return f"<details><summary>Metadata</summary><dl>{rows}</dl></details>"


def _unlike_text(result: SearchResult) -> str:
    names = ", ".join(html_text(short(view.image)) for view in result.unlike)
    return f'<p class="soft">but unlike {names}</p>' if names else ""


def _boxes_text(view: QueryView, query: Picture) -> str:
    whole = any(query.is_whole(box) for box in view.boxes)
    count = sum(not query.is_whole(box) for box in view.boxes)
    boxes = "this box" if count == 1 else f"these {count} boxes" if count or not whole else ""
    return "searched for " + " and ".join(filter(None, ("the whole photo" if whole else "", boxes)))


def _breakable(name: str) -> str:
    """A long name that may be broken after its separators."""
    return re.sub(r"([/_])", r"\1<wbr>", html_text(name))
