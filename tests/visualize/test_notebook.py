from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from objemb.structures import Match, QueryView, SearchResult
from objemb.visualize.notebook import MAX_SHOWN, SIDE, result_html
from objemb.visualize.pictures import COLOURS

BOX = (10.0, 10.0, 60.0, 50.0)


def pictures(page: str) -> list[np.ndarray]:
    encoded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in encoded]


def result(count: int = 1, **changes: object) -> SearchResult:
    hits = tuple(Match(f"shelf/{n}.png", 0.9 - n / 1000, BOX, BOX, "cup") for n in range(count))
    return replace(SearchResult("folder/query.png", (BOX,), hits), **changes)  # type: ignore[arg-type]


def white(folder: Path, size: tuple[int, int] = (120, 100)) -> Path:
    Image.new("RGB", size, "white").save(folder / "white.png")
    return folder / "white.png"


def test_boxes_are_drawn_into_the_photos(tmp_path: Path) -> None:
    photo = white(tmp_path, (1200, 1000))
    box = (100.0, 100.0, 600.0, 500.0)
    drawn = SearchResult("folder/query.png", (box,), (Match("shelf/0.png", 0.9, box, box),))
    page = result_html(drawn, [photo], lambda image: photo)
    colour = np.array([int(COLOURS[0][n : n + 2], 16) for n in (1, 3, 5)])
    for picture in pictures(page):
        assert picture.shape == (round(SIDE * 1000 / 1200), SIDE, 3)
        scale = SIDE / 1200
        edge = picture[round(300 * scale), round(600 * scale)]  # the middle of the right edge of the box
        assert np.abs(edge.astype(int) - colour).max() < 80  # JPEG spreads colours
        assert picture[-1, -1].min() > 240
    assert "1. <b>0.900</b>" in page
    assert ">shelf/0.png<" in page
    assert "folder" not in page
    assert "1 photo found" in page


def test_nothing_is_executed_or_loaded(tmp_path: Path) -> None:
    photo = white(tmp_path)
    hit = Match('<script>"\u202e&.png', 0.5, BOX, BOX, "<b>cup</b>")
    found = SearchResult('"><img src=x onerror=y>', (BOX,), (hit,), "a <i>scale</i>")
    page = result_html(found, [photo], lambda image: photo)
    assert not re.search(r"<script|<style|<svg|onerror=y>|<i>|<b>cup|https?:", page)
    assert "&lt;script&gt;&quot;\\u202e&amp;.png" in page
    assert set(re.findall(r"<(\w+)", page)) == {"div", "img", "span", "b"}


def test_missing_photos_and_empty_results(tmp_path: Path) -> None:
    page = result_html(result(2), [None], lambda image: None)
    assert page.count("the photo is missing") == 3
    assert len(pictures(page)) == 3
    empty = result_html(result(0), [white(tmp_path)], lambda image: None)
    assert "Nothing found" in empty
    assert len(pictures(empty)) == 1


def test_a_photo_that_can_no_longer_be_read_is_grey(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    page = result_html(result(), [tmp_path / "broken.png"], lambda image: tmp_path / "broken.png")
    assert page.count("the photo is missing") == 2
    large = result_html(result(), [white(tmp_path)], lambda image: white(tmp_path), max_pixels=100)
    assert large.count("the photo is missing") == 2


def test_views_and_counter_examples_are_named(tmp_path: Path) -> None:
    photo = white(tmp_path)
    two = result(1, more_views=(QueryView("b.png", (BOX,)),), unlike=(QueryView("c/d.png", ()),))
    page = result_html(two, [photo, photo], lambda image: photo)
    assert page.count("query, view") == 2
    assert "but unlike d.png" in page


def test_many_hits_are_counted_and_some_shown(tmp_path: Path) -> None:
    photo = white(tmp_path)
    page = result_html(result(MAX_SHOWN + 5), [photo], lambda image: photo)
    assert f"{MAX_SHOWN + 5} photos found</b>, the best {MAX_SHOWN} are shown" in page
    assert len(pictures(page)) == MAX_SHOWN + 1
