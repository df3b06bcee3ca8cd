from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.models import load_model
from objemb.visualize.pictures import COLOURS
from tests.cli.conftest import PLACES, Run, draw, parsed


def test_the_box_is_found_again(run: Run, photos: Path, index: Path) -> None:
    found = parsed(run("search", index, photos / "1.png", "--box", "60,20,110,70", "-k", 3, "--json"))
    assert set(found) == {"query", "scale", "approximate", "hits"}
    assert found["scale"] == "cosine similarity, at most 1"
    assert found["query"] == {
        "image": str(photos / "1.png"),
        "boxes": [[60, 20, 110, 70]],
        "more_views": [],
        "unlike": [],
    }
    assert len(found["hits"]) == 3
    hit = found["hits"][0]
    assert set(hit) == {"image", "score", "p_false", "box", "view", "query_box", "label", "metadata", "runners_up"}
    assert (hit["image"], hit["box"], hit["label"]) == ("1.png", [60, 20, 110, 70], "green")
    assert hit["query_box"] == [60, 20, 110, 70]
    assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert hit["runners_up"][0]["box"] == [0, 0, 120, 100]


def test_the_whole_image_by_default_and_several_boxes(run: Run, photos: Path, index: Path) -> None:
    whole = parsed(run("search", index, photos / "1.png", "--json"))
    assert whole["query"]["boxes"] == [[0, 0, 120, 100]]
    assert len(whole["hits"]) == 6
    two = parsed(run("search", index, photos / "1.png", "--box", "0,0,9,9", "--box", "60,20,110,70", "--json"))
    assert two["query"]["boxes"] == [[0, 0, 9, 9], [60, 20, 110, 70]]
    assert two["hits"][0]["query_box"] == [60, 20, 110, 70]


@pytest.mark.parametrize("crop", ["context", "crop", "scaled"])
def test_ways_to_crop(run: Run, photos: Path, index: Path, crop: str) -> None:
    found = parsed(run("search", index, photos / "1.png", "--box", "60,20,110,70", "--crop", crop, "--json"))
    assert found["hits"][0]["query_box"] == [60, 20, 110, 70]


def test_a_filter(run: Run, photos: Path, index: Path) -> None:
    found = parsed(run("search", index, photos / "1.png", "--where", "label = blue", "--json"))
    assert {h["image"] for h in found["hits"]} == {"2.png", "5.png"}
    assert run("search", index, photos / "1.png", "--where", "label = nothing").stdout == "nothing found\n"


def test_the_table_shows_file_names_as_they_are(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "1.png").rename(photos / "[red]1[bold].png")
    run("index", photos, "-o", tmp_path / "index", "--model", model)
    assert "[red]1[bold].png" in run("search", tmp_path / "index", photos / "2.png").stdout


def test_file_names_cannot_steer_the_terminal(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    (photos / "1.png").rename(photos / "\x1b]0;1\x07.png")
    (photos / "\x1b[2Jbroken.png").write_bytes(b"")
    skipped = run("index", photos, "-o", tmp_path / "index", "--model", model, code=3).stderr
    found = run("search", tmp_path / "index", photos / "2.png").stdout
    error = run("search", tmp_path / "index", "\x1b[2J.png", code=2).stderr
    assert r"\x1b[2Jbroken.png" in skipped
    assert r"\x1b]0;1\x07.png" in found
    assert r"\x1b[2J.png" in error
    assert "\x1b" not in skipped + found + error


def test_a_filter_with_a_mistake_is_pointed_at(run: Run, photos: Path, index: Path) -> None:
    lines = run("search", index, photos / "1.png", "--where", "label =", code=2).stderr.splitlines()
    assert lines[-2:] == ["  label =", "         ^"]


def test_a_summed_method_maps_the_box_back(run: Run, photos: Path, rmac: Path, tmp_path: Path) -> None:
    run("index", photos, "-o", tmp_path / "index", "--model", rmac)
    found = parsed(run("search", tmp_path / "index", photos / "1.png", "--box", "60,20,110,70", "--json"))
    assert found["query"]["boxes"] == [[60, 20, 110, 70]]
    assert found["hits"][0]["box"] == [0, 0, 120, 100]


def test_another_model_is_refused(run: Run, photos: Path, index: Path, rmac: Path) -> None:
    result = run("search", index, photos / "1.png", "--model", rmac, "--json", code=4)
    assert result.stdout == ""
    assert "fingerprint" in result.stderr
    assert f"which made this index and was at {(Index.open(index).model or {})['path']}, found" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{index}", "nowhere.png"], "nowhere.png"),
        (["nowhere", "{photo}"], "nowhere"),
        (["{index}", "{photo}", "--box", "1,2,3"], "X1,Y1,X2,Y2"),
        (["{index}", "{photo}", "--box", "0,0,500,500"], "inside the image of 120 x 100, found (0, 0, 500, 500)"),
        (["{index}", "{photo}", "--box", "0.2,0.3,0.4,0.5"], "fractions of the photo, from 0 to 1: '0.2,0.3,0.4,0.5'"),
        (["{index}", "{photo}", "--box", "60,50,40,30"], "if that is x, y, width, height, write 60,50,100,80"),
        (["{index}", "{photo}", "--box", "60,50,40,nan"], "X1 < X2 and Y1 < Y2, found '60,50,40,nan'"),
        (["{index}", "{photo}", "--model", "none", "--box", "9,9,99,199"], "inside the image of 120 x 100"),
        (["{index}", "{photo}", "--box", "a,b,c,d"], "'a,b,c,d'"),
        (["{index}", "{photo}", "--auto"], "detector"),
        (["{index}", "{photo}", "--auto", "--box", "1,2,3,4"], "one of them at most, found --box and --auto"),
        (["{index}", "{photo}", "--auto", "--whole"], "one of them at most, found --auto and --whole"),
        (["{index}", "{photo}", "--crop", "wide"], "'context', 'crop', 'scaled'"),
        (["{index}", "{photo}", "--where", "label ="], "expected"),
        (["{index}", "{photo}", "--model", "nowhere"], "objemb model build"),
        (["{index}", "{photo}", "-k", "0"], "-k"),
        (["{index}", "{photo}", "--save", "nowhere/x.png"], "nowhere"),
        (["{index}", "{photo}", "--save", "x.gif"], "--save: expected a name that ends in .png"),
        (["{index}", "{photo}", "--html", "nowhere/x.html"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    run: Run, photos: Path, index: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    filled = [a.format(index=index, photo=photos / "0.png") for a in arguments]
    result = run("search", *filled, code=2)
    assert message in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_a_query_that_is_no_image(run: Run, index: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("text")
    assert "text.png" in run("search", index, tmp_path / "text.png", code=2).stderr


def test_debug_shows_the_traceback(photos: Path, index: Path) -> None:
    from typer.testing import CliRunner

    from objemb.cli.app import command_line

    result = CliRunner().invoke(command_line(), ["--debug", "search", str(index), str(photos / "0.png"), "--auto"])
    assert isinstance(result.exception, ValueError)
    assert CliRunner().invoke(command_line(), ["search", str(index), str(photos / "0.png"), "--auto"]).exit_code == 2


def test_the_page_is_one_file_and_draws_the_boxes(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    run("search", index, photos / "1.png", "--box", "60,20,110,70", "--html", page)
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:image/jpeg;base64,)""", html)
    assert "<script" not in html
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", html)
    assert html.count('class="card"') == 7
    assert f'<rect class="over" stroke="{COLOURS[0]}" x="60.0" y="20.0" width="50.0" height="50.0"/>' in html
    assert html.count('title="matched box"') + html.count("the whole photo matched") == 6
    assert "green" in html
    assert "1.000" in html


def test_hostile_names_and_labels_are_text(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)<x>&\"'.png"
    (photos / "1.png").rename(photos / name)
    coco = json.loads((tmp_path / "boxes.json").read_text())
    coco["images"][1]["file_name"] = name
    coco["categories"][1]["name"] = '"><img src=x onerror=alert(2)>'
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    (tmp_path / "list.json").write_text(
        json.dumps({"images": [{"id": 1, "file_name": f"photos/{name}", "<b>": "</dl><script>alert(3)"}]})
    )
    run("index", photos, "-o", tmp_path / "a", "--model", model, "--boxes", tmp_path / "boxes.json")
    run("index", tmp_path / "list.json", "-o", tmp_path / "b", "--model", model)
    for index in ("a", "b"):
        page = tmp_path / f"{index}.html"
        run("search", tmp_path / index, photos / name, "--box", "60,20,110,70", "--html", page, "--save", f"{page}.png")
        html = page.read_text(encoding="utf-8")
        assert "&lt;script&gt;alert(1)" in html
        assert "<script" not in html
        assert "<img src=x" not in html
        assert "<b>" not in html
        assert set(re.findall(r"<(\w+)", html)) <= {
            *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "div", "img", "svg"),
            *("rect", "ol", "li", "p", "span", "wbr", "details", "summary", "dl", "dt", "dd"),
        }


def test_a_photo_that_has_vanished_is_grey(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    (photos / "2.png").unlink()
    (photos / "3.png").write_bytes(b"broken meanwhile")
    page = tmp_path / "out.html"
    run("search", index, photos / "1.png", "--html", page, "--save", tmp_path / "out.png")
    assert page.read_text(encoding="utf-8").count("is missing, or has changed since") == 2


def test_nothing_found_is_a_page_too(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    page, sheet = tmp_path / "out.html", tmp_path / "out.png"
    run("search", index, photos / "1.png", "--where", "label = nothing", "--html", page, "--save", sheet)
    assert "Nothing found" in page.read_text(encoding="utf-8")
    assert Image.open(sheet).width > 100


def test_the_contact_sheet_draws_boxes(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    run("search", index, photos / "1.png", "--box", "60,20,110,70", "-k", 4, "--save", tmp_path / "out.png")
    sheet = Image.open(tmp_path / "out.png")
    orange = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    colours = {c: n for n, c in sheet.getcolors(10**7)}  # type: ignore[union-attr]
    assert colours.get(orange, 0) > 400


def test_the_index_remembers_where_photos_were(photos: Path, index: Path) -> None:
    stamps = Index.open(index).stamps()
    assert json.loads(stamps["0.png"] or "")["path"] == str(photos / "0.png")


def test_reranked(run: Run, photos: Path, index: Path) -> None:
    ask = ("search", index, photos / "1.png", "--box", "60,20,110,70", "--json")
    plain = parsed(run(*ask, "--rerank", "none"))
    assert plain == parsed(run(*ask))
    expanded = parsed(run(*ask, "--rerank", "query_expansion,top=2", "--rerank", "region_match", "-k", 3))
    assert [h["image"] for h in expanded["hits"]][:2] == ["1.png", "4.png"]
    assert len(expanded["hits"]) == 3
    hit = expanded["hits"][0]
    assert (hit["box"], hit["label"]) == ([60, 20, 110, 70], "green")
    filtered = parsed(run(*ask, "--rerank", "query_expansion", "--where", "label = blue"))
    assert {h["image"] for h in filtered["hits"]} == {"2.png", "5.png"}
    assert {h["label"] for h in filtered["hits"]} == {"blue"}
    error = run(*ask, "--rerank", "query_expanson", code=2).stderr
    assert "did you mean 'query_expansion'" in error


def test_photos_are_looked_at_again(run: Run, photos: Path, index: Path) -> None:
    found = parsed(run("search", index, photos / "1.png", "--rerank", "region_match,look=true", "--json"))
    assert len(found["hits"]) == 6


def test_the_scale_of_scores_is_said_everywhere(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    ask = ("search", index, photos / "1.png", "--box", "60,20,110,70")
    assert run(*ask).stdout.endswith("score: cosine similarity, at most 1\n")
    page = tmp_path / "out.html"
    again = (*ask, "--rerank", "spatial_verification", "--html", page)
    scale = parsed(run(*again, "--json"))["scale"]
    assert scale.startswith("number of local features")
    assert f"score: {scale}" in run(*again).stdout
    html = page.read_text(encoding="utf-8")
    assert f"score: {scale.replace(chr(39), '&#x27;')}" in html
    assert "cosine" not in html
    last = parsed(run(*ask, "--rerank", "spatial_verification", "--rerank", "query_expansion", "--json"))
    assert last["scale"] == "cosine similarity, at most 1"


def test_a_missing_photo_keeps_its_hit_when_others_are_reranked(run: Run, photos: Path, index: Path) -> None:
    pytest.importorskip("cv2")
    (photos / "2.png").unlink()
    (photos / "3.png").write_bytes(b"broken meanwhile")
    draw(photos / "4.png", 4, seed=9)  # another photo of the same name
    ask = ("search", index, photos / "1.png", "--box", "60,20,110,70", "--rerank", "spatial_verification")
    found = run(*ask, "--json")
    assert sorted(h["image"] for h in parsed(found)["hits"][3:]) == ["2.png", "3.png", "4.png"]
    for image in ("2.png", "3.png", "4.png"):
        assert f"{image}: expected the indexed photo, found that it was removed or changed since" in found.stderr


def test_an_index_without_photos_cannot_be_reranked_by_photos(
    run: Run, photos: Path, model: Path, tmp_path: Path
) -> None:
    opened = load_model(model)
    made = Index.create(tmp_path / "made", schema=UnitVectors(opened.dim), fingerprint=opened.fingerprint)
    with made.writer() as writer:
        for described in opened.stream(photos):
            writer.add(described)
    ask = ("search", tmp_path / "made", photos / "1.png", "--model", model)
    pytest.importorskip("cv2")
    error = run(*ask, "--rerank", "spatial_verification", code=2).stderr
    assert "expected an index with the paths of its photos" in error
    assert len(parsed(run(*ask, "--json"))["hits"]) == 6


def test_photos_of_many_pixels_can_be_queries_and_reranked(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    page = tmp_path / "out.html"
    ask = ("search", index, photos / "1.png", "--rerank", "spatial_verification", "--html", page, "--json")
    assert "pixels" in run(*ask, "--max-pixels", 11_999, code=2).stderr
    found = run(*ask, "--max-pixels", 12_000)
    assert "not re-ranked" not in found.stderr
    assert "photo is missing" not in page.read_text(encoding="utf-8")


def test_an_index_cannot_say_which_files_go_into_a_page(
    run: Run, photos: Path, index: Path, model: Path, tmp_path: Path
) -> None:
    """A stranger may write any path into an index, but not the time of change of a file that he has never seen."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (120, 100), (1, 2, 250)).save(secret)
    opened = Index.open(index)
    stamp = json.loads(opened.stamps()["1.png"] or "")
    with opened.writer() as writer:
        stored = opened.get("1.png")
        assert stored is not None
        writer.add(stored, stamp=json.dumps({**stamp, "path": str(secret)}))
    page = tmp_path / "out.html"
    run("search", index, photos / "1.png", "--html", page, "--save", tmp_path / "out.png")
    assert page.read_text(encoding="utf-8").count("is missing, or has changed since") == 1


def test_a_page_says_where_its_answer_comes_from_but_no_paths(
    run: Run, photos: Path, index: Path, model: Path, tmp_path: Path
) -> None:
    page = tmp_path / "out.html"
    run("search", index, photos / "1.png", "--html", page)
    html = page.read_text(encoding="utf-8")
    assert f"index: {index.name}, 6 photos · model: {model.name} (pooled_regions, " in html
    assert "score: cosine similarity, at most 1" in html
    assert str(tmp_path) not in html


def test_a_whole_photo_is_not_called_a_box(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    run("search", index, photos / "1.png", "--html", page)
    html = page.read_text(encoding="utf-8")
    assert "searched for the whole photo" in html
    assert 'title="query box"' not in html
    run("search", index, photos / "1.png", "--box", "60,20,110,70", "--html", page)
    html = page.read_text(encoding="utf-8")
    assert "searched for this box" in html
    assert 'title="query box"' in html


@pytest.mark.parametrize("rerank", [(), ("--rerank", "query_expansion,top=2")])
def test_the_query_itself_and_low_scores_are_left_out(
    run: Run, photos: Path, index: Path, rerank: tuple[str, ...]
) -> None:
    box = ",".join(map(str, PLACES[0]))
    more = ("--box", box, "-k", 3, "--json", *rerank)
    names = [hit["image"] for hit in parsed(run("search", index, photos / "0.png", *more))["hits"]]
    assert names[0] == "0.png"
    hits = parsed(run("search", index, photos / "0.png", *more, "--exclude-self"))["hits"]
    assert len(hits) == 3
    assert "0.png" not in {hit["image"] for hit in hits}
    assert parsed(run("search", index, photos / "0.png", *more, "--min-score", 1000))["hits"] == []
    least = hits[0]["score"]
    few = parsed(run("search", index, photos / "0.png", *more, "--exclude-self", "--min-score", least))["hits"]
    assert few == [hit for hit in hits if hit["score"] >= least]


def test_leaving_out_a_query_that_goes_by_another_name(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    (tmp_path / "link 'x'.png").symlink_to(photos / "0.png")
    shutil.copy(photos / "0.png", tmp_path / "copy.png")
    found = parsed(run("search", index, tmp_path / "link 'x'.png", "--exclude-self", "--json"))["hits"]
    assert "0.png" not in {hit["image"] for hit in found}
    copied = run("search", index, tmp_path / "copy.png", "--exclude-self")
    assert "the query is not in the index" in copied.stderr


def test_leaving_out_with_a_filter_and_a_mistake_in_it(run: Run, photos: Path, index: Path) -> None:
    more = ("--rerank", "query_expansion,top=2", "--exclude-self", "--where")
    hits = parsed(run("search", index, photos / "0.png", *more, "label = red or image = '4.png'", "--json"))["hits"]
    assert {hit["image"] for hit in hits} == {"3.png", "4.png"}
    wrong = run("search", index, photos / "0.png", *more, "label = = red", code=2)
    assert "position 9" in wrong.stderr


def test_an_index_that_does_not_know_its_model(run: Run, photos: Path, model: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    unknown = Index.create(tmp_path / "unknown", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    known = Index.create(
        tmp_path / "known", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint, model=loaded.about
    )
    for made in (unknown, known):
        with made.writer() as writer:
            for described in loaded.stream(photos):
                writer.add(described)
    result = run("search", unknown.path, photos / "0.png", code=2)
    assert "model: expected a model folder, since none is recorded in the index" in result.stderr
    assert len(parsed(run("search", unknown.path, photos / "0.png", "--model", model, "--json"))["hits"]) == 6
    assert len(parsed(run("search", known.path, photos / "0.png", "--json"))["hits"]) == 6


def test_a_full_disk_is_one_line_with_the_name(
    run: Run, index: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    page = tmp_path / "page.html"
    page.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("search", index, photos / "0.png", "--html", page, code=2)
    assert f"objemb: {page}: No space left on device" in result.stderr
    assert page.read_text() == "old"
