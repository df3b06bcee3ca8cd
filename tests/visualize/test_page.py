from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from objemb.structures import Match, QueryView, SearchResult
from objemb.visualize.page import search_page
from objemb.visualize.pictures import COLOURS, result_pictures
from objemb.visualize.sheet import contact_sheet
from tests.cli.conftest import draw


def test_colours_pair_query_boxes_with_hits(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    boxes = ((0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 20.0, 20.0))
    runner_up = Match("a", 0.4, (2, 2, 8, 8), boxes[0])
    hits = (Match("a", 0.5, (3, 3, 50, 50), boxes[1], runners_up=(runner_up,)), Match("b", 0.3, (0, 0, 4, 4), boxes[0]))
    result = SearchResult("q", boxes, hits)
    (query,), pictures = result_pictures(result, [tmp_path / "a.png"], {"a": tmp_path / "a.png"}.get)
    assert [f.colour for f in query.frames] == [COLOURS[0], COLOURS[1]]
    assert [(f.colour, f.thin) for f in pictures[0].frames] == [(COLOURS[0], True), (COLOURS[1], False)]
    assert [p.found for p in pictures] == [True, False]
    assert search_page(result, [query], pictures).count("<svg") == 3
    assert contact_sheet(result, [query], pictures).mode == "RGB"


def test_several_views_have_a_picture_and_colours_each(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    box = (5.0, 5.0, 45.0, 35.0)
    hit = Match("b", 0.5, (3, 3, 50, 50), box, view=1)
    more, unlike = (QueryView("folder/second.png", (box,)),), (QueryView("folder/other.png", ()),)
    result = SearchResult("first.png", (box,), (hit,), more_views=more, unlike=unlike)
    photos = [(tmp_path / "a.png").read_bytes(), None]
    queries, hits = result_pictures(result, photos, {}.get)
    assert [[f.colour for f in query.frames] for query in queries] == [[COLOURS[0]], [COLOURS[1]]]
    assert [query.found for query in queries] == [True, False]
    assert hits[0].frames[-1].colour == COLOURS[1]
    page = search_page(result, queries, hits)
    assert page.count("<svg") == 3
    assert "first.png" in page
    assert "second.png" in page
    assert "but unlike other.png" in page
    assert "folder" not in page
    one = contact_sheet(replace(result, more_views=(), hits=()), queries[:1], [])
    assert contact_sheet(result, queries, hits).height > one.height


def test_a_page_says_which_row_of_the_query_matched(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    whole, box = (0.0, 0.0, 120.0, 100.0), (5.0, 5.0, 45.0, 35.0)
    pairs = [(whole, whole), (whole, box), (box, whole), (box, box)]
    hits = tuple(Match(f"{n}.png", 0.9 - n / 10, found, asked) for n, (asked, found) in enumerate(pairs))
    result = SearchResult("q", (whole, box), hits)
    page = search_page(result, *result_pictures(result, [tmp_path / "a.png"], lambda image: tmp_path / "a.png"))
    assert "searched for the whole photo and this box" in page
    cards = [card.partition("</li>")[0] for card in page.split('<li class="card">')[1:]]
    shown = [re.findall(r">(the whole [a-z ]*)<|alt=\"(\w+ box)\"", card) for card in cards]
    assert [[words or alt for words, alt in card] for card in shown] == [
        ["the whole photo matched"],
        ["the whole query", "matched box"],
        ["query box", "the whole photo matched"],
        ["query box", "matched box"],
    ]


def test_names_on_a_page_hide_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    result = SearchResult("q\u202egpj.exe", ((0, 0, 9, 9),), (Match("\u2066x\ud800", 0.5, (0, 0, 4, 4), (0, 0, 9, 9)),))
    page = search_page(result, *result_pictures(result, [tmp_path / "a.png"], {}.get))
    assert r"q\u202egpj.exe" in page
    assert r"\u2066x\ud800" in page
    page.encode("utf-8")


def test_a_page_names_the_view_that_matched_as_a_whole(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 0)
    whole, box = (0.0, 0.0, 120.0, 100.0), (5.0, 5.0, 45.0, 35.0)
    hits = (Match("0", 0.9, box, whole, view=1), Match("1", 0.8, whole, whole, view=0))
    result = SearchResult("first.png", (whole,), hits, more_views=(QueryView("folder/second.png", (whole,)),))
    photo = tmp_path / "a.png"
    page = search_page(result, *result_pictures(result, [photo, photo], lambda image: photo))
    cards = page.split('<li class="card">')[1:]
    assert "all of second.png" in cards[0]
    assert "the whole photo matched all of first.png" in cards[1]
    assert "folder" not in page
