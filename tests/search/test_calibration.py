"""Calibrated scores: how many false hits to expect, and "it is not here"."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.images.inputs import View
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.manifest import Manifest, read_manifest
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.models import load_model
from objemb.ops.upper_tail import UpperTail, fit_upper_tail
from objemb.search import calibration as module
from objemb.search.calibration import calibrate, refresh_calibration
from objemb.search.combiners.base import unit
from objemb.search.opening import open_retrieval
from objemb.structures import RegionDescriptors, Regions
from objemb.types import Float32Array
from tests.cli.conftest import PLACES, Run, draw, parsed

DIM, OBJECTS, PHOTOS = 32, 120, 3
MADE = Calibration(UpperTail(0.5, 0.25, 0.05, -0.1, (0.0, 0.5)), 200, 100, 6, 6, {"instance": "label", "queries": 200})


def vectors_of(objects: int, photos: int, seed: int = 0) -> Float32Array:
    """Vectors ``(objects * photos, DIM)`` of photos of objects, those of one object close to each other."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(objects, 1, DIM))
    return unit((centres + 0.3 * random.normal(size=(objects, photos, DIM))).reshape(-1, DIM).astype(np.float32))


def add(index: Index, vectors: Float32Array, first: int = 0, prefix: str = "") -> None:
    with index.writer() as writer:
        for number, vector in enumerate(vectors):
            name = f"object{first + number // PHOTOS}"
            regions = Regions(np.array([[0, 0, 9, 9]], np.float32), (9, 9), labels=np.zeros(1, int), classes=(name,))
            writer.add(RegionDescriptors(f"{prefix}{first}.{number}", regions, vector[None], {"product": name}))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "vectors", schema=UnitVectors(DIM), fingerprint="f")
    add(made, vectors_of(OBJECTS, PHOTOS))
    return made


@pytest.mark.parametrize("instance", ["product", "label"])
def test_asked_and_found_rates_agree(index: Index, instance: str) -> None:
    made = calibrate(index, instance=instance)
    assert (made.queries, made.objects) == (OBJECTS * PHOTOS, OBJECTS)
    assert Index.open(index.path).calibration == made
    absent = unit(np.random.default_rng(9).normal(size=(3000, DIM)).astype(np.float32))
    best = (absent @ index.dense_rows().vectors.T).max(axis=1)
    for asked in (0.3, 0.1, 0.03):
        found = float((best >= made.score_of(asked, 1, len(index))).mean())
        assert asked / 2 < found < 2 * asked, f"asked {asked}, found {found}"  # fitted to 120 objects
    present = vectors_of(OBJECTS, PHOTOS)[::PHOTOS]
    own = (present @ index.dense_rows().vectors.T).reshape(OBJECTS, OBJECTS, PHOTOS)[range(OBJECTS), range(OBJECTS), 1]
    assert (own >= made.score_of(0.03, 1, len(index))).mean() > 0.9


def test_own_photos_of_an_object_do_not_count(index: Index) -> None:
    """Against a comparison of each row with all rows of other objects."""
    asked = list(module._leaving_out(index, "product", 1000))
    rows = index.dense_rows()
    owner = np.arange(OBJECTS * PHOTOS) // PHOTOS
    products = np.where(owner[:, None] == owner[None], -2, rows.vectors @ rows.vectors.T)
    assert sorted(module._best_scores(index, asked).values()) == pytest.approx(
        sorted(products.max(axis=1).tolist()), abs=1e-6
    )


def test_which_box_a_name_belongs_to(tmp_path: Path) -> None:
    """Photos with a name and three boxes: the one that is like a box of another photo of this name."""
    index = Index.create(tmp_path / "several", schema=UnitVectors(DIM), fingerprint="f")
    objects, clutter = vectors_of(4, 3), vectors_of(36, 1, 5)
    with index.writer() as writer:
        for number in range(12):
            vectors = np.stack([clutter[2 * number], clutter[2 * number + 1], clutter[24 + number]])
            vectors[number % 3] = objects[number]
            boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (3, 1))
            writer.add(RegionDescriptors(str(number), Regions(boxes, (9, 9)), vectors, {"product": number // 3}))
        alone = Regions(np.tile(np.array([[0, 0, 9, 9]], np.float32), (2, 1)), (9, 9))
        writer.add(RegionDescriptors("alone", alone, clutter[:2], {"product": "once"}))  # nothing says which box
    asked = list(module._leaving_out(index, "product", 1000))
    assert len(asked) == 12
    for one in asked:
        np.testing.assert_array_equal(one.row.vectors[0], objects[int(one.row.image)])
        assert one.left_out == {str(n) for n in range(12) if n // 3 == int(one.row.image) // 3}


def test_images_that_share_any_labelled_object_are_left_out(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "labels", schema=UnitVectors(DIM), fingerprint="f")
    vectors = vectors_of(6, 1)
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (2, 1))
    with index.writer() as writer:
        for number, names in enumerate((("a", "b"), ("b", "c"), ("c", "d"))):
            regions = Regions(boxes, (9, 9), labels=np.arange(2), classes=names)
            writer.add(RegionDescriptors(str(number), regions, vectors[2 * number : 2 * number + 2]))
    asked = {(one.row.image, one.shows): one.left_out for one in module._leaving_out(index, "label", 1000)}
    assert asked["0", "a"] == asked["0", "b"] == {"0", "1"}
    assert asked["1", "c"] == {"0", "1", "2"}


def test_rows_and_growth() -> None:
    reached = 0.25 * (1 - 0.1 * 2) ** 10  # two scales above the threshold
    alone = MADE.expected_false(0.6, 1, 6)
    assert alone == pytest.approx(-math.log(1 - reached))
    assert MADE.expected_false(0.6, 3, 12) == pytest.approx(6 * alone)
    assert MADE.score_of(alone, 1, 6) == pytest.approx(0.6)
    assert MADE.score_of(6 * alone, 3, 12) == pytest.approx(0.6)
    assert MADE.expected_false(1.0, 1, 6) == pytest.approx(-math.log(1 - 1 / 200))  # the fewest that can be estimated
    assert MADE.expected_false(-1.0, 1, 6) == pytest.approx(-math.log(1 / 200))
    with pytest.raises(
        ValueError, match=r"expected at least 0.0201, the fewest that a calibration with 200 boxes can estimate"
    ):
        MADE.check_estimable(0.01, 4, 6)


def test_it_is_kept_by_what_changes_an_index_and_read_where_it_is_missing(index: Index) -> None:
    made = calibrate(index, instance="product", queries=100)
    assert made.queries == 100
    index.delete(["0.0"])
    index.compact()
    assert Index.open(index.path).calibration == made
    assert index.verify() == []
    assert index.info()["calibration"] == made.to_json()
    data = read_manifest(index.path).to_json()
    assert Manifest.from_json(json.loads(json.dumps(data))) == read_manifest(index.path)
    del data["calibration"]  # as an older version writes it
    assert Manifest.from_json(data).calibration is None  # type: ignore[arg-type]
    index.set_calibration(None)
    assert "calibration" not in read_manifest(index.path).to_json()


@pytest.mark.parametrize(
    "change", [{"scale": 0}, {"queries": "many"}, {"source": 3}, {"threshold": None}, {"body": [1]}]
)
def test_a_wrong_one_is_damage(index: Index, change: dict[str, Any]) -> None:
    from objemb.index.storage import manifest

    body = {**read_manifest(index.path).to_json(), "calibration": {**MADE.to_json(), **change}}
    with pytest.raises(DamagedIndexError, match="cannot be understood"):
        manifest._parsed(index.path, json.dumps(body).encode(), 2)


def test_a_quarter_of_new_images(index: Index) -> None:
    notes: list[str] = []

    def refresh() -> Calibration | None:
        refresh_calibration(index, None, notes.append)  # type: ignore[arg-type]
        return index.calibration

    assert refresh() is None
    made = calibrate(index, instance="product", queries=150)
    add(index, vectors_of(30, PHOTOS, 1), OBJECTS)
    assert refresh() == made
    assert notes == []
    add(index, vectors_of(20, PHOTOS, 2), OBJECTS + 30)
    newer = refresh()
    assert newer is not None
    assert (newer.images, newer.queries) == (170 * PHOTOS, 150)
    assert notes == ["calibrating the scores anew"]
    gone = replace(newer, next_image=0, source={"on": ["/gone"], "queries": 150})
    index.set_calibration(gone)
    assert refresh() == gone
    assert "note: the calibration is that of 510 images: model: expected the model" in notes[-1]


def test_too_little_to_tell(tmp_path: Path, index: Index) -> None:
    with pytest.raises(ValueError, match="found neither"):
        calibrate(index)
    with pytest.raises(ValueError, match="found both"):
        calibrate(index, instance="product", on=["photos"])
    with pytest.raises(ValueError, match="found no image with 'shop'"):
        calibrate(index, instance="shop")
    with pytest.raises(ValueError, match="queries: expected an integer of 100 or more"):
        calibrate(index, instance="product", queries=10)
    with pytest.raises(ValueError, match="model: expected the model of the index"):
        calibrate(index, on=["photos"])
    few = Index.create(tmp_path / "few", schema=UnitVectors(DIM), fingerprint="f")
    add(few, vectors_of(10, PHOTOS))
    with pytest.raises(ValueError, match="expected at least 50 images to tell, found 30"):
        calibrate(few, instance="product")
    add(few, vectors_of(10, PHOTOS, 1), 10)
    with pytest.raises(ValueError, match=r"expected at least 100 query rows .* found 60"):
        calibrate(few, instance="product")
    words = Index.create(tmp_path / "words", schema=WordRows(16, 48), fingerprint="f")
    with pytest.raises(ArtefactMismatchError, match="expected an index of vectors"):
        calibrate(words, instance="product")


def test_other_photos(run: Run, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command: of photos that are not in the index, and of one that is, which does not find itself."""
    monkeypatch.setattr(module, "MIN_IMAGES", 5)
    monkeypatch.setattr(module, "MIN_QUERIES", 20)
    run("index", photos, "-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    others = tmp_path / "others"
    others.mkdir()
    for number in range(23):
        draw(others / f"{number}.png", number % 6, seed=7 + number)
    result = run("calibrate", tmp_path / "index", "--on", others, "--on", photos / "0.png")
    assert "calibrated by 24 boxes of 24 photos" in result.stdout
    assert "1 false photos are expected from a score of" in result.stdout
    assert "0.1 false photos are expected from a score of" in result.stdout
    assert "0.01 false" not in result.stdout
    assert "24 photos tell little of others" in result.stderr
    index = Index.open(tmp_path / "index")
    made = index.calibration
    assert made is not None
    assert (made.queries, made.objects, made.images) == (24, 24, 6)
    assert made.source == {"on": [str(others), str(photos / "0.png")], "queries": 1000}
    loaded = load_model(model)
    rows = [*map(loaded.describe, sorted(others.iterdir())), loaded.describe(photos / "0.png")]
    best = [index.search(row, 1, exclude="0.png" if n == 23 else ()).hits[0].score for n, row in enumerate(rows)]
    again = fit_upper_tail(np.array(best))
    assert (made.best.threshold, made.best.scale) == pytest.approx((again.threshold, again.scale), abs=1e-5)
    assert "by 24 boxes of 24 objects or photos, in 6 images" in run("info", tmp_path / "index").stdout
    (photos / "new.png").write_bytes((photos / "1.png").read_bytes())
    draw(photos / "newer.png", 2, seed=3)
    grown = run("index", photos, "-o", tmp_path / "index", "--model", model)
    assert "calibrating the scores anew" in grown.stderr
    newer = Index.open(tmp_path / "index").calibration
    assert newer is not None
    assert newer.images == 8
    unnamed = run("calibrate", tmp_path / "index", "--instance", "label", code=2).stderr
    assert "expected labels of boxes that name objects, found no image with 'label'" in unnamed


@pytest.fixture
def searched(run: Run, photos: Path, model: Path, tmp_path: Path) -> Path:
    run("index", photos, "-o", tmp_path / "index", "--model", model, "--boxes", tmp_path / "boxes.json")
    Index.open(tmp_path / "index").set_calibration(MADE)
    return tmp_path / "index"


def test_hits_say_how_many_false_ones_to_expect(run: Run, photos: Path, searched: Path) -> None:
    retrieval = open_retrieval(searched)
    found = retrieval.search(photos / "1.png", [PLACES[1], PLACES[0]])
    assert [hit.p_false for hit in found] == [MADE.expected_false(hit.score, 2, 6) for hit in found]
    limit = found[2].p_false
    assert limit is not None
    cut = retrieval.search(photos / "1.png", [PLACES[1], PLACES[0]], at_most_false=limit * 1.01)
    assert cut.hits == tuple(hit for hit in found if (hit.p_false or 0) <= limit * 1.01)
    like = [View(photos / "1.png", [PLACES[1]]), View(photos / "0.png", [PLACES[0]])]
    together = retrieval.search(like=like, at_most_false=0.5)
    assert all((hit.p_false or 1) <= 0.5 for hit in together)
    assert [hit.p_false for hit in together] == [MADE.expected_false(hit.score, 2, 6) for hit in together]
    for quiet in ({"rerank": ["region_match"]}, {"like": like, "combine": "mean"}):
        assert {hit.p_false for hit in retrieval.search(photos / "1.png", **quiet)} == {None}  # type: ignore[arg-type]
    table = run("search", searched, photos / "1.png", "--box", "60,20,110,70").stdout
    assert "p false: expected number of photos without the object" in table
    command = parsed(
        run("search", searched, photos / "1.png", "--box", "60,20,110,70", "--at-most-false", 0.5, "--json")
    )
    assert command == retrieval.search(photos / "1.png", [PLACES[1]], at_most_false=0.5).to_json()


def test_it_is_not_here(run: Run, photos: Path, searched: Path) -> None:
    high = replace(MADE, best=UpperTail(1.5, 0.25, 0.01, 0.0, (1.4, 1.5)))  # above all cosines
    Index.open(searched).set_calibration(high)
    options = (photos / "1.png", "--box", "60,20,110,70", "--at-most-false", 0.01)
    said = run("search", searched, *options, code=0).stdout
    assert said == "not here: no photo has a score from which on 0.01 false photos or fewer are expected\n"
    assert parsed(run("search", searched, *options, "--json"))["hits"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rerank": ["region_match"]}, "at_most_false: expected no re-rankers, .* found 'region_match'"),
        ({"like": True, "combine": "mean"}, "at_most_false: expected the combiner 'best', .* found 'mean'"),
        ({"at_most_false": 1e-9}, "at_most_false: expected at least 0.005"),
        ({"at_most_false": -1}, "at_most_false: expected a number above 0"),
    ],
)
def test_what_cannot_be_estimated(photos: Path, searched: Path, arguments: dict[str, Any], message: str) -> None:
    given = {"at_most_false": 0.01, **arguments}
    if "like" in given:
        given["like"] = [photos / "0.png"]
    with pytest.raises(ValueError, match=message):
        open_retrieval(searched).search(photos / "1.png", **given)


def test_an_index_that_is_not_calibrated(run: Run, photos: Path, searched: Path) -> None:
    Index.open(searched).set_calibration(None)
    error = run("search", searched, photos / "1.png", "--at-most-false", 0.1, code=2).stderr
    assert "expected a calibrated index" in error
    assert "'objemb calibrate' makes one" in error
