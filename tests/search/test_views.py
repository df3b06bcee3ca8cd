"""Several views as one query, and counter-examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import objemb
from objemb.checks import ArtefactMismatchError
from objemb.images.inputs import View
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.search.combiners.base import unit
from objemb.search.combiners.best import Best
from objemb.search.retrieval import Retrieval
from objemb.search.views import SeveralViews
from objemb.structures import RegionDescriptors, Regions, SearchResult
from objemb.types import Float32Array
from tests.cli.conftest import PLACES, Run, parsed


@pytest.fixture
def retrieval(index: Path) -> Retrieval:
    return objemb.open(index)


def scores(result: SearchResult) -> dict[str, float]:
    return {hit.image: hit.score for hit in result}


def test_the_best_view_counts_and_is_named(photos: Path, retrieval: Retrieval) -> None:
    views = [View(photos / f"{n}.png", [PLACES[n]]) for n in (0, 1)]
    found = retrieval.search(like=views, k=6)
    single = [retrieval.search(view.image, view.boxes, k=6) for view in views]
    assert scores(found) == {
        image: max(scores(one)[image] for one in single) for image in ("0.png", "1.png", *scores(single[0]))
    }
    assert [view.image for view in found.views] == [str(photos / "0.png"), str(photos / "1.png")]
    assert [view.boxes for view in found.views] == [(PLACES[0],), (PLACES[1],)]
    views_of = {hit.image: hit.view for hit in found}
    assert (views_of["0.png"], views_of["1.png"]) == (0, 1)
    for hit in found:
        assert hit.query_box == PLACES[hit.view]
        assert all(other.query_box == PLACES[other.view] for other in hit.runners_up)


def test_the_first_photo_is_a_view_too(photos: Path, retrieval: Retrieval) -> None:
    together = retrieval.search(photos / "0.png", [PLACES[0]], like=[View(photos / "1.png", [PLACES[1]])])
    assert together == retrieval.search(like=[View(photos / f"{n}.png", [PLACES[n]]) for n in (0, 1)])
    same = retrieval.search(like=[View(photos / "0.png", [PLACES[0]])])
    assert same.hits == retrieval.search(photos / "0.png", [PLACES[0]]).hits


@pytest.mark.parametrize("combine", ["mean", "classifier", "classifier,strength=0.1"])
def test_one_vector_for_all_views(photos: Path, retrieval: Retrieval, combine: str) -> None:
    views = [View(photos / "0.png", [PLACES[0]]), View(photos / "1.png", [PLACES[1], (0, 0, 9, 9)])]
    found = retrieval.search(like=views, combine=combine, k=6)
    assert len(found) == 6
    assert ("mean" if combine == "mean" else "classifier") in found.scale
    vectors = np.concatenate([retrieval.model.query(view.image, view.boxes).vectors for view in views])  # type: ignore
    places = [(0, PLACES[0]), (1, PLACES[1]), (1, (0, 0, 9, 9))]
    for hit in found:
        stored = retrieval.index.get(hit.image)
        assert isinstance(stored, RegionDescriptors)
        row = [tuple(box) for box in stored.regions.boxes.tolist()].index(hit.box)
        assert (hit.view, hit.query_box) == places[int((vectors @ stored.vectors[row]).argmax())]
    if combine == "mean":
        best = {hit.image: hit.score for hit in found}
        for image, score in best.items():
            assert score == pytest.approx(
                float((retrieval.index.get(image).vectors @ unit(vectors.mean(0, keepdims=True)).T).max()), abs=1e-5
            )


def made(folder: Path, vectors: Float32Array, per_image: int) -> Index:
    """An index of images with some rows each, of labels ``even`` and ``odd``."""
    index = Index.create(folder, schema=UnitVectors(vectors.shape[1]), fingerprint="f")
    with index.writer() as writer:
        for number, rows in enumerate(vectors.reshape(-1, per_image, vectors.shape[1])):
            boxes = np.array([[r, 0, r + 1, 1] for r in range(per_image)], np.float32)
            labels = np.arange(per_image) % 2
            regions = Regions(boxes, (1, per_image), labels=labels, classes=("even", "odd"))
            writer.add(RegionDescriptors(str(number), regions, rows))
    return index


@pytest.mark.parametrize("where", [None, "label = odd"])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.8])
def test_counter_examples_against_a_comparison_with_every_row(tmp_path: Path, margin: float, where: str | None) -> None:
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(600, 4)).astype(np.float32))
    index = made(tmp_path / "made", vectors, 3)
    views, unlike = (unit(random.normal(size=(2, 4)).astype(np.float32)) for _ in range(2))
    unlike[0] = unit(views[:1] + 0.2 * unlike[:1])[0]  # close to a view, so that many hits are concerned
    described = [
        RegionDescriptors(n, Regions.whole((1, 1)), v[None]) for n, v in zip("abcd", [*views, *unlike], strict=True)
    ]
    several = SeveralViews(tuple(described[:2]), tuple(described[2:]), Best(margin=margin))
    query = several.query(lambda: vectors)

    def search(k: int) -> SearchResult:
        return index.search(query, k, where=where)

    found = several.result(several.less_unlike(query, search, index, 20, where), index)
    positive, negative = (vectors @ views.T).max(1), (vectors @ unlike.T).max(1)
    expected = positive - np.maximum(0, negative - positive + margin)
    if where:
        expected[np.arange(600) % 3 != 1] = -np.inf
    best = expected.reshape(-1, 3).max(1)
    order = np.argsort(-best, kind="stable")[:20]
    assert [hit.image for hit in found] == [str(n) for n in order]
    assert [hit.score for hit in found] == pytest.approx(best[order].tolist(), abs=1e-5)
    rows = [int(hit.image) * 3 + int(hit.box[0]) for hit in found]
    assert rows == [3 * n + int(expected[3 * n : 3 * n + 3].argmax()) for n in order]
    assert [hit.view for hit in found] == (vectors[rows] @ views.T).argmax(1).tolist()
    assert [view.image for view in found.unlike] == ["c", "d"]
    if margin == 0.8:
        assert [hit.image for hit in found] != [hit.image for hit in search(20)]


def test_a_counter_example_pushes_its_object_down(photos: Path, retrieval: Retrieval) -> None:
    like = [View(photos / f"{n}.png", [PLACES[n]]) for n in (0, 1)]
    for combine in ("best", "best,margin=0.2", "classifier"):
        plain = scores(retrieval.search(like=like, combine=combine))
        found = retrieval.search(like=like, unlike=[View(photos / "4.png", [PLACES[1]])], combine=combine)
        assert scores(found)["4.png"] < plain["4.png"] - 0.01
        assert found[0].image == "0.png"
        assert found.unlike[0].boxes == (PLACES[1],)
    kept = retrieval.search(like=like, unlike=[photos / "4.png"], min_score=0.9, exclude="0.png")
    assert all(hit.score >= 0.9 for hit in kept)
    assert "0.png" not in scores(kept)


def test_rerankers_of_vectors_take_several_views(photos: Path, retrieval: Retrieval) -> None:
    like = [View(photos / f"{n}.png", [PLACES[n]]) for n in (0, 1)]
    for step in ("query_expansion,top=1", "region_match", "diffusion", "database_augmentation,top=2"):
        found = retrieval.search(like=like, rerank=[step], k=6)
        assert len(found) == 6
        assert {hit.image: hit.view for hit in found}.items() >= {"0.png": 0, "1.png": 1}.items()
        assert all(hit.query_box == PLACES[hit.view] for hit in found)
    mean = retrieval.search(like=like, rerank=["region_match"], combine="mean")
    assert all(hit.query_box == PLACES[hit.view] for hit in mean)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"expected a photo, or views in like \(--like\), found neither"),
        ({"unlike": ["0.png"]}, ValueError, "expected at least one view beside counter-examples"),
        ({"like": [("0.png", PLACES[0])]}, TypeError, r"like: expected images or objemb.View\(image, boxes\)"),
        ({"like": ["0.png"], "unlike": [["1.png"]]}, TypeError, "unlike: expected images or objemb.View"),
        ({"like": ["0.png"], "combine": "bst"}, ValueError, "did you mean 'best'"),
        ({"like": ["0.png"], "combine": "best,margin=3"}, ValueError, "margin: expected"),
        (
            {"like": ["0.png"], "unlike": ["1.png"], "rerank": ["region_match"]},
            ValueError,
            "found 'region_match'; --rerank",
        ),
        (
            {"like": ["0.png"], "combine": "classifier", "rerank": ["region_match"]},
            ValueError,
            "expected no re-rankers",
        ),
        ({"like": ["0.png"], "rerank": ["region_match,look=true"]}, ValueError, "queries whose photos can be opened"),
        ({"like": ["0.png"], "min_score": "high"}, ValueError, "min_score: expected a number"),
        ({"like": [View("0.png", [(0, 0, 500, 500)])]}, ValueError, "inside the image of 120 x 100"),
    ],
)
def test_what_is_refused(
    photos: Path,
    retrieval: Retrieval,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(error, match=message):
        retrieval.search(**arguments)


def test_a_sample_of_an_index(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    index = made(tmp_path / "made", vectors, 2)
    assert np.array_equal(index.sample(100), vectors)
    assert np.array_equal(index.sample(6), vectors[::10])
    index.delete(["0"])
    assert np.array_equal(index.sample(100), vectors[2:])
    with pytest.raises(ValueError, match="count: expected"):
        index.sample(0)
    empty = Index.create(tmp_path / "empty", schema=UnitVectors(4), fingerprint="f")
    assert empty.sample(5).shape == (0, 4)
    words = Index.create(tmp_path / "words", schema=WordRows(16, 48), fingerprint="f")
    with pytest.raises(ArtefactMismatchError, match="expected an index of"):
        words.sample(5)


def test_the_command_gives_the_same(run: Run, photos: Path, index: Path, tmp_path: Path) -> None:
    def text(number: int) -> str:
        return f"{photos / f'{number}.png'}:{','.join(map(str, PLACES[number % 3]))}"

    views = [View(photos / f"{n}.png", [PLACES[n]]) for n in (0, 1)]
    options = ("--like", text(0), "--like", text(1), "--unlike", text(4), "--combine", "best,margin=0.1", "-k", 4)
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    found = parsed(run("search", index, *options, "--json", "--html", page, "--save", sheet))
    expected = objemb.open(index).search(
        like=views, unlike=[View(photos / "4.png", [PLACES[1]])], combine="best,margin=0.1", k=4
    )
    assert found == expected.to_json()
    assert SearchResult.from_json(found) == expected
    assert "but unlike 4.png" in page.read_text()
    assert sheet.stat().st_size
    with_first = parsed(run("search", index, photos / "0.png", "--box", "5,5,45,35", *options[2:], "--json"))
    assert with_first == found
    table = run("search", index, *options).stdout.splitlines()
    assert table[0].split() == ["score", "image", "box", "view", "query", "box", "label"]
    assert "0.png" in table[1].split()[4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "QUERY: expected a photo, or views by --like, found neither"),
        (("--unlike", "0.png"), "QUERY: expected a photo"),
        (("--like", "0.png", "--auto"), "expected a QUERY that they are of"),
        (("--like", "0.png", "--exclude-self"), "expected a QUERY that they are of"),
        (("--like", "gone.png:1,2,3,4"), "like: expected a photo, found nothing at gone.png"),
        (("--like", "0.png:5,5,3,9"), "--like: expected X1,Y1,X2,Y2"),
        (("--like", "0.png", "--unlike", "1.png:0,0,500,9"), "inside the image of 120 x 100"),
    ],
)
def test_wrong_views_on_the_command_line(
    run: Run, photos: Path, index: Path, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    assert message in run("search", index, *options, code=2).stderr


def test_a_file_whose_name_looks_like_a_box(run: Run, photos: Path, index: Path) -> None:
    (photos / "0.png").rename(photos / "a:1,2,3,4")
    found = parsed(run("search", index, "--like", photos / "a:1,2,3,4", "--json"))
    assert found["query"]["boxes"] == [[0, 0, 120, 100]]
