from __future__ import annotations

import pytest
import torch

from objemb import registry
from objemb.describers.class_weighted import ClassWeighted
from objemb.rerank.class_localization import ClassLocalization
from objemb.structures import Regions
from tests.rerank.looking import blobs, photo, searched
from tests.rerank.made import names, scores
from tests.rerank.test_region_rerank import describer as pooled


@pytest.fixture(scope="module")
def describer() -> ClassWeighted:
    torch.manual_seed(0)
    settings = {
        "name": "class_weighted",
        "backbone": {"name": "torchvision_cnn", "arch": "resnet18", "classes": True},
        "extractor": {"name": "map", "size": 96},
        "classes": 3,
    }
    return registry.build("describers", settings)


PHOTOS = [photo(blobs(n), str(n)) for n in (1, 2, 3)]


def test_scores_are_those_of_the_best_of_the_boxes(describer: ClassWeighted) -> None:
    before = searched(describer, PHOTOS[0], (10, 20, 120, 150), PHOTOS)
    after = ClassLocalization(mixed=0).rerank(before)
    assert sorted(names(after)) == ["1", "2", "3"]
    for hit in after.results[0]:
        found = PHOTOS[int(hit.image) - 1]
        box = Regions(torch.tensor([hit.box]), found.size)
        vector = describer.describe([found], [box])[0].vectors[0]
        assert hit.score == pytest.approx(float(vector @ before.queries[0].vectors[0]), abs=1e-4)
    one = ClassLocalization(mixed=0, thresholds=[0.2]).rerank(before)
    assert {h.image: h.score for h in one.results[0]}.keys() == {"1", "2", "3"}
    for hit in one.results[0]:
        several = next(h for h in after.results[0] if h.image == hit.image)
        assert several.score >= hit.score - 1e-6, "more thresholds, more boxes to choose from"


def test_expansion(describer: ClassWeighted) -> None:
    after = ClassLocalization(mixed=2).rerank(searched(describer, PHOTOS[0], (0, 0, 160, 160), PHOTOS))
    assert scores(after) == sorted(scores(after), reverse=True)
    assert names(after)[0] == "1"


def test_it_needs_class_maps() -> None:
    with pytest.raises(TypeError, match="class_localization: expected class_weighted, found PooledRegions"):
        ClassLocalization().rerank(searched(pooled(), PHOTOS[0], (0, 0, 9, 9), PHOTOS))
    with pytest.raises(ValueError, match="thresholds"):
        ClassLocalization(thresholds=[2.0])
