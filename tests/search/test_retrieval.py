from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import objemb
from objemb.checks import ArtefactMismatchError
from objemb.describers.base import Describer
from objemb.images import UnreadableImageError
from objemb.images.inputs import View
from objemb.images.sources import SkippedImage
from objemb.index.filters.syntax import WhereError
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.store import Index
from objemb.models import build_model, load_model, save_model
from objemb.models.base import QUERIES_AT_ONCE
from objemb.rerank.query_expansion import QueryExpansion
from objemb.search.retrieval import HELD_DATABASES, Retrieval
from objemb.structures import SearchResult
from objemb.text import json_text
from objemb.visualize.html import html_text
from tests.cli.conftest import PLACES, Run, draw, parsed
from tests.models.conftest import SETTINGS

BOX = PLACES[1]
STEPS = ("query_expansion,top=2", "region_match")


@pytest.fixture
def retrieval(index: Path) -> Retrieval:
    return objemb.open(index)


@pytest.mark.parametrize("where", [None, "label = blue or label = green"])
@pytest.mark.parametrize("steps", [None, (), STEPS, ("region_match,look=true",)])
@pytest.mark.parametrize("box", [None, BOX])
def test_the_command_and_python_give_the_same_answer(
    run: Run, photos: Path, index: Path, box: Sequence[int] | None, steps: Sequence[str] | None, where: str | None
) -> None:
    named = ["none"] if steps == () else steps or []
    command = parsed(
        run(
            *("search", index, photos / "1.png", "--json", "-k", 4),
            *(() if box is None else ("--box", ",".join(map(str, box)))),
            *(() if where is None else ("--where", where)),
            *(word for step in named for word in ("--rerank", step)),
        )
    )
    boxes = None if box is None else [box]
    found = objemb.open(index).search(str(photos / "1.png"), boxes, k=4, where=where, rerank=steps)
    assert found.to_json() == command
    assert len(found) == 4
    assert {hit.label for hit in found} <= {"green", "blue"} if where else True


def test_it_is_found_at_the_top_of_the_package(photos: Path, index: Path) -> None:
    found = objemb.open(index).search(photos / "1.png", [BOX])
    assert (found[0].image, found[0].box, found[0].label) == ("1.png", BOX, "green")


def test_the_models_own_rerankers_are_asked_unless_others_are_named(run: Run, photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**SETTINGS, "rerank": [{"name": "query_expansion", "top": 2}]}
    save_model(build_model(settings), tmp_path / "model")
    run("index", photos, "-o", tmp_path / "index", "--model", tmp_path / "model")
    retrieval = objemb.open(tmp_path / "index")
    own = retrieval.search(photos / "1.png")
    plain = retrieval.search(photos / "1.png", rerank=[])
    assert own == retrieval.search(photos / "1.png", rerank=[QueryExpansion(top=2)])
    assert own == retrieval.search(photos / "1.png", rerank=["query_expansion,top=2"])
    assert [hit.score for hit in own] != [hit.score for hit in plain]
    assert plain == retrieval.index.search(retrieval.model.query(photos / "1.png"))
    command = parsed(run("search", tmp_path / "index", photos / "1.png", "--json"))
    assert [hit["score"] for hit in command["hits"]] == [hit.score for hit in own]


@pytest.mark.parametrize("rerank", [(), STEPS, ("region_match,look=true",)])
def test_many_queries_have_the_answers_of_each(photos: Path, retrieval: Retrieval, rerank: Sequence[str]) -> None:
    Image.open(photos / "2.png").resize((100, 140)).save(photos / "tall.png")
    queries: list[Any] = [
        View(photos / "1.png", [BOX]),
        photos / "tall.png",
        View((photos / "2.png").read_bytes(), [BOX, PLACES[0]]),
        View(photos / "3.png", "whole"),
        View(photos / "4.png", []),
        View(photos / "1.png", [PLACES[0]]),
    ]
    left_out = [(), "2.png", ["1.png", "3.png"], (), (), ()]
    asked: dict[str, Any] = {"k": 3, "where": "label != red", "min_score": 0.1, "rerank": rerank}
    together = retrieval.search_many(queries, exclude=left_out, **asked)
    assert [len(result) for result in together] == [3, 3, 3, 3, 0, 3]
    views = [query if isinstance(query, View) else View(query) for query in queries]
    described = [retrieval.model.query(view.image, view.boxes) for view in views]
    images = [view.image for view in views]
    apart = retrieval.search_described(described, images=images, exclude=left_out, **asked)
    for view, out, result, same in zip(views, left_out, together, apart, strict=True):
        expected = retrieval.search(view.image, view.boxes, exclude=out, **asked)
        assert same.to_json()["hits"] == expected.to_json()["hits"], "to the last digit"
        assert (result.query_image, result.query_boxes) == (expected.query_image, expected.query_boxes)
        places = [(hit.image, hit.box, hit.query_box, hit.label) for hit in result]
        assert places == [(hit.image, hit.box, hit.query_box, hit.label) for hit in expected]
        assert [hit.score for hit in result] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert retrieval.search_many([], rerank=rerank) == []


def test_many_queries_share_passes(photos: Path, retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    describe = Describer.describe

    def counted(self: Describer, photos: Sequence[Any], regions: Any = None) -> Any:
        batches.append(len(photos))
        return describe(self, photos, regions)

    monkeypatch.setattr(Describer, "describe", counted)
    retrieval.search_many([View(photos / f"{n % 6}.png", [BOX]) for n in range(QUERIES_AT_ONCE + 2)])
    assert batches == [QUERIES_AT_ONCE, 2]


@pytest.mark.parametrize(
    ("queries", "arguments", "error", "message"),
    [
        ("1.png", {}, TypeError, "queries: expected a list of images or views, found str"),
        (View("1.png"), {}, TypeError, "queries: expected a list of images or views, found View"),
        ([("1.png", [BOX])], {}, TypeError, r"queries: expected images or objemb\.View"),
        (["1.png"], {"exclude": ["a", "b"]}, ValueError, "an entry for each of 1 queries, found"),
        (["1.png"], {"exclude": "a"}, ValueError, "exclude: expected a list with an entry for each of 1 queries"),
        (["0.png", "gone.png"], {"on_skip": None}, FileNotFoundError, "found none at .*gone.png"),
        (["0.png", b"no photo"], {"on_skip": None}, UnreadableImageError, "image: "),
        ([View("0.png", "some")], {}, ValueError, "boxes: expected"),
        ([View("0.png", "detector")], {}, ValueError, "expected a model with a detector, found one without"),
        (["0.png"], {"crop": "some"}, ValueError, "crop: expected"),
        (["0.png"], {"rerank": STEPS, "k": 0}, ValueError, "k: expected"),
    ],
)
def test_wrong_lists_of_queries(
    photos: Path,
    retrieval: Retrieval,
    monkeypatch: pytest.MonkeyPatch,
    queries: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(error, match=message):
        retrieval.search_many(queries, **arguments)


@pytest.mark.parametrize("rerank", [(), STEPS, ("region_match,look=true",)])
def test_broken_queries_do_not_stop_the_others(photos: Path, retrieval: Retrieval, rerank: Sequence[str]) -> None:
    broken = photos / "broken.jpg"
    broken.write_bytes((photos / "1.png").read_bytes()[:99])
    good: dict[int, Any] = {1: View(photos / "1.png", [BOX]), 4: photos / "4.png"}
    outside = View(photos / "2.png", [(0, 0, 9999, 10)])
    queries: list[Any] = [photos / "gone.png", good[1], broken, outside, good[4], b"no photo"]
    left_out = [(), "1.png", "2.png", (), "4.png", ()]
    skipped: list[SkippedImage] = []
    asked: dict[str, Any] = {"k": 3, "rerank": rerank}
    results = retrieval.search_many(queries, exclude=left_out, on_skip=skipped.append, **asked)
    assert [(one.id, one.path) for one in skipped] == [
        *((str(photos / name), str(photos / name)) for name in ("gone.png", "broken.jpg", "2.png")),
        ("5", ""),
    ]
    reasons = ["expected a file, found none at", "", "inside the image of .*, found .*9999", ""]
    for one, number, reason in zip(skipped, (0, 2, 3, 5), reasons, strict=True):
        assert re.search(reason, one.reason)
        assert results[number].skipped == one.reason
        assert (len(results[number]), results[number].query_image) == (0, one.path or "image")
        assert f"Not searched for: {html_text(one.reason)}" in (results[number]._repr_html_() or "")
        assert SearchResult.from_json(results[number].to_json()) == results[number]
    alone = retrieval.search_many(list(good.values()), exclude=[left_out[n] for n in good], **asked)
    for number, expected in zip(good, alone, strict=True):
        assert results[number].skipped is None
        assert "skipped" not in results[number].to_json()
        assert [hit.image for hit in results[number]] == [hit.image for hit in expected]
        assert [hit.score for hit in results[number]] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_skipped_queries_are_logged(photos: Path, retrieval: Retrieval, caplog: pytest.LogCaptureFixture) -> None:
    results = retrieval.search_many([photos / "gone.png", b""])
    assert [len(result) for result in results] == [0, 0]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"skipped {photos / 'gone.png'}",
        "skipped 1",
    ]


def test_a_list_is_not_one_photo(photos: Path, retrieval: Retrieval) -> None:
    with pytest.raises(TypeError, match=r"expected one photo, found a list; search_many .* like= "):
        retrieval.search([photos / "1.png"])  # type: ignore[arg-type]


def test_results_show_their_photos_and_travel_without_them(photos: Path, retrieval: Retrieval) -> None:
    one = retrieval.search(photos / "1.png", [BOX], k=3)
    many = retrieval.search_many([(photos / "1.png").read_bytes()], k=3)[0]
    views = retrieval.search(like=[View(photos / "1.png", [BOX]), photos / "4.png"], k=3)
    for result, pictures in ((one, 4), (many, 4), (views, 5)):
        page = result._repr_html_() or ""
        assert page.count("data:image/jpeg") == pictures
        assert "missing" not in page
    (photos / one[2].image).unlink()
    assert (one._repr_html_() or "").count("the photo is missing, or has changed since") == 1
    retrieval.index.delete([one[1].image])
    assert (one._repr_html_() or "").count("the photo is missing, or has changed since") == 2
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again._repr_html_() is None


def test_python_writes_the_bytes_of_the_command(run: Run, photos: Path, index: Path) -> None:
    command = run("search", index, photos / "1.png", "--box", ",".join(map(str, BOX)), "--json")
    found = objemb.open(index).search(str(photos / "1.png"), [BOX])
    assert json_text(found.to_json()) + "\n" == command.stdout


@pytest.mark.parametrize("rerank", [(), STEPS, ("spatial_verification",)])
def test_queries_are_anything_that_is_an_image(photos: Path, retrieval: Retrieval, rerank: Sequence[str]) -> None:
    if "spatial_verification" in rerank:
        pytest.importorskip("cv2")
    path = photos / "1.png"
    expected = retrieval.search(path, [BOX], rerank=rerank)
    with Image.open(path) as picture, path.open("rb") as file:
        for image in (path.read_bytes(), file, picture, np.asarray(picture)):
            found = retrieval.search(image, [BOX], rerank=rerank)
            assert found.hits == expected.hits


def test_what_is_left_out(photos: Path, retrieval: Retrieval, tmp_path: Path) -> None:
    assert retrieval.ids_of(photos / "0.png") == ["0.png"]
    (tmp_path / "link.png").symlink_to(photos / "0.png")
    assert retrieval.ids_of(str(tmp_path / "link.png")) == ["0.png"]
    shutil.copy(photos / "0.png", tmp_path / "copy.png")
    assert retrieval.ids_of(tmp_path / "copy.png") == []
    for steps in ((), STEPS):
        everything = retrieval.search(photos / "0.png", [PLACES[0]], rerank=steps)
        assert everything[0].image == "0.png"
        others = retrieval.search(photos / "0.png", [PLACES[0]], rerank=steps, exclude=["0.png", "it's not there"], k=3)
        assert len(others) == 3
        assert "0.png" not in {hit.image for hit in others}
        assert retrieval.search(photos / "0.png", [PLACES[0]], rerank=steps, exclude="0.png", k=3) == others
        least = others[1].score
        kept = retrieval.search(photos / "0.png", [PLACES[0]], rerank=steps, exclude="0.png", k=3, min_score=least)
        assert kept.hits == tuple(hit for hit in others if hit.score >= least)


def test_all_rows_are_read_only_where_a_reranker_needs_them(
    photos: Path, retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    dense = Index.dense_rows
    monkeypatch.setattr(Index, "dense_rows", lambda self, where=None: (asked.append(where), dense(self, where))[1])
    plain = retrieval.search(photos / "1.png", rerank=STEPS)
    assert asked == []
    assert "4.png" in {hit.image for hit in plain}
    steps = ("database_augmentation,top=2", *STEPS)
    for _ in range(3):
        before = retrieval.search(photos / "1.png", rerank=steps)
    assert asked == [None]
    assert "4.png" in {hit.image for hit in before}
    assert retrieval.ids_of(photos / "4.png") == ["4.png"]
    retrieval.index.delete(["4.png"])
    after = retrieval.search(photos / "1.png", rerank=steps)
    assert asked == [None, None]
    assert {hit.image for hit in after} == {hit.image for hit in before} - {"4.png"}
    assert retrieval.ids_of(photos / "4.png") == []
    filters = [f"label = {colour}" for colour in ("red", "green", "blue")]
    for where in (*filters, filters[-1], filters[0]):
        retrieval.search(photos / "1.png", rerank=steps, where=where)
    assert asked[2:] == [*filters, filters[0]]
    assert len(retrieval._databases) == HELD_DATABASES


def test_several_threads_may_search(photos: Path, retrieval: Retrieval) -> None:
    filters = (None, "label = red", "label != red")

    def ask(number: int) -> objemb.SearchResult:
        place, steps = PLACES[number % 3], STEPS if number % 2 else ()
        return retrieval.search(photos / f"{number % 6}.png", [place], rerank=steps, where=filters[number % 3])

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_the_photo_of_a_hit(photos: Path, retrieval: Retrieval) -> None:
    assert retrieval.photo_of("1.png") == photos / "1.png"
    draw(photos / "1.png", 1, seed=5)
    (photos / "2.png").unlink()
    assert retrieval.photo_of("1.png") is None
    assert retrieval.photo_of("2.png") is None
    with pytest.raises(KeyError, match=r"7\.png"):
        retrieval.photo_of("7.png")


def test_an_index_without_photos_is_searched_but_not_reranked_by_photos(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    loaded = load_model(model)
    made = Index.create(tmp_path / "made", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    with made.writer() as writer:
        for described in loaded.stream(photos):
            writer.add(described)
    retrieval = Retrieval(loaded, made)
    assert len(retrieval.search(photos / "1.png", rerank=STEPS)) == 6
    with pytest.raises(FileNotFoundError, match="since none is recorded in the index"):
        objemb.open(made.path)
    assert len(objemb.open(made.path, model).search(photos / "1.png")) == 6
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match="rerank: expected an index with the paths of its photos"):
        retrieval.search(photos / "1.png", rerank=["spatial_verification"])


def test_an_empty_index(model: Path, photos: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    made = Index.create(tmp_path / "made", schema=UnitVectors(loaded.dim), fingerprint=loaded.fingerprint)
    retrieval = Retrieval(loaded, made)
    for steps in ((), STEPS):
        assert retrieval.search(photos / "1.png", rerank=steps).hits == ()


def test_an_open_model_serves_several_indexes(index: Path, model: Path, rmac: Path, photos: Path) -> None:
    loaded = load_model(model)
    retrieval = objemb.open(index, loaded)
    assert retrieval.model is loaded
    assert retrieval.search(photos / "1.png", [BOX]) == objemb.open(index).search(photos / "1.png", [BOX])
    with pytest.raises(ArtefactMismatchError, match="which made this index"):
        objemb.open(index, load_model(rmac))


def test_a_recorded_model_that_was_replaced(index: Path, model: Path, rmac: Path, tmp_path: Path) -> None:
    opened = Index.open(index)
    shutil.copytree(rmac, tmp_path / "replaced")
    about = {"path": str(tmp_path / "replaced")}
    made = Index.create(tmp_path / "made", schema=UnitVectors(opened.dim), fingerprint=opened.fingerprint, model=about)
    with pytest.raises(ArtefactMismatchError, match=r"another model was put there since: pass .*model="):
        objemb.open(made.path)
    assert objemb.open(made.path, model).model.fingerprint == opened.fingerprint


def test_another_model_is_refused_before_it_is_built(index: Path, rmac: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactMismatchError, match="which made this index"):
        Retrieval(load_model(rmac), Index.open(index))
    shutil.copytree(rmac, tmp_path / "broken")
    (tmp_path / "broken" / "weights.safetensors").write_bytes(b"nothing that could be loaded")
    with pytest.raises(ArtefactMismatchError, match="which made this index"):
        objemb.open(index, tmp_path / "broken")


def test_a_model_that_has_moved(index: Path, model: Path, tmp_path: Path) -> None:
    opened = Index.open(index)
    assert (opened.model or {})["path"] == str(model)
    made = Index.create(
        tmp_path / "made",
        schema=UnitVectors(opened.dim),
        fingerprint=opened.fingerprint,
        model={"path": str(tmp_path / "gone")},
    )
    with pytest.raises(FileNotFoundError, match=r"expected the model of the index at .*gone, found nothing"):
        objemb.open(made.path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rerank": STEPS, "exact": False}, ValueError, "expected a search structure, found none"),
        ({"rerank": "query_expansion"}, TypeError, "rerank: expected a list of re-rankers, found the text"),
        ({"rerank": ["query_expanson"]}, ValueError, "did you mean 'query_expansion'"),
        ({"rerank": STEPS, "k": 0}, ValueError, "k: expected an integer of 1 or more, found 0"),
        ({"rerank": STEPS, "min_score": "high"}, ValueError, "min_score: expected a number .* found 'high'"),
        ({"where": "label ="}, WhereError, "expected"),
        ({"rerank": STEPS, "where": "label ="}, WhereError, "expected"),
        ({"boxes": "some"}, ValueError, "boxes: expected"),
        ({"boxes": "detector"}, ValueError, "expected a model with a detector"),
        ({"boxes": [(0, 0, 500, 500)]}, ValueError, "inside the image of 120 x 100"),
        ({"crop": "wide"}, ValueError, "crop: expected"),
    ],
)
def test_wrong_arguments(
    photos: Path, retrieval: Retrieval, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        retrieval.search(photos / "1.png", **arguments)


def test_photos_of_too_many_pixels(photos: Path, index: Path) -> None:
    with pytest.raises(ValueError, match="max_pixels: expected an integer of 1 or more"):
        objemb.open(index, max_pixels=0)
    with pytest.raises(UnreadableImageError, match="pixels"):
        objemb.open(index, max_pixels=11_999).search(photos / "1.png")


@pytest.fixture
def computed_in(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of what convolutions gave, in order."""
    seen: list[torch.dtype] = []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, input: torch.Tensor) -> torch.Tensor:
        found = forward(self, input)
        seen.append(found.dtype)
        return found

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    return seen


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_rerankers_that_look_into_photos_compute_as_the_model_does(
    photos: Path, index: Path, computed_in: list[torch.dtype], precision: str, dtype: torch.dtype
) -> None:
    retrieval = objemb.open(index, precision=precision)
    counts = []
    for steps in ([], ["region_match,look=true"]):
        computed_in.clear()
        retrieval.search(photos / "1.png", [BOX], rerank=steps)
        assert set(computed_in) == {dtype}
        counts.append(len(computed_in))
    assert counts[1] > counts[0], "the re-ranker looks into the query's photo"
