"""The common frame of HTML pages: self-contained files without scripts, with all text escaped."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from objemb.text import visible
from objemb.visualize.pictures import DrawnBox, Picture, short

# Nothing may be executed or loaded, whatever a file name or a label contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --back: #f6f6f4; --card: #fff; --ink: #1c1c1a; --soft: #62625d; --line: #dcdcd6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161615; --card: #222220; --ink: #ececE8; --soft: #a3a39c; --line: #3a3a36; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { margin: 0 auto; }
h1, h2 { font-size: 1.05rem; margin: 0 0 .5rem; font-weight: 650; }
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
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .6rem; margin: .3rem 0 0; font-size: .85rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
.row { display: grid; gap: .6rem; }
.right { color: #00805c; } .wrong { color: #c04000; }
@media (prefers-color-scheme: dark) { .right { color: #3fd0a4; } .wrong { color: #ff9a5c; } }
"""


def html_page(title: str, body: str, style: str) -> str:
    """A page that loads nothing from anywhere.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS of this page, after the common style.
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


def photo_figure(picture: Picture, most: str) -> str:
    """The photo, with a height of at most ``most`` (CSS), and its boxes as vector graphics.

    A box that is the whole photo is not drawn.
    """
    height, width = picture.size
    boxes = "".join(_frame(frame) for frame in picture.frames if not picture.is_whole(frame.box))
    gone = "" if picture.found else '<div class="gone">The photo is missing, or has changed since it was indexed.</div>'
    name = html_text(short(picture.name))
    limit = f"max-width: calc({most} * {width / height:.4f})"  # a tall photo should not fill several screens
    return (
        f'<div class="photo"><div style="{limit}"><img src="{data_uri(picture.image)}" alt="{name}" '
        f'width="{picture.image.width}" height="{picture.image.height}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        f"{gone}</div></div>"
    )


def _frame(frame: DrawnBox) -> str:
    x1, y1, x2, y2 = frame.box
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    if frame.thin:
        return f'<rect class="thin" stroke="{frame.colour}" {place}/>'
    return f'<rect class="under" {place}/><rect class="over" stroke="{frame.colour}" {place}/>'


def html_text(words: str) -> str:
    """A text escaped for HTML, with invisible characters made visible, because names come from outside."""
    return escape(visible(words))


def data_uri(image: Image.Image) -> str:
    """A picture as a data URI (JPEG), to be part of a page."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
