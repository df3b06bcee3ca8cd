"""Indexes of visual words, from photos to hits with boxes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import objemb
from objemb.checks import ArtefactMismatchError
from objemb.images.inputs import View
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.models import Model, build_model, fit_parts
from objemb.models.row_schema import row_schema
from objemb.rerank.base import Reranker
from objemb.search.indexing import Job
from objemb.search.retrieval import Retrieval
from objemb.search.words import search_words, stored_words
from objemb.structures import Box, Regions, SearchResult, VisualWords, WordPlaces
from tests.models.conftest import BACKBONE, SETTINGS

LOCAL: dict[str, Any] = {
    "name": "local",
    "local_features": {
        "name": "dense",
        "backbone": {**BACKBONE, "layer": "features.1"},
        "size": 96,
        "scales": [1.0],
        "count": 400,
        "smoothing": 1,
        "dim": 16,
    },
    "regions": {"name": "rmac_grid", "levels": 2},
}
ASMK: dict[str, Any] = {"name": "asmk", "words": 48, "query_assignments": 1, "form": "regional", "positions": True}


def noise(seed: int, side: int) -> np.ndarray:
    """Coloured squares of 4 x 4 pixels."""
    squares = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return squares.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of 96 x 96 pixels; the lower right quarter of number 3 is the upper left one of ``query``."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = {str(n): noise(n, 96) for n in range(6)}
    query = noise(7, 96)
    pictures["3"][48:, 48:] = query[:48, :48]
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(query).save(folder.parent / "query.png")
    return folder


@pytest.fixture(scope="module")
def query(photos: Path) -> Path:
    return photos.parent / "query.png"


def fitted(photos: Path, **aggregator: object) -> Model:
    return fit_parts(build_model({"describer": LOCAL, "aggregator": {**ASMK, **aggregator}}), [photos])


@pytest.fixture(scope="module")
def model(photos: Path) -> Model:
    return fitted(photos)


def indexed(model: Model, photos: Path, folder: Path) -> Index:
    index = Index.create(folder, schema=row_schema(model), fingerprint=model.fingerprint, model=model.about)
    Job(index, model, [photos]).run()
    return index


@pytest.fixture(scope="module")
def index(model: Model, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return indexed(model, photos, tmp_path_factory.mktemp("index") / "words")


BOX = (0.0, 0.0, 48.0, 48.0)


def test_a_box_is_found_where_it_is(model: Model, index: Index, query: Path) -> None:
    result = Retrieval(model, index).search(query, [BOX], k=3)
    assert result[0].image == "3.png"
    assert result.scale == "match kernel of visual words"
    assert (result[0].query_box, len(result)) == (BOX, 3)
    x1, y1, x2, y2 = result[0].box
    assert x2 == y2 == 96, "the region that holds it, not the whole photo"
    assert min(x1, y1) > 0


def test_verification_opens_no_photo(model: Model, index: Index, query: Path, photos: Path) -> None:
    pytest.importorskip("cv2")
    retrieval = Retrieval(model, index)
    (photos / "3.png").rename(photos / "gone")
    try:
        result = retrieval.search(query, [BOX], k=2, rerank=["spatial_verification,tolerance=2"])
    finally:
        (photos / "gone").rename(photos / "3.png")
    assert result[0].image == "3.png"
    assert result[0].score >= 8
    assert result[0].box == retrieval.search(query, [BOX], k=1)[0].box, "the region that words have found stays"
    least = result[0].score
    assert len(retrieval.search(query, [BOX], rerank=["spatial_verification,tolerance=2"], min_score=least)) == 1


def test_filters_and_what_is_left_out(model: Model, index: Index, query: Path) -> None:
    retrieval = Retrieval(model, index)
    assert [hit.image for hit in retrieval.search(query, [BOX], where="image='1.png'")] == ["1.png"]
    assert "3.png" not in [hit.image for hit in retrieval.search(query, [BOX], exclude="3.png")]
    best = retrieval.search(query, [BOX])[0].score
    assert [hit.image for hit in retrieval.search(query, [BOX], min_score=best)] == ["3.png"]


def signs(*numbers: list[int]) -> np.ndarray:
    return np.packbits(np.array(numbers).reshape(-1, 8) > 0, axis=1)


ALIKE = [1, 1, 0, 0, 1, 0, 1, 0]


def labelled(image: str) -> VisualWords:
    """A cup on the left with one of five words and three others, a jar on the right with four of the five words."""
    regions = Regions(
        [[0, 0, 80, 40], [0, 0, 40, 40], [40, 0, 80, 40]], (40, 80), labels=[-1, 0, 1], classes=("cup", "jar")
    )
    words = np.arange(8, dtype=np.int32)
    points = np.array([[20, 20], [50, 5], [60, 15], [70, 25], [75, 35], [5, 5], [5, 9], [9, 5]], np.float32)
    places = WordPlaces(words, points, signs(*[ALIKE] * 8))
    ones = np.ones(8, np.float32)
    return VisualWords(
        image, regions, 8, np.zeros(8, np.int64), words, signs(*[ALIKE] * 8), ones, np.ones(3, np.float32), places
    )


def test_a_filter_on_labels_says_where_it_may_match(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", schema=WordRows(8, 9, positions=True), fingerprint="model")
    with index.writer() as writer:
        writer.add(labelled("a"))
        writer.add(replace(labelled("b"), regions=Regions([[0, 0, 80, 40]] * 3, (40, 80))))
    every = labelled("q")
    few = every.words < 5
    kept = {name: getattr(every, name)[few] for name in ("rows", "words", "residuals", "weights")}
    query = replace(every, places=None, **kept)[:1]

    def search(where: str | None, *rerankers: Reranker) -> SearchResult:
        found = partial(index.search, query, where=where)
        return search_words(index, query, found, 5, rerankers, None, where)

    anywhere = {hit.image: hit for hit in search(None)}
    assert (anywhere["a"].label, anywhere["a"].box) == ("jar", (40, 0, 80, 40))
    assert [(hit.image, hit.label, hit.box) for hit in search("label = cup")] == [("a", "cup", (0, 0, 40, 40))]
    assert [(hit.image, hit.label) for hit in search("label = jar")] == [("a", "jar")]
    assert {hit.image for hit in search("image != a")} == {"b"}
    assert index.fitting("a", "label = cup").tolist() == [False, True, False]
    with pytest.raises(KeyError):
        index.fitting("nowhere", "label = cup")
    cup = stored_words(index, "a", "label = cup").places
    assert cup is not None
    assert cup.words.tolist() == [0, 5, 6, 7]
    everywhere = stored_words(index, "a", "image = a").places
    assert everywhere is not None
    assert len(everywhere) == 8


def test_each_photo_is_found_by_the_view_that_matches_it_best(
    model: Model, index: Index, query: Path, photos: Path
) -> None:
    """Several views of visual words: those of the best of separate searches."""
    retrieval = Retrieval(model, index)
    right: Box = (48, 48, 96, 96)
    asked = [(0, query, BOX), (0, query, right), (1, photos / "1.png", right)]
    separate = [{hit.image: hit for hit in retrieval.search(photo, [box])} for _, photo, box in asked]
    result = retrieval.search(like=[View(query, [BOX, right]), View(photos / "1.png", [right])])
    assert {hit.image for hit in result} == {image for hits in separate for image in hits}
    assert len({hit.view for hit in result}) == 2
    for hit in result:
        scores = [hits[hit.image].score if hit.image in hits else 0 for hits in separate]
        best = int(np.argmax(scores))
        assert hit.score == pytest.approx(max(scores), rel=1e-6)
        assert (hit.view, hit.query_box) == (asked[best][0], asked[best][2])
        assert hit.box == separate[best][hit.image].box
    first = next(hit for hit in result if hit.image == "3.png")
    assert (first.view, first.query_box) == (0, BOX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"combine": "mean"}, "combine: expected 'best', since visual words of several photos .* found 'mean'"),
        ({"combine": "classifier"}, "combine: expected 'best', since visual words .* found 'classifier'"),
        ({"rerank": ["spatial_verification"]}, "spatial_verification: expected a query of a single photo"),
        ({"unlike": True}, "unlike: expected a model of vectors, .* found visual words"),
    ],
)
def test_views_of_words_that_cannot_be_combined(
    model: Model, index: Index, query: Path, photos: Path, arguments: dict[str, Any], message: str
) -> None:
    if "unlike" in arguments:
        arguments = {"unlike": [photos / "1.png"]}
    with pytest.raises(ValueError, match=message):
        Retrieval(model, index).search(query, [BOX], like=[photos / "0.png"], **arguments)


def test_re_rankers_of_vectors_are_refused(model: Model, index: Index, query: Path) -> None:
    with pytest.raises(ValueError, match="such as 'spatial_verification', found 'query_expansion', which takes vector"):
        Retrieval(model, index).search(query, rerank=["query_expansion"])


def test_every_region_as_an_item(photos: Path, query: Path, tmp_path: Path) -> None:
    model = fitted(photos, form="items", positions=False)
    index = indexed(model, photos, tmp_path / "index")
    result = Retrieval(model, index).search(query, [BOX], k=2)
    assert result[0].image == "3.png"
    assert result[0].box[2:] == (96, 96)
    assert min(result[0].box[:2]) > 0
    stored = index.get("3.png")
    assert isinstance(stored, VisualWords)
    assert len(set(stored.rows.tolist())) > 1


def test_without_positions_the_photo_is_what_matched(photos: Path, query: Path, tmp_path: Path) -> None:
    model = fitted(photos, positions=False)
    index = indexed(model, photos, tmp_path / "index")
    result = Retrieval(model, index).search(query, [BOX], k=1)
    assert (result[0].image, result[0].box) == ("3.png", (0, 0, 96, 96))
    with pytest.raises(ValueError, match="expected a query of a single photo with the places of local features"):
        Retrieval(model, index).search(query, rerank=["spatial_verification"])


def test_other_kinds_of_models_are_named(model: Model, index: Index, photos: Path, tmp_path: Path) -> None:
    vectors = build_model(SETTINGS)
    with pytest.raises(
        ArtefactMismatchError,
        match="expected a model of visual words, which this index holds, found the model 'pooled_regions' with the "
        "aggregator 'keep', which gives vectors of regions",
    ):
        Retrieval(vectors, index)
    with pytest.raises(ArtefactMismatchError, match="expected a model of visual words"):
        Job(index, vectors, [photos]).run()
    of_vectors = Index.create(tmp_path / "index", schema=row_schema(vectors), fingerprint=vectors.fingerprint)
    with pytest.raises(
        ArtefactMismatchError,
        match="expected a model of vectors of regions, which this index holds, found the model 'local' with the "
        "aggregator 'asmk', which gives visual words",
    ):
        Retrieval(model, of_vectors)
    model.save(tmp_path / "model")
    with pytest.raises(ArtefactMismatchError, match="found the model 'local' with the aggregator 'asmk'"):
        objemb.open(tmp_path / "index", tmp_path / "model")
    other = fitted(photos, alpha=1)
    with pytest.raises(ArtefactMismatchError, match="expected the model with fingerprint"):
        Retrieval(other, index)


def test_the_number_type_of_rows(model: Model, photos: Path) -> None:
    assert row_schema(build_model(SETTINGS), "float16").to_json()["dtype"] == "float16"
    with pytest.raises(ValueError, match="dtype: expected none for visual words of signs, a bit each, found 'float16'"):
        row_schema(model, "float16")
    numbers = build_model({"describer": LOCAL, "aggregator": {**ASMK, "binary": False}})
    assert row_schema(numbers, "float32").to_json()["dtype"] == "float32"


def test_deleting_adding_and_compacting(model: Model, photos: Path, query: Path, tmp_path: Path) -> None:
    index = indexed(model, photos, tmp_path / "index")
    index.delete(["3.png"])
    retrieval = Retrieval(model, index)
    assert "3.png" not in [hit.image for hit in retrieval.search(query, [BOX])]
    assert index.compact()
    assert Job(index, model, [photos]).run().added == 1
    assert retrieval.search(query, [BOX])[0].image == "3.png"
    assert index.verify() == []


def test_the_seed_of_torch_does_not_matter(model: Model, query: Path) -> None:
    torch.manual_seed(1)
    one = model.query(query, [BOX])
    torch.manual_seed(2)
    other = model.query(query, [BOX])
    assert isinstance(one, VisualWords)
    assert isinstance(other, VisualWords)
    assert np.array_equal(one.residuals, other.residuals)
