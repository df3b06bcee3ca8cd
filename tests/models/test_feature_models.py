"""Models of local features: built, fitted, saved, opened, and what they make of photos and boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objemb.card import read_card
from objemb.checks import ArtefactMismatchError, NotFittedError
from objemb.images.inputs import as_photo
from objemb.models import Model, build_model, fit_parts, fit_whitening, load_model
from objemb.structures import Photo, RegionDescriptors, Regions, VisualWords
from tests.models.conftest import BACKBONE, SETTINGS

DENSE: dict[str, Any] = {
    "name": "dense",
    "backbone": {**BACKBONE, "layer": "features.2"},
    "size": 80,
    "scales": [1.0, 0.5],
    "count": 60,
    "dim": 8,
}
LOCAL: dict[str, Any] = {
    "name": "local",
    "local_features": DENSE,
    "regions": {"name": "rmac_grid", "levels": 1},
}
ASMK = {"name": "asmk", "words": 8, "idf": True, "query_assignments": 2, "positions": True}


def settings(**aggregator: object) -> dict[str, Any]:
    return {"describer": LOCAL, "aggregator": {**ASMK, **aggregator}}


@pytest.fixture(scope="module")
def asmk(photos: Path) -> Model:
    return fit_parts(build_model(settings(form="regional")), [photos])


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "0.png"


def words_of(described: object, row: int = 0) -> list[int]:
    assert isinstance(described, VisualWords)
    words: list[int] = described.words[described.rows == row].tolist()
    return words


def test_parts_learn_in_their_order_and_the_model_stays_as_it_is(photos: Path) -> None:
    fresh = build_model(settings())
    before = fresh.fingerprint
    waiting = ["local_features.projection", "aggregator.codebook", "aggregator.idf"]
    assert fresh.pipeline.unfitted() == waiting
    seen: list[tuple[int, int]] = []
    fitted = fit_parts(fresh, [photos], on_step=lambda done, of: seen.append((done, of)))
    assert fitted.pipeline.unfitted() == []
    assert fresh.pipeline.unfitted() == waiting
    assert fresh.fingerprint == before != fitted.fingerprint
    assert seen[-1][0] <= seen[-1][1] == 25, "rounds of k-means"
    assert fitted.pipeline.fitted_parts()["aggregator.idf"].fitted_on.endswith(f"of 5 photos: {photos}")


def test_a_saved_model_is_the_same_model(asmk: Model, photo: Path, tmp_path: Path) -> None:
    asmk.save(tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert opened.fingerprint == asmk.fingerprint
    assert (opened.gives, opened.dim) == (VisualWords, 8)
    assert list(read_card(tmp_path / "model")["fitted"]) == [
        "local_features.projection",
        "aggregator.codebook",
        "aggregator.idf",
    ]
    one, other = asmk.describe(photo), opened.describe(photo)
    assert isinstance(one, VisualWords)
    assert isinstance(other, VisualWords)
    for name in ("words", "residuals", "weights", "scales", "rows"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert opened.pipeline.fitted_parts()["aggregator.codebook"].fitted_on.endswith(str(photo.parent))


def test_the_codebook_is_part_of_the_fingerprint(asmk: Model, tmp_path: Path) -> None:
    asmk.save(tmp_path / "model")
    other = load_model(tmp_path / "model")
    codebook = other.pipeline.fitted_parts()["aggregator.codebook"]
    codebook.get_buffer("centres")[0, 0] += 1
    assert replace(other).fingerprint != asmk.fingerprint


def test_a_model_that_has_not_learned_says_so(photo: Path, tmp_path: Path) -> None:
    fresh = build_model(settings())
    with pytest.raises(NotFittedError, match="expected a fitted part, found an unfitted one; add --fit-on PHOTOS"):
        fresh.describe(photo)
    with pytest.raises(NotFittedError, match="--fit-on"):
        fresh.save(tmp_path / "model")


def test_tensors_of_another_codebook_are_refused(asmk: Model, tmp_path: Path) -> None:
    asmk.save(tmp_path / "model")
    card = tmp_path / "model" / "model.json"
    card.write_text(card.read_text().replace('"idf": true', '"idf": false'))
    with pytest.raises(ArtefactMismatchError, match=r"tensors too many: 'aggregator\.idf\.count'"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("describer", "aggregator", "message"),
    [
        (
            LOCAL,
            {"name": "keep"},
            "aggregator: expected one of local features, which the describer 'local' gives, such as 'asmk', 'vlad', "
            "found 'keep', which takes vectors of regions",
        ),
        (
            SETTINGS["describer"],
            ASMK,
            "aggregator: expected one of vectors of regions, which the describer 'pooled_regions' gives, such as "
            "'keep', 'sum', found 'asmk', which takes local features",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(describer: object, aggregator: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model({"describer": describer, "aggregator": aggregator})


def test_local_features_have_no_whitening(asmk: Model, photos: Path) -> None:
    with pytest.raises(ValueError, match="whitening: expected a describer of vectors of regions such as 'pooled_regi"):
        fit_whitening(asmk, [photos])
    assert asmk.whitening is None


class TestQueries:
    def test_a_whole_photo_is_asmk_with_more_assignments(self, asmk: Model, photo: Path) -> None:
        query, rows = asmk.query(photo), asmk.describe(photo)
        assert isinstance(query, VisualWords)
        assert isinstance(rows, VisualWords)
        assert query.regions.boxes.tolist() == [[0, 0, 80, 60]]
        assert len(rows) > 1, "the boxes that a match may be localised in"
        assert len(words_of(query)) >= len(words_of(rows)), "two words of each feature"

    def test_a_box_has_the_features_in_it(self, asmk: Model, photo: Path) -> None:
        """By hand: the whole photo's features, of which those inside are kept."""
        boxes = [(0, 0, 40, 60), (40, 0, 80, 60), (3, 3, 4, 4)]
        query = asmk.query(photo, boxes)
        assert isinstance(query, VisualWords)
        (described,) = asmk.describer.describe([_photo(photo)], [Regions(np.array(boxes, np.float32), (60, 80))])
        assert query.regions.boxes.tolist() == [list(map(float, b)) for b in boxes]
        codebook: Any = asmk.pipeline.fitted_parts()["aggregator.codebook"]
        for row in range(3):
            inside = described.features.vectors[described.of_region(row)]
            assert words_of(query, row) == np.unique(codebook.assign(inside, 2)).tolist()
        assert words_of(query, 2) == [], "no feature lies in so small a box"

    def test_a_box_that_is_cut_out(self, asmk: Model, photo: Path) -> None:
        """It has the features of a picture of its own, at their places in the photo."""
        box = (20, 10, 60, 50)
        query = asmk.query(photo, [box], crop="crop")
        alone = asmk.query(Photo("cut", torch.as_tensor(_photo(photo).pixels)[:, 10:50, 20:60], (40, 40)))
        assert isinstance(query, VisualWords)
        assert isinstance(alone, VisualWords)
        assert words_of(query) == words_of(alone)
        assert query.places is not None
        assert alone.places is not None
        np.testing.assert_allclose(query.places.points, alone.places.points + np.array([20, 10]), atol=1e-4)
        scaled = asmk.query(photo, [box], crop="scaled")
        assert isinstance(scaled, VisualWords)
        assert scaled.places is not None
        assert len(scaled.places) < len(query.places), "fewer pixels at the scale of the photo"

    def test_a_box_that_stands_for_the_photo(self, asmk: Model, photo: Path) -> None:
        query = asmk.query(photo, [(0, 0, 10, 10), (5, 5, 60, 50)], crop="whole")
        assert words_of(query, 0) == words_of(query, 1) == words_of(asmk.query(photo))

    @pytest.mark.parametrize("crop", ["context", "crop", "scaled", "whole"])
    def test_no_boxes(self, asmk: Model, photo: Path, crop: str) -> None:
        assert len(asmk.query(photo, np.zeros((0, 4)), crop=crop)) == 0

    def test_pixels_that_a_query_needs(self, asmk: Model) -> None:
        assert asmk.query_side("context") == asmk.decode_side == 80
        assert asmk.query_side("crop") is None


def test_many_photos_as_one_by_one(asmk: Model, photos: Path) -> None:
    streamed = list(asmk.stream([photos], batch_size=3))
    assert [one.image for one in streamed] == [f"{n}.png" for n in range(5)]
    for one in streamed:
        assert words_of(one) == words_of(asmk.describe(photos / one.image))


def test_vlad_gives_vectors(photos: Path, photo: Path, tmp_path: Path) -> None:
    fresh = build_model({"describer": LOCAL, "aggregator": {"name": "vlad", "words": 4}})
    model = fit_parts(fresh, [photos])
    assert (model.gives, model.dim) == (RegionDescriptors, 4 * 8)
    rows = model.describe(photo)
    assert isinstance(rows, RegionDescriptors)
    assert rows.vectors.shape == (1, 32)
    model.save(tmp_path / "model")
    query = load_model(tmp_path / "model").query(photo, [(0, 0, 40, 60), (0, 0, 80, 60)])
    assert isinstance(query, RegionDescriptors)
    np.testing.assert_allclose(query.vectors[1], rows.vectors[0], atol=1e-6)


def _photo(path: Path) -> Photo:
    return as_photo(path, 80)
