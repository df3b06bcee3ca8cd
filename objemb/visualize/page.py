"""A search result as one self-contained HTML file: no script, no request to anywhere, every text escaped."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from objemb.structures import Match, SearchResult
from objemb.text import visible
from objemb.visualize.pictures import Frame, Picture, short

# Nothing may run and nothing may be fetched, whatever a file name or a label says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --back: #f6f6f4; --card: #fff; --ink: #1c1c1a; --soft: #62625d; --line: #dcdcd6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161615; --card: #222220; --ink: #ececE8; --soft: #a3a39c; --line: #3a3a36; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 120rem; margin: 0 auto; display: grid; gap: 1rem; }
h1, h2 { font-size: 1.05rem; margin: 0 0 .5rem; font-weight: 650; }
.hits { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11.5rem), 1fr));
  list-style: none; margin: 0; padding: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden;
  display: flex; flex-direction: column; }
.photo { position: relative; background: #8883; display: flex; justify-content: center; }
.photo > div { position: relative; width: 100%; }
.photo img { display: block; width: 100%; height: auto; }
.photo svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.photo rect { fill: none; vector-effect: non-scaling-stroke; }
.under { stroke: #000; stroke-opacity: .65; stroke-width: 5.5px; }
.over { stroke-width: 3px; }
.thin { stroke-width: 1.5px; stroke-dasharray: 5 4; }
.gone { position: absolute; inset: 0; display: grid; place-items: center; padding: .5rem; color: #111;
  text-align: center; font-size: .85rem; }
.text { padding: .45rem .6rem .55rem; display: grid; gap: .25rem; font-size: .9rem; }
.top { display: flex; gap: .5rem; align-items: baseline; }
.rank { color: var(--soft); font-variant-numeric: tabular-nums; }
.name { font-weight: 600; overflow-wrap: anywhere; line-height: 1.25; }
.score { margin-left: auto; font-variant-numeric: tabular-nums; font-weight: 650; }
.label { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; font-size: .8rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.soft { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.pair { display: flex; gap: .4rem; align-items: center; min-height: 4rem; }
.pair img { max-height: 4rem; max-width: 44%; min-width: 0; border: 2px solid; border-radius: .25rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem; margin: .3rem 0 0; font-size: .85rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
@media (min-width: 60rem) {
  main { grid-template-columns: minmax(15rem, 1fr) 4fr; align-items: start; }
  .about { grid-column: 1 / -1; }
  .query { position: sticky; top: 1rem; max-height: calc(100vh - 2rem); overflow: auto; } }
"""


def html_page(title: str, body: str, style: str = "") -> str:
    """A page that loads nothing from anywhere.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS behind what all pages share.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html_text(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def search_page(
    result: SearchResult, query: Picture, hits: Sequence[Picture], about: Mapping[str, str] | None = None
) -> str:
    """The page. It names files, but not where they lie: pages are handed on.

    Args:
        result: What was found.
        query: The query with its boxes.
        hits: A picture per hit, in order.
        about: What else belongs on it, by name, such as the model, the index and the date.
    """
    name = html_text(short(result.query_image))
    facts = " · ".join(f"{html_text(k)}: {html_text(v)}" for k, v in {**(about or {}), "score": result.scale}.items())
    found = f"{len(result)} photo{'' if len(result) == 1 else 's'} found" if len(result) else "Nothing found"
    cards = "\n".join(
        _card(rank, hit, picture, query, result)
        for rank, (hit, picture) in enumerate(zip(result, hits, strict=True), 1)
    )
    body = f"""<section class="query">
<h1>Query</h1>
<div class="card">{photo_figure(query, "70vh")}
<div class="text"><div class="name">{name}</div>
<div class="soft">{_boxes_text(result, query)}</div></div></div>
</section>
<section>
<h2>{found}</h2>
<ol class="hits">
{cards}
</ol>
</section>
<p class="about soft">{facts}</p>"""
    return html_page(f"{short(result.query_image)}: {found}", body)


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
<span class="score" title="{html_text(result.scale)}">{hit.score:.3f}</span></div>
<div class="name">{_breakable(hit.image)}</div>
{_pair(hit, picture, query, result)}{others}{_metadata(hit)}
</div></li>"""


def photo_figure(picture: Picture, most: str) -> str:
    """The photo, at most so high, with its boxes drawn over it, so that they stay sharp at every size.

    A box that is the whole photo is not drawn: it says nothing.
    """
    height, width = picture.size
    boxes = "".join(_frame(frame) for frame in picture.frames if not picture.is_whole(frame.box))
    gone = "" if picture.found else '<div class="gone">The photo has gone, or has changed since it was indexed.</div>'
    name = html_text(short(picture.name))
    limit = f"max-width: calc({most} * {width / height:.4f})"  # a tall photo must not fill several screens
    return (
        f'<div class="photo"><div style="{limit}"><img src="{_data_uri(picture.image)}" alt="{name}" '
        f'width="{picture.image.width}" height="{picture.image.height}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        f"{gone}</div></div>"
    )


def _frame(frame: Frame) -> str:
    x1, y1, x2, y2 = frame.box
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    if frame.thin:
        return f'<rect class="thin" stroke="{frame.colour}" {place}/>'
    return f'<rect class="under" {place}/><rect class="over" stroke="{frame.colour}" {place}/>'


def _pair(hit: Match, picture: Picture, query: Picture, result: SearchResult) -> str:
    """What was asked for and what was found, cut out side by side; whole photos, which are on the page already, in
    words. Where it is clear which of the query's boxes matched, a whole photo needs no partner."""
    asked_whole, found_whole = query.is_whole(hit.query_box), picture.is_whole(hit.box)
    several = len(result.query_boxes) > 1
    if found_whole and (asked_whole or not several):
        return '<div class="soft">the whole photo matched</div>'
    number = result.query_boxes.index(hit.query_box) if hit.query_box in result.query_boxes else len(query.close_ups)
    asked = _side("the whole query" if asked_whole else "", query.close_ups[number : number + 1], "query box")
    found = _side("the whole photo matched" if found_whole else "", picture.close_ups[-1:], "matched box")
    if not asked or not found or (asked_whole and not several):
        return ""
    return f'<div class="pair">{asked}<span class="soft">→</span>{found}</div>'


def _side(words: str, close_up: Sequence[tuple[Image.Image, str]], what: str) -> str:
    """One side of a pair: words, or a picture if there is one."""
    if words:
        return f'<span class="soft">{words}</span>'
    return "".join(
        f'<img src="{_data_uri(image)}" alt="{what}" title="{what}" style="border-color: {colour}">'
        for image, colour in close_up
    )


def _others(hit: Match) -> str:
    labels = [f" {html_text(other.label)}" if other.label is not None else "" for other in hit.runners_up]
    scores = ", ".join(f"{other.score:.3f}{label}" for other, label in zip(hit.runners_up, labels, strict=True))
    return f"Next best boxes here: {scores}"


def _metadata(hit: Match) -> str:
    if not hit.metadata:
        return ""
    rows = "".join(f"<dt>{html_text(k)}</dt><dd>{html_text(str(v))}</dd>" for k, v in hit.metadata.items())
    return f"<details><summary>Metadata</summary><dl>{rows}</dl></details>"


def _boxes_text(result: SearchResult, query: Picture) -> str:
    whole = any(query.is_whole(box) for box in result.query_boxes)
    count = sum(not query.is_whole(box) for box in result.query_boxes)
    boxes = "this box" if count == 1 else f"these {count} boxes" if count or not whole else ""
    return "searched for " + " and ".join(filter(None, ("the whole photo" if whole else "", boxes)))


def html_text(words: str) -> str:
    """A text for HTML, in which nothing is hidden: names are foreign."""
    return escape(visible(words))


def _breakable(name: str) -> str:
    """A long name that may go on in the next line behind its separators."""
    return re.sub(r"([/_])", r"\1<wbr>", html_text(name))


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
