from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from objemb.describers.one_pass import OnePass
from objemb.heads.embedding import EmbeddingHead
from objemb.layers.whitening import Whitening
from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Search
from objemb.rerank.chamfer import Chamfer
from objemb.structures import Regions
from tests.detectors.test_faster_rcnn import tiny
from tests.rerank.test_joint_factorization import PHOTOS, Blind, search
from tests.tiny import random_photo

MINIMAL = {"top": 2, "size": 32}
NEEDS_PHOTOS = True


def test_the_best_cells_of_both_boxes_by_hand() -> None:
    cosines = torch.tensor([[[1.0, 0.0], [0.5, 0.25], [0.0, 0.75]], [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]])
    rows, columns = (1 + 0.5 + 0.75) / 3, (1 + 0.75) / 2
    assert Chamfer().similarity(cosines).tolist() == pytest.approx([(rows + columns) / 2, 0.5])


def test_photos_with_the_colour_of_the_box_come_first() -> None:
    before = search()
    after = Chamfer(size=24, weight=1.0).rerank(before)
    # the query box is red; the hits' boxes are whole photos, of which the first two have red parts
    assert {hit.image for hit in after.results[0].hits[:2]} == {"a", "b"}
    assert after.results[0].hits[0].score <= 1.0 + 1e-6
    scores = [hit.score for hit in after.results[0]]
    assert scores == sorted(scores, reverse=True)


def test_the_weight_mixes_old_and_new_scores() -> None:
    before = search()
    old = {hit.image: hit.score for hit in before.results[0]}
    new = {hit.image: hit.score for hit in Chamfer(size=24, weight=1.0).rerank(before).results[0]}
    mixed = {hit.image: hit.score for hit in Chamfer(size=24, weight=0.25).rerank(before).results[0]}
    assert mixed == pytest.approx({image: 0.75 * old[image] + 0.25 * new[image] for image in old}, abs=1e-5)
    same = Chamfer(size=24, weight=0.0).rerank(before).results[0]
    assert [hit.image for hit in same] == [hit.image for hit in before.results[0]]


def test_only_the_first_are_compared_and_a_photo_that_has_gone_comes_behind() -> None:
    before = search()

    def gone(image: str) -> object:
        if image == before.results[0].hits[0].image:
            raise FileNotFoundError(image)
        return {photo.id: photo for photo in PHOTOS}[image]

    database = replace(before.database, open_photo=gone)
    after = Chamfer(top=2, size=24).rerank(replace(before, database=database))
    assert after.results[0].hits[0].image == before.results[0].hits[1].image
    assert {hit.image for hit in after.results[0]} == {hit.image for hit in before.results[0]}


def test_cells_are_whitened_as_vectors_are() -> None:
    before = search()
    describer = before.needed_describer()
    rows = torch.nn.functional.normalize(torch.rand(20, 3), dim=1)
    whitened = describer.whitened(Whitening.fit(rows, dim=2, fitted_on="test"))
    plain = Chamfer(size=24, weight=1.0).rerank(before).results[0]
    other = Chamfer(size=24, weight=1.0).rerank(replace(before, describer=whitened)).results[0]
    assert not np.allclose([h.score for h in plain], [h.score for h in other])


def test_a_student_is_compared_by_the_trunk_of_its_detector() -> None:
    student = OnePass(detector=tiny(), head=EmbeddingHead(dim=8, width=16), min_score=0.0)
    photos = [random_photo(48, 64, seed=n, id=str(n)) for n in range(3)]
    box = Regions([[4, 4, 40, 40]], (48, 64))
    described = student.describe(photos, [box] * 3)
    database = DenseDatabase.of(described, 8, {p.id: p for p in photos}.__getitem__)
    results = database.search(described[:1], 3)
    found = Search(tuple(described[:1]), tuple(results), database, student, lambda number: photos[0])
    own = Chamfer(size=64, weight=1.0).rerank(found).results[0]
    assert [own.hits[0].image, len(own)] == ["0", 3]
    assert own.hits[0].score == pytest.approx(1.0, abs=1e-5), "the same box"
    assert own.hits[1].score < 1


def test_a_describer_without_a_network() -> None:
    with pytest.raises(ValueError, match="chamfer: expected a describer with a backbone, such as pooled_regions"):
        Chamfer().rerank(search(describer=Blind()))


def test_settings() -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        Chamfer(weight=1.5)
