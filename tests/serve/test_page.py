"""The page in a headless Chromium: from a photo to its hits, by mouse and by keyboard."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objemb.serve.service import Options
from tests.serve.browser import chromium
from tests.serve.conftest import COUNT, TOKEN, Served, serving

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    yield from opened(browser, served.url)


@pytest.fixture
def narrow(browser: Any, served: Served) -> Iterator[Any]:
    yield from opened(browser, served.url, viewport={"width": 360, "height": 740}, has_touch=True)


def opened(browser: Any, url: str, **settings: Any) -> Iterator[Any]:
    """A new page, which must raise no error and ask no other host."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown = context.new_page()
    shown.set_default_timeout(15_000)
    errors: list[str] = []
    hosts: set[str] = set()
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("console", lambda said: errors.append(said.text) if "Content Security" in said.text else None)
    shown.on("request", lambda request: hosts.add(urllib.parse.urlsplit(request.url).netloc))
    shown.goto(url)
    try:
        yield shown
        assert errors == []
        assert hosts - {""} == {urllib.parse.urlsplit(url).netloc}
    finally:
        context.close()


def draw(page: Any, begin: tuple[float, float], end: tuple[float, float], view: str = ".view.photo") -> None:
    """Draw a box; places are shares of the photo."""
    canvas = page.locator(f"{view} .canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    places = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in (begin, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=4)
    page.mouse.up()


def found(page: Any) -> list[str]:
    """Ids of the shown hits, once there are some."""
    page.locator("#hits .card").first.wait_for()
    return [card.get_attribute("data-image") for card in page.locator("#hits .card").all()]


def choose(page: Any, photo: Path, field: str = "#file") -> None:
    page.set_input_files(field, str(photo))
    page.locator(".canvas").last.wait_for()


def boxes_of(page: Any) -> list[Any]:
    """The boxes of the first view, by the address."""
    text = urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).fragment)["q"][0]
    return list(json.loads(text)["views"][0]["boxes"])


def test_from_a_photo_to_its_hits_with_a_drawn_box(page: Any, served: Served, photos: Path) -> None:
    choose(page, photos / "0.png")
    draw(page, (0.1, 0.2), (0.5, 0.6))
    assert page.locator(".box").count() == 1
    page.click("#search")
    shown = found(page)
    assert len(shown) == COUNT
    answer = served.search((photos / "0.png").read_bytes(), json.dumps({"boxes": boxes_of(page), "k": 60})).json()
    assert shown == [hit["image"] for hit in answer["hits"]]
    first = page.locator("#hits .card").first
    first.locator(".matched").wait_for(state="attached")
    x, y, width, height = (float(first.locator(".matched").get_attribute(n)) for n in ("x", "y", "width", "height"))
    assert [x, y, x + width, y + height] == pytest.approx(answer["hits"][0]["box"], abs=1e-3)
    assert f"{answer['hits'][0]['score']:.3f}" in first.inner_text()
    assert answer["scale"] in page.inner_text("#results-state")
    runner = first.locator(".runner").first
    assert runner.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    first.hover()
    assert runner.evaluate("e => getComputedStyle(e).visibility") == "visible"


def test_a_dropped_and_a_pasted_photo(page: Any, photos: Path) -> None:
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        content = list((photos / "0.png").read_bytes())
        page.evaluate(
            """([event, holder, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], `${event}.png`, {type: "image/png"}));
                const both = {bubbles: true, cancelable: true, [holder]: data};
                const made = event === "drop" ? new DragEvent(event, both) : new ClipboardEvent(event, both);
                document.body.dispatchEvent(made);
            }""",
            [event, holder, content],
        )
        page.get_by_text(f"Photo: {event}.png").wait_for()
        assert page.locator(".view").count() == 1


def test_boxes_are_moved_resized_and_deleted(page: Any, photos: Path) -> None:
    choose(page, photos / "0.png")
    draw(page, (0.1, 0.1), (0.4, 0.4))
    draw(page, (0.25, 0.25), (0.45, 0.35))  # from inside the first one: moves it
    page.click("#search")
    found(page)
    (moved,) = boxes_of(page)
    assert moved == pytest.approx([36, 20, 72, 50], abs=2)
    draw(page, (0.6, 0.5), (0.9, 0.8))  # at its lower right corner: resizes it
    page.click("#search")
    page.wait_for_function("() => decodeURIComponent(location.hash).includes('108')")
    (resized,) = boxes_of(page)
    assert resized == pytest.approx([36, 20, 108, 80], abs=2)
    page.locator(".box").focus()
    page.keyboard.press("Delete")
    assert page.locator(".box").count() == 0


def test_the_library_a_stored_box_and_a_hit(page: Any, served: Served) -> None:
    page.click("#browse")
    page.locator("#library-grid .card").nth(COUNT - 1).wait_for()
    page.get_by_label("Search with shelf/1.png").click()
    page.locator(".offered").nth(1).wait_for(state="attached")
    assert page.locator(".offered").count() == 2
    page.locator(".offered").first.click()
    shown = found(page)  # three clicks
    assert "shelf/1.png" not in shown
    assert len(shown) == COUNT - 1
    before = page.url
    page.locator("#hits .card").first.get_by_text("Search with this box").click()
    page.wait_for_function("before => location.href !== before", arg=before)
    page.locator(f"#hits .card[data-image='{shown[0]}']").wait_for(state="detached")
    assert shown[0] not in found(page)
    page.go_back()
    page.locator(f"#hits .card[data-image='{shown[0]}']").wait_for()
    assert found(page) == shown
    page.go_forward()
    page.locator(f"#hits .card[data-image='{shown[0]}']").wait_for(state="detached")
    page.goto(before)
    page.reload()
    assert found(page) == shown, "the address holds the whole search"


def test_who_is_quicker_than_the_service_is_not_thrown_back(browser: Any, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    held: list[Any] = []
    page.route("**/v1/info", lambda route: held.append(route))
    page.goto(served.url)
    page.click("#browse")
    page.get_by_label("Search with shelf/1.png").click()
    page.locator(".offered").nth(1).wait_for(state="attached")
    with page.expect_response("**/v1/info"):
        held[0].continue_()
    page.get_by_text(f"{COUNT} photos").first.wait_for()
    page.locator(".offered").last.press("Enter")
    assert len(found(page)) == COUNT - 1
    context.close()


def test_views_and_counter_examples(page: Any, photos: Path) -> None:
    choose(page, photos / "0.png")
    draw(page, (0.1, 0.2), (0.5, 0.6))
    choose(page, photos / "2.png", "#like-file")
    choose(page, photos / "4.png", "#unlike-file")
    page.locator(".view.unlike .canvas").wait_for()
    draw(page, (0.2, 0.2), (0.7, 0.7), ".view.unlike")
    page.select_option("#combine", "mean")
    with page.expect_response("**/v1/search") as answered:
        page.click("#search")
    query = answered.value.json()["query"]
    assert [view["image"] for view in query["more_views"]] == ["2.png"]
    assert query["more_views"][0]["boxes"] == [[0, 0, 120, 100]], "a view without a box, in a mean: the whole photo"
    assert query["unlike"][0]["image"] == "4.png"
    assert query["unlike"][0]["boxes"][0] == pytest.approx([24, 20, 84, 70], abs=2)
    found(page)
    page.locator(".view.photo").get_by_text("Remove photo").click()
    page.get_by_text("Photo: 2.png").wait_for()


def test_the_slider_acts_on_what_is_loaded(page: Any, photos: Path) -> None:
    choose(page, photos / "0.png")
    page.click("#search")
    shown = found(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if "search" in request.url else None)
    page.eval_on_selector("#threshold", "e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    assert found(page) == shown[:1]
    assert f"1 of {COUNT} photos" in page.inner_text("#results-state")
    page.eval_on_selector("#threshold", "e => { e.value = e.min; e.dispatchEvent(new Event('input')); }")
    assert found(page) == shown
    assert requests == []


def test_columns_are_completed_and_the_parser_explains(page: Any, photos: Path) -> None:
    choose(page, photos / "0.png")
    page.locator("#filter").press_sequentially("pr")
    page.get_by_role("option", name="price").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.input_value("#filter") == "price "
    page.locator("#filter").press_sequentially(">")
    page.keyboard.press("Enter")
    page.locator("#filter-message").wait_for()
    message = page.inner_text("#filter-message")
    assert "expected a value, found the end" in message
    assert message.rstrip().endswith("^")
    page.locator("#filter").press_sequentially(" 5")
    assert page.is_hidden("#filter-message")
    page.keyboard.press("Enter")
    assert sorted(found(page)) == ["6.png", "shelf/7.png"]


def test_the_keyboard_alone_suffices(page: Any, photos: Path) -> None:
    page.focus("#browse")
    page.keyboard.press("Enter")
    page.get_by_label("Search with 0.png").wait_for()
    page.get_by_label("Search with 0.png").focus()
    page.keyboard.press("Enter")
    page.locator(".canvas:focus").wait_for()
    page.keyboard.press("n")
    page.locator(".box:focus").wait_for()
    page.set_viewport_size({"width": 700, "height": 900})
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator(".box:focus").count() == 1, "the canvas was drawn again"
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "search":
            break
    page.keyboard.press("Enter")
    found(page)
    assert boxes_of(page) == [[31, 26, 92, 75]]


def test_a_narrow_screen_scrolls_one_way_only(narrow: Any, photos: Path) -> None:
    choose(narrow, photos / "0.png")
    draw(narrow, (0.1, 0.2), (0.5, 0.6))
    narrow.click("#search")
    found(narrow)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360
    for button in narrow.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 30
    narrow.click("#to-library")
    narrow.locator("#library-grid .card").first.wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 360


def touch(page: Any, *places: tuple[float, float]) -> None:
    """A finger that goes over places, as shares of the photo."""
    canvas = page.locator(".view.photo .canvas")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    session = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(places):
        point = {"x": frame["x"] + x * frame["width"], "y": frame["y"] + y * frame["height"]}
        kind = "touchStart" if number == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_suffices(narrow: Any, photos: Path) -> None:
    choose(narrow, photos / "0.png")
    touch(narrow, (0.1, 0.2), (0.3, 0.4), (0.5, 0.6))
    touch(narrow, (0.52, 0.62), (0.6, 0.7))  # beside its corner, which a finger need not hit exactly
    narrow.click("#search")
    found(narrow)
    assert boxes_of(narrow)[0] == pytest.approx([12, 20, 72, 70], abs=3)
    touch(narrow, (0.7, 0.7), (0.8, 0.8), (0.9, 0.9))
    assert narrow.locator(".box").count() == 2
    narrow.get_by_text("Delete box").click()
    narrow.get_by_text("Delete box").click()
    assert narrow.locator(".box").count() == 0
    assert narrow.get_by_text("Delete box").is_hidden()


def test_a_search_is_copied_as_commands(page: Any, served: Served, photos: Path) -> None:
    choose(page, photos / "0.png")
    draw(page, (0.1, 0.2), (0.5, 0.6))
    page.fill("#filter", "price < 5")
    page.click("#search")
    found(page)
    page.click("#copy-command")
    page.get_by_text("Copied").wait_for()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("objemb search index 0.png --box ")
    assert command.endswith(" -k 60 --where 'price < 5'")
    page.click("#copy-curl")
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('curl ')")
    curl = page.evaluate("navigator.clipboard.readText()")
    assert "-F photo=@0.png --form-string 'query={" in curl
    assert curl.endswith(f"{served.url}/v1/search")


def test_errors_and_empty_answers_are_said(page: Any, photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a photo")
    page.set_input_files("#file", str(broken))
    page.get_by_text("broken.png cannot be shown as a photo").wait_for()
    choose(page, photos / "0.png")
    page.fill("#filter", "price > 1000")
    page.click("#search")
    page.get_by_text("Nothing was found.").wait_for()
    page.route("**/v1/search", lambda route: route.abort())
    page.fill("#filter", "")
    page.click("#search")
    page.get_by_text("The service cannot be reached.").wait_for()


def test_names_and_labels_are_text(browser: Any, index: Path, photos: Path) -> None:
    from dataclasses import replace

    from objemb.index.store import Index

    hostile = "<img src=x onerror=alert(1)>.png"
    opened_index = Index.open(index)
    rows = opened_index.get("0.png")
    assert rows is not None
    with opened_index.writer() as writer:
        writer.add(replace(rows, image=hostile, metadata={"<b>": "<script>alert(1)</script>"}))
    with serving(index, Options(decoders=1)) as running:
        for page in opened(browser, running.url):
            choose(page, photos / "0.png")
            page.click("#search")
            assert hostile in found(page)
            page.get_by_text("The photo is gone").first.wait_for()
            assert page.locator("#hits img[src=x]").count() == 0


def test_the_token_is_asked_for(browser: Any, shared_index: Path) -> None:
    with serving(shared_index, Options(decoders=1), token=TOKEN) as running:
        for page in opened(browser, running.url):
            page.fill("#token", "a wrong one")
            page.get_by_text("Continue").click()
            page.get_by_text("This is not the token").wait_for()
            page.fill("#token", TOKEN)
            page.get_by_text("Continue").click()
            page.get_by_text(f"{COUNT} photos").wait_for()
            page.click("#browse")
            page.locator("#library-grid img").first.wait_for()
