"""The demo's report: one self-contained HTML file without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from objemb.cli.programs.demos.compare import KINDS
from objemb.datasets.writing import IN_PHOTO, PICTURE
from objemb.structures import SearchResult
from objemb.visualize.html import html_page, html_text, photo_figure
from objemb.visualize.pictures import Picture

OWN_STYLE = """
main { max-width: 76rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p { max-width: 48rem; margin: .4rem 0; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 13rem; }
tr.ours td { font-weight: 650; background: #009e7318; }
.bar { display: inline-block; height: .7rem; background: #56b4e9; vertical-align: middle; border-radius: .15rem; }
tr.ours .bar { background: #009e73; }
th.group { text-align: center; }
td.bars { text-align: left; }
.scroll { overflow-x: auto; }
.row { grid-template-columns: repeat(6, minmax(0, 1fr)); margin: .6rem 0 1.2rem; }
.row .text { padding: .3rem .5rem; font-size: .85rem; }
.right, .wrong { font-weight: 650; }
pre { background: var(--card); border: 1px solid var(--line); padding: .6rem; overflow-x: auto; font-size: .85rem; }
@media (max-width: 50rem) { .row { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""


@dataclass(frozen=True)
class Answer:
    """A query with its results.

    Attributes:
        result: The search result.
        query: Picture of the query.
        hits: A picture of each hit.
        right: For each hit, whether it shows the object; empty if that is not known.
        asked: The caption of the query.
    """

    result: SearchResult
    query: Picture
    hits: Sequence[Picture]
    right: Sequence[bool]
    asked: str = "query"


def report_page(figures: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """The page.

    Args:
        figures: The result of :func:`objemb.cli.programs.demos.figures.measure`, with ``steps``.
        answers: Queries to show.
    """
    body = f"""<h1>Finds the object, not the picture</h1>
{_introduction(figures)}
<h2>How well each way finds the object</h2>
{_table(figures)}
{_notes(figures)}
<h2>Expected results</h2>
{_checks(figures["checks"])}
<h2>Queries and the results of the one-pass student</h2>
<p>The queries are not hand-picked but evenly spaced in the list of all. On the left is the query, a box in a photo or
the picture of a product; then come the five best photos, each with the box that matched.</p>
{"".join(_answer(a) for a in answers)}
<h2>How it was made</h2>
<p>{escape(figures["machine"])}; seed {figures["seed"]}. Each line is a command that you can run, change and run
again.</p>
<pre>{escape(_commands(figures["steps"]))}</pre>"""
    return html_page("objemb: the demo", body, OWN_STYLE)


def photos_page(name: str, about: str, answers: Sequence[Answer]) -> str:
    """The page about the user's own photos: queries and their results.

    Args:
        name: Name of the folder.
        about: A sentence about the model that was used.
        answers: Queries to show.
    """
    sections = "".join(_answer(a) for a in answers) or "<p>No objects were found in these photos.</p>"
    return html_page(f"objemb: {name}", f"<h1>{html_text(name)}</h1><p>{escape(about)}</p>{sections}", OWN_STYLE)


def _introduction(figures: Mapping[str, Any]) -> str:
    counts = figures["counts"]
    return (
        f"<p>A classification network (the teacher), a detector, and an embedding head inside the detector (the "
        f"student), which learned to predict the teacher's vectors, were trained from scratch on "
        f"{counts['train_photos']} generated scenes of {counts['train_instances']} products. The table shows results "
        f"on {counts['test_instances']} <b>other</b> products in {counts['test_photos']} scenes: {_counted(figures)} "
        f"must find the (other) scenes that contain the same product. Variants of a product differ only in accents, "
        f"logo and lettering.</p>"
    )


def _counted(figures: Mapping[str, Any]) -> str:
    queries = figures["counts"]["queries"]
    return f"{queries[IN_PHOTO]} queries by a box in a photo and {queries[PICTURE]} by the picture of a product"


def _table(figures: Mapping[str, Any]) -> str:
    best = {kind: max(row["by_kind"][kind]["mAP"] for row in figures["rows"]) for kind in KINDS}
    lines = "".join(_line(row, best) for row in figures["rows"])
    of_kind = "<th></th><th>mAP</th><th>P@1</th><th>share</th>"
    return (
        '<div class="scroll"><table><tr><th></th><th colspan="4" class="group">query: a box in a photo</th>'
        '<th colspan="4" class="group">query: a product picture</th><th colspan="4"></th></tr>'
        f"<tr><th>method</th>{of_kind}{of_kind}<th>IoU</th><th>vectors</th><th>ms</th><th>cost</th></tr>{lines}"
        "</table></div>"
    )


def _line(row: Mapping[str, Any], best: Mapping[str, float]) -> str:
    ours = ' class="ours"' if row["key"] == "student" else ""
    numbers = ((row["iou"], ".2f"), (row["vectors"], ".1f"), (row["ms"], ".0f"), (row["cost"], ".2f"))
    cells = [_found(row["by_kind"][kind], best[kind]) for kind in KINDS]
    cells += [f"<td>{'' if value is None else format(value, form)}</td>" for value, form in numbers]
    return f"<tr{ours}><td>{escape(row['title'])}</td>{''.join(cells)}</tr>"


def _found(figures: Mapping[str, Any], best: float) -> str:
    """The cells of one kind of queries."""
    bar = f'<span class="bar" style="width: {5 * figures["mAP"] / max(best, 1e-9):.2f}rem"></span>'
    share = "" if figures["share"] is None else format(figures["share"], ".2f")
    return (
        f'<td class="bars">{bar}</td><td>{100 * figures["mAP"]:.1f}</td><td>{100 * figures["P@1"]:.1f}</td>'
        f"<td>{share}</td>"
    )


def _notes(figures: Mapping[str, Any]) -> str:
    detection = figures["detection"]
    return (
        f'<p class="soft">mAP in percent (trapezoid average precision) over {_counted(figures)}. Share: mAP relative '
        f"to that of the teacher (a crop per box) on the same boxes. All vectors have at most {figures['dim']} "
        f"dimensions; each method was whitened on its own kind of regions in the training scenes. IoU: overlap of the "
        f"matched box and the true one, for queries by a box. Vectors and milliseconds are per photo; cost is relative "
        f"to one pass. Times are without decoding; rows with true boxes have none, since true boxes are not known in "
        f"practice. Detector: AP50 {100 * detection['AP50']:.1f}, AP {100 * detection['AP']:.1f} on the unseen "
        f"products; {escape(detection['change'])}.</p>"
    )


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    if not checks:
        return "<p>With <code>--small</code> the figures mean nothing and are not checked.</p>"
    lines = "".join(
        f"<tr><td>{escape(p['text'])}</td><td>{escape(p['measured'])}</td>"
        f'<td class="{"right" if p["holds"] else "wrong"}">{"holds" if p["holds"] else "does not hold"}</td></tr>'
        for p in checks
    )
    return f'<div class="scroll"><table><tr><th>check</th><th>found</th><th></th></tr>{lines}</table></div>'


def _answer(answer: Answer) -> str:
    marks = [_mark(right) for right in answer.right] or [""] * len(answer.result)
    hits = "".join(
        f'<div class="card">{photo_figure(picture, "14rem")}<div class="text">{mark} {hit.score:.3f}</div></div>'
        for hit, picture, mark in zip(answer.result, answer.hits, marks, strict=True)
    )
    query = (
        f'<div class="card">{photo_figure(answer.query, "14rem")}<div class="text">{escape(answer.asked)}</div></div>'
    )
    return f'<div class="row">{query}{hits}</div>'


def _mark(right: bool) -> str:
    return f'<span class="{"right" if right else "wrong"}">{"✓ contains it" if right else "✗ does not"}</span>'


def _commands(steps: Sequence[Mapping[str, object]]) -> str:
    return "\n".join(f"{step['command']}    # {step['seconds']:.0f} s" for step in steps)
